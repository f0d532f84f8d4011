from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.consent import MAX_CONSENTS, Verdict, verdict, with_consent
from features.packed import NO_CONSENT
from features.records import MARKETING, Consent
from features.spec import DAY_MS

TTL_MS = 400 * DAY_MS


def consent(marketing: str, at: int, effective: int | None = None) -> Consent:
    return Consent(
        user_id="u",
        event_time_ms=at,
        marketing=marketing,
        effective_from_ms=at if effective is None else effective,
    )


decisions = st.builds(
    consent, st.sampled_from(MARKETING), st.integers(0, 6), st.integers(0, 6) | st.none()
)


def kept(records: Sequence[Consent]) -> np.ndarray:
    found = NO_CONSENT
    for record in records:
        found = with_consent(found, record)
    return found


def slow_verdict(records: Sequence[Consent], now_ms: int, ttl_ms: int) -> Verdict:
    """The newest of all decisions in effect, with none forgotten."""

    def newest(record: Consent) -> tuple[int, int, int]:
        return record.effective_from_ms, record.event_time_ms, MARKETING.index(record.marketing)

    effective = [record for record in records if record.effective_from_ms <= now_ms]
    if not effective:
        return Verdict.UNKNOWN
    last = max(effective, key=newest)
    return Verdict.STALE if now_ms - last.event_time_ms > ttl_ms else Verdict(last.marketing)


@given(st.lists(decisions, max_size=MAX_CONSENTS), st.integers(0, 8), st.integers(0, 4))
def test_the_verdict_equals_its_slow_twin(records, now_ms, ttl_ms):
    assert verdict(kept(records), now_ms, ttl_ms) is slow_verdict(records, now_ms, ttl_ms)


@given(st.lists(decisions, max_size=9), st.randoms(use_true_random=False))
def test_order_and_repetition_of_decisions_never_show(records, random):
    again = random.sample(records, len(records)) + records[:3]
    assert kept(again).tobytes() == kept(records).tobytes()
    assert len(kept(records)) <= MAX_CONSENTS


@given(st.lists(decisions, max_size=12), st.integers(0, 8))
def test_forgetting_old_decisions_never_grants(records, now_ms):
    found = verdict(kept(records), now_ms, TTL_MS)
    assert found in (slow_verdict(records, now_ms, TTL_MS), Verdict.UNKNOWN)


def test_no_decision_is_unknown():
    assert verdict(NO_CONSENT, 10, TTL_MS) is Verdict.UNKNOWN


@pytest.mark.parametrize(("now_ms", "expected"), [(99, "granted"), (100, "opted_out")])
def test_an_opt_out_with_notice_changes_nothing_before_its_day(now_ms, expected):
    #  5 granted      50 opted out, effective from 100
    #  |--------------|..............[
    found = kept([consent("opted_out", 50, effective=100), consent("granted", 5)])
    assert verdict(found, now_ms, TTL_MS).value == expected


def test_only_decisions_of_the_future_are_unknown():
    assert verdict(kept([consent("granted", 5, effective=100)]), 99, TTL_MS) is Verdict.UNKNOWN


def test_a_late_record_of_an_older_decision_changes_nothing():
    found = kept([consent("opted_out", 50)])
    assert verdict(with_consent(found, consent("granted", 20)), 60, TTL_MS) is Verdict.OPTED_OUT


def test_of_two_decisions_at_one_instant_the_opt_out_holds():
    found = kept([consent("opted_out", 50), consent("granted", 50)])
    assert verdict(found, 50, TTL_MS) is Verdict.OPTED_OUT


def test_a_decision_is_stale_just_after_its_time_to_live():
    found = kept([consent("granted", 1000)])
    assert verdict(found, 1000 + TTL_MS, TTL_MS) is Verdict.GRANTED
    assert verdict(found, 1001 + TTL_MS, TTL_MS) is Verdict.STALE


def test_a_decision_taken_back_to_unknown_is_unknown():
    found = kept([consent("granted", 5), consent("unknown", 6)])
    assert verdict(found, 7, TTL_MS) is Verdict.UNKNOWN

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.consent import Verdict
from features.records import Eligibility, Item
from features.spec import ENROLLMENTS
from fintrec.catalogue import NO_PRIORS, Catalogue, candidates
from fintrec.eligibility import REASONS, VERDICTS, reasons
from fintrec.policies import DEFAULT_POLICY
from tests.fintrec.surfaces import item, items

users = st.tuples(
    st.sampled_from(VERDICTS), st.sets(st.sampled_from(ENROLLMENTS)), st.integers(29, 32)
)


def reasons_of(found: list[Item], now_ms: int, *people) -> list[list[str]]:
    compiled = candidates(Catalogue.of(found), "", DEFAULT_POLICY, NO_PRIORS)
    codes = reasons(
        compiled,
        now_ms,
        np.array([VERDICTS.index(verdict) for verdict, *_ in people], np.uint8),
        np.array([sum(1 << ENROLLMENTS.index(n) for n in owned) for _, owned, _ in people], "u4"),
        np.array([days for *_, days in people], np.int64),
    )
    assert codes.dtype == np.uint8
    return [[REASONS[code] for code in row] for row in codes]


def slow_reason(one: Item, now_ms: int, verdict: Verdict, owned: set[str], days: int) -> str:
    rule = one.eligibility
    if one.valid_from_ms > now_ms:
        return "not_yet_valid"
    if one.valid_until_ms is not None and one.valid_until_ms <= now_ms:
        return "expired"
    if one.content_type == "marketing" and verdict is not Verdict.GRANTED:
        return f"consent_{verdict.value}"
    if not set(rule.requires_enrollments) <= owned:
        return "missing_enrollment"
    if set(rule.excludes_enrollments) & owned:
        return "already_enrolled"
    if days < rule.min_tenure_days:
        return "tenure_too_short"
    return ""


@given(
    st.lists(items.map(lambda i: Item(**_any_surface(i))), max_size=8),
    st.integers(0, 9),
    st.lists(users, max_size=4),
)
def test_the_first_rule_that_refuses_gives_the_reason(found, now_ms, people):
    shown = Catalogue.of(found).items
    expected = [[slow_reason(one, now_ms, *person) for one in shown] for person in people]
    assert reasons_of(found, now_ms, *people) == expected


def _any_surface(one: Item) -> dict:
    return {name: getattr(one, name) for name in one.__struct_fields__} | {"products": []}


@pytest.mark.parametrize("verdict", [v for v in VERDICTS if v is not Verdict.GRANTED])
def test_marketing_needs_a_granted_consent_and_nothing_else_does(verdict):
    found = [item(kind, content_type=kind) for kind in ("marketing", "servicing", "third_party")]
    everything = set(ENROLLMENTS)
    assert reasons_of(found, 0, (verdict, everything, 9)) == [[f"consent_{verdict.value}", "", ""]]
    assert reasons_of(found, 0, (Verdict.GRANTED, everything, 9)) == [["", "", ""]]


def test_an_item_is_shown_from_its_first_instant_to_the_one_before_its_last():
    limited = [item("a", valid_from_ms=10, valid_until_ms=20)]
    person = (Verdict.GRANTED, set(), 0)
    found = [reasons_of(limited, now, person)[0][0] for now in (9, 10, 19, 20)]
    assert found == ["not_yet_valid", "", "", "expired"]


def test_an_item_that_ended_at_the_epoch_is_expired():
    assert reasons_of([item("a", valid_until_ms=0)], 1, (Verdict.GRANTED, set(), 0)) == [
        ["expired"]
    ]


def test_an_enrollment_that_nobody_can_own_keeps_an_item_away_from_everyone():
    rule = Eligibility(requires_enrollments=["a product of tomorrow"])
    everything = (Verdict.GRANTED, set(ENROLLMENTS), 10_000)
    assert reasons_of([item("a", eligibility=rule)], 0, everything) == [["missing_enrollment"]]

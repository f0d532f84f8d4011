"""What a run reports, against slow twins that read the same arrays record by record."""

from typing import Any

import numpy as np
import pytest

from bench import measure
from bench.collector import HOPS
from bench.traffic import Load, Schedule, schedule
from fintrec.slates import FRESH, POPULARITY, TIERS

START_S = 1_700_000_000.0
WARM_S = 1.0


@pytest.fixture
def times() -> Schedule:
    load = Load(name="t", requests_per_s=100, events_per_s=60, seconds=6, num_users=40, seed=11)
    return schedule(load)


def sent_of(times: Schedule) -> dict[str, Any]:
    due = START_S + np.concatenate((times.request_s, times.event_s))
    lag = np.linspace(0.001, 0.004, len(due))
    return {
        "start_s": np.float64(START_S),
        "sent_s": due + lag,
        "stamp_ms": ((due + lag) * 1000).astype(np.int64),
        "num_requests": np.int64(len(times.request_s)),
    }


def got_of(times: Schedule, sent: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Slates in an order of their own, one lost, one doubled, some cheap; states some time after."""
    number = np.concatenate((np.delete(np.arange(len(times.request_s)), 300), [400]))
    rng.shuffle(number)
    latency = rng.uniform(0.005, 0.2, len(number))
    tier = np.where(rng.random(len(number)) < 0.1, TIERS.index(POPULARITY), TIERS.index(FRESH))
    queue = rng.integers(0, 20, len(number))
    hops = np.full((len(number), len(HOPS)), 1.0)
    hops[:, 0] = queue
    decided_ms = sent["stamp_ms"][number] + queue
    seen_ms = [
        newest_event_ms(times, times.request_user[n], times.request_s[n] - rng.uniform(0, 0.3))
        for n in number
    ]
    age = decided_ms - np.array(seen_ms)
    written_s = START_S + times.event_s + rng.uniform(0.01, 0.3, len(times.event_s))
    return {
        "number": number,
        "arrived_s": START_S + times.request_s[number] + latency,
        "tier": tier,
        "hops_ms": hops,
        "age_ms": np.where(tier == TIERS.index(FRESH), age, -1),
        "seen_ms": np.full(len(number), -1),
        "slate_bytes": np.full(len(number), 1000),
        "written_s": written_s,
        "written_user": times.event_user.copy(),
    }


def newest_event_ms(times: Schedule, user: int, before_s: float) -> int:
    """Time of the user's last event up to an instant; long ago if there is none."""
    own = times.event_s[(times.event_user == user) & (times.event_s <= before_s)]
    return int((START_S + own[-1]) * 1000) if len(own) else int((START_S - 5000) * 1000)


@pytest.fixture
def run(times: Schedule) -> tuple[Schedule, dict[str, Any], dict[str, Any]]:
    sent = sent_of(times)
    return times, sent, got_of(times, sent, np.random.default_rng(5))


Run = tuple[Schedule, dict[str, Any], dict[str, Any]]


def test_latency_counts_from_the_schedule_to_the_first_slate(run: Run) -> None:
    times, sent, got = run
    found = measure._latencies(times, sent, got, WARM_S)
    first: dict[int, float] = {}
    for number, arrived in zip(got["number"].tolist(), got["arrived_s"].tolist(), strict=True):
        first[number] = min(arrived, first.get(number, np.inf))
    expected = [
        (first[n] - START_S - at) * 1000
        for n, at in enumerate(times.request_s.tolist())
        if at >= WARM_S and n in first
    ]
    assert found == pytest.approx(expected)


def test_a_lost_and_a_doubled_slate_are_counted(run: Run) -> None:
    times, sent, got = run
    latency = measure._latencies(times, sent, got, WARM_S)
    found = measure._answers(times, got, latency, WARM_S)
    assert (found["lost"], found["doubled"]) == (1, 1)
    assert found["late_share"] == pytest.approx((latency > 120).mean(), abs=1e-5)


def test_freshness_is_what_the_schedule_and_the_ages_say(run: Run) -> None:
    times, sent, got = run
    judged = []
    for place, number in enumerate(got["number"].tolist()):
        at = times.request_s[number]
        if at < WARM_S or TIERS[got["tier"][place]] != FRESH:
            continue
        queue = int(got["hops_ms"][place, 0])
        seen_ms = sent["stamp_ms"][number] + queue - got["age_ms"][place]
        user = times.request_user[number]
        judged.append(seen_ms >= newest_event_ms(times, user, at - measure.FRESH_GAP_S))
    found = measure._freshness(times, sent, got, WARM_S)["fresh_share"]
    assert found == pytest.approx(np.mean(judged), abs=1e-5)
    assert 0 < found < 1


def test_event_to_state_is_the_first_write_after_an_event_alone(run: Run) -> None:
    times, sent, got = run
    expected = []
    for user, at in zip(times.event_user.tolist(), times.event_s.tolist(), strict=True):
        own = times.event_s[times.event_user == user]
        before = own[own < at]
        if at < WARM_S or (len(before) and at - before[-1] <= 1.0):
            continue
        writes = got["written_s"][got["written_user"] == user] - START_S
        expected.append((writes[writes >= at].min() - at) * 1000)
    found = measure._event_to_state(times, sent, got, WARM_S)
    assert found["sample"] == len(expected)
    assert found["missing"] == 0
    assert found["p50"] == pytest.approx(np.percentile(expected, 50), abs=0.01)
    assert found["max"] == pytest.approx(max(expected), abs=0.01)


def test_an_event_without_a_write_is_missing(run: Run) -> None:
    times, sent, got = run
    whole = measure._event_to_state(times, sent, got, WARM_S)
    got |= {"written_s": np.empty(0), "written_user": np.empty(0, np.int64)}
    found = measure._event_to_state(times, sent, got, WARM_S)
    assert (found["sample"], found["missing"]) == (0, whole["sample"])


def test_a_late_generator_makes_a_run_invalid(run: Run) -> None:
    times, sent, _ = run
    assert measure._lag(times, sent, WARM_S)["valid"]
    sent["sent_s"] = sent["sent_s"] + 0.03
    assert not measure._lag(times, sent, WARM_S)["valid"]


def test_the_hops_of_a_slate_add_up_to_its_latency(run: Run) -> None:
    times, sent, got = run
    got["hops_ms"][:] = np.arange(1.0, 6.0)
    got["hops_ms"][:, HOPS.index("total")] = 10.0  # queue 1, store 2, head 3, rank 4
    found = measure._hops(times, sent, got, WARM_S)
    assert [found[hop]["p50"] for hop in ("queue", "store", "head", "rank")] == [1, 2, 3, 4]
    assert set(found) == {"send", "queue", "store", "head", "rank", "emit and fetch"}

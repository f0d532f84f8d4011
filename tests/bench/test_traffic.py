"""The load of a run: reproducible, evenly spaced, with requests that follow events."""

import numpy as np
import orjson
import pytest

from bench.traffic import (
    FOLLOW_S,
    Load,
    event_records,
    request_number,
    request_records,
    schedule,
    user_id,
    user_number,
)
from features.records import Interaction, SlateRequest, Transaction
from streams.wire import decode


def load(**changes: object) -> Load:
    plain = {
        "name": "t",
        "requests_per_s": 200.0,
        "events_per_s": 40.0,
        "seconds": 5.0,
        "num_users": 1_000_000,
        "seed": 3,
    }
    return Load(**(plain | changes))  # type: ignore[arg-type]


def test_a_schedule_is_a_function_of_its_load() -> None:
    one, same, other = schedule(load()), schedule(load()), schedule(load(seed=4))
    assert np.array_equal(one.request_user, same.request_user)
    assert not np.array_equal(one.request_user, other.request_user)


def test_rates_are_kept_to_the_record() -> None:
    plan = schedule(load())
    assert len(plan.request_s) == 1000
    assert len(plan.event_s) == 200
    assert np.allclose(np.diff(plan.request_s), 1 / 200)


@pytest.mark.parametrize(("requests_per_s", "share"), [(200.0, 0.3), (8.0, 0.1)])
def test_some_events_are_followed_by_a_request_of_their_user(
    requests_per_s: float, share: float
) -> None:
    # So many users that none comes up twice by chance: who does both was made to.
    plan = schedule(load(requests_per_s=requests_per_s, seconds=50.0, num_users=10**9))
    event_of = dict(zip(plan.event_user.tolist(), plan.event_s.tolist(), strict=True))
    delays = [
        at - event_of[user]
        for user, at in zip(plan.request_user.tolist(), plan.request_s.tolist(), strict=True)
        if user in event_of
    ]
    assert len(delays) / len(plan.event_s) == pytest.approx(share, abs=0.04)
    assert min(delays) >= FOLLOW_S[0]
    if requests_per_s > 100:  # there is always a free place soon
        assert max(delays) <= FOLLOW_S[1] + 0.1


def test_records_pass_the_border_and_carry_their_users_key() -> None:
    plan = schedule(load(seconds=1.0))
    for number, (key, value) in enumerate(request_records(load(), plan, 1_000.0)):
        request = decode(value, SlateRequest)
        assert request.user_id.encode() == key
        assert request_number(request.request_id) == number
        assert user_number(request.user_id) == plan.request_user[number]
        assert request.event_time_ms == int((1_000.0 + plan.request_s[number]) * 1000)
    kinds = set()
    for is_purchase, key, value in event_records(load(), plan, 1_000.0, ["a", "b"]):
        event = decode(value, Transaction if is_purchase else Interaction)
        kinds.add(type(event))
        assert orjson.loads(value)["user_id"].encode() == key
    assert kinds == {Transaction, Interaction}


def test_a_users_number_comes_back_from_its_id() -> None:
    assert user_number(user_id(1234567)) == 1234567

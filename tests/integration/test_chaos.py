"""Servers and workers are killed and frozen in mid-stream: nothing is lost, doubled or undone.

After each fault: every request has exactly one slate id, the features of every user are the
referee's, a state's version counts its events and never went back, no hidden state is behind.
"""

import gc
import json
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from features.spec import USER_INTRADAY
from tests.integration.conftest import System, await_applied, make_judge, members, now_ms
from tests.integration.judge import FRESH
from tests.integration.referee import expected_state, intraday_of
from tests.integration.stream import Stream, VersionWatch, answers
from tests.integration.wire import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(400),
    # kafka-python leaves the sockets of refused connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

NUM_JUDGED = 8


def kill_ingest(system: System) -> None:
    kill_worker(system, "ingest-1")


def kill_score(system: System) -> None:
    kill_worker(system, "score-1")


def kill_worker(system: System, name: str) -> None:
    old = system.process(name)
    system.stack.kill(name)
    until(f"{name} is started again", lambda: system.pid(name) not in (None, old.pid), 30)


def kill_broker(system: System) -> None:
    system.stack.kill("kafka")
    system.stack.restart("kafka")


def freeze_an_ingest_worker(system: System) -> None:
    system.start_worker("ingest", "ingest-2")
    until("both workers own partitions", lambda: members(system, "ingest") == 2, 90)
    frozen = system.process("ingest-2")
    frozen.send(signal.SIGSTOP)
    try:
        until("its successor owns all partitions", lambda: members(system, "ingest") == 1, 60)
    finally:
        frozen.send(signal.SIGCONT)
    until("the thawed worker is back", lambda: members(system, "ingest") == 2, 90)
    system.stop_worker("ingest-2")


def freeze_the_store(system: System) -> None:
    store = system.process("redis")
    store.send(signal.SIGSTOP)
    try:
        time.sleep(2)
    finally:
        store.send(signal.SIGCONT)


def kill_triton(system: System) -> None:
    system.stack.kill("triton")
    system.stack.restart("triton")


FAULTS = [
    kill_ingest,
    kill_score,
    kill_broker,
    freeze_an_ingest_worker,
    freeze_the_store,
    kill_triton,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_mid_stream_loses_doubles_and_undoes_nothing(
    system: System,
    fault: Callable[[System], None],
    record_property: Callable[[str, object], None],
) -> None:
    stream = Stream(system, f"chaos-{fault.__name__}", seed=len(fault.__name__))
    with VersionWatch(system, stream.users) as watch, stream:
        stream.await_answers()
        fault(system)
        stream.await_answers()
    system.wire.settle(120)
    found, repeated = answers(system, stream.requests)
    tiers = Counter(slate["tier"] for slate in found.values())
    for name, value in (
        ("events", stream.num_events),
        ("requests", len(stream.requests)),
        ("slates_repeated", repeated),
        ("tiers", dict(tiers)),
    ):
        record_property(name, value)
    await_applied(system, stream.users, stream.refused, 90)
    assert not watch.went_back
    check_features(system, stream)
    judge_some(system, stream)
    gc.collect()  # here, where the sockets of a killed broker are excused


def check_features(system: System, stream: Stream) -> None:
    """Histories and typed features of every user are the referee's."""
    refused = stream.refused
    views = system.store.read_views(stream.users, ["user_intraday"], now_ms())
    states = system.states(stream.users)
    applied = 0
    for user, row in zip(stream.users, views, strict=True):
        expected = expected_state(system.wire.events(user), refused)
        assert states[user].history["time_ms"].tolist() == [r.time for r in expected.rows], user
        assert states[user].history["item"].tolist() == [r.tokens[0] for r in expected.rows], user
        ours = dict(zip(USER_INTRADAY.feature_names, intraday_of(expected), strict=True))
        assert row["user_intraday"].values == ours, user
        refreshes = sum(r.topic == "state_refresh.v1" for r in system.wire.events(user))
        applied += expected.version - refreshes
    assert applied == stream.num_events + len(stream.users[::2])


def judge_some(system: System, stream: Stream) -> None:
    """Slates of users whose state had moved on by then are judged on the events they had seen."""
    judge = make_judge(system, 1)
    refused = stream.refused
    judged = 0
    for request_id in reversed(stream.requests):
        slate, audit = system.wire.answer(request_id)
        if json.loads(slate)["tier"] != FRESH:
            continue
        seen = json.loads(audit)
        events = system.wire.events(json.loads(slate)["user_id"])
        judge.slate(slate, audit, expected_state(events, refused, seen["state"]["offsets"]), None)
        judged += 1
        if judged == NUM_JUDGED:
            return
    assert judged, "not one slate was scored on the user's newest state"

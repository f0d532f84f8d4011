"""Servers and workers are killed and frozen in mid-stream: nothing is lost, doubled or undone.

After each fault: every request has exactly one slate id, the features of every user are the
referee's, a state's version counts its events and never went back, no hidden state is behind.
"""

import gc
import json
import logging
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
logger = logging.getLogger(__name__)  # `--log-cli-level=info` shows the counts


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


def freeze_ingest(system: System) -> None:
    freeze_one_of_two(system, "ingest")


def freeze_score(system: System) -> None:
    freeze_one_of_two(system, "score")


def freeze_one_of_two(system: System, kind: str) -> None:
    name = f"{kind}-2"
    system.start_worker(kind, name)
    until("both workers own partitions", lambda: members(system, kind) == 2, 90)
    frozen = system.process(name)
    frozen.send(signal.SIGSTOP)
    try:
        until("its successor owns all partitions", lambda: members(system, kind) == 1, 60)
    finally:
        frozen.send(signal.SIGCONT)
    until("the thawed worker is back", lambda: members(system, kind) == 2, 90)
    system.stop_worker(name)


def freeze_the_store(system: System) -> None:
    freeze(system, "redis", 2)


def freeze_triton(system: System) -> None:
    freeze(system, "triton", 3)


def freeze(system: System, server: str, seconds: float) -> None:
    """The fault is the time itself."""
    process = system.process(server)
    process.send(signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        process.send(signal.SIGCONT)


def kill_triton(system: System) -> None:
    system.stack.kill("triton")
    system.stack.restart("triton")


# Each fault, and the flag that slates decided meanwhile must carry.
FAULTS = [
    (kill_ingest, ""),
    (kill_score, ""),
    (kill_broker, ""),
    (freeze_ingest, ""),
    (freeze_score, ""),
    (freeze_the_store, "store_unavailable"),
    (freeze_triton, "triton_unavailable"),
    (kill_triton, "triton_unavailable"),
]


@pytest.mark.parametrize(
    ("fault", "flag"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_fault_in_mid_stream_loses_doubles_and_undoes_nothing(
    system: System,
    fault: Callable[[System], None],
    flag: str,
) -> None:
    stream = Stream(system, f"chaos-{fault.__name__}", seed=len(fault.__name__))
    with VersionWatch(system, stream.users) as watch, stream:
        stream.await_answers()
        fault(system)
        stream.await_folds()
        stream.await_answers()
    system.wire.settle(120)
    found, repeated = answers(system, stream.requests)
    flags = Counter(flag for slate in found.values() for flag in slate["flags"])
    tiers = Counter(slate["tier"] for slate in found.values())
    logger.info(
        "%s events=%d requests=%d repeated=%d tiers=%s flags=%s",
        fault.__name__,
        stream.num_events,
        len(stream.requests),
        repeated,
        dict(tiers),
        dict(flags),
    )
    assert not flag or flags[flag]
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

import asyncio
from dataclasses import replace

import numpy as np
import orjson
import pytest
from aiokafka.errors import KafkaConnectionError

from features.errors import MalformedEvent, StoreUnavailable
from features.packed import UserState, pack
from streams import refresh
from streams.refresh import RefreshSweep, refresh_record, refreshed_user
from streams.topics import STATE_REFRESH
from tests.fakes import LocalModels, RecordingProducer, served, served_model
from tests.streams.workers import SETTINGS

MODEL = served_model(2, ("i0",))


class Users:
    """The store as the sweep walks it: users in pages of two."""

    def __init__(self, packed: dict[str, bytes | None]) -> None:
        self.packed = packed
        self.fail: Exception | None = None

    def scan_users(self, cursor: int, count: int) -> tuple[int, list[str]]:
        if self.fail is not None:
            raise self.fail
        names = sorted(self.packed)[cursor : cursor + 2]
        following = cursor + 2
        return (following if following < len(self.packed) else 0), names

    def read_packed(self, user_ids) -> list[bytes | None]:
        return [self.packed[user] for user in user_ids]


def state(version: int, model: int, seen: int) -> bytes:
    hidden = np.zeros(4, np.float16)
    return pack(UserState(version=version, state_version=seen, model=model, hidden=hidden))


class Slept:
    """Stands for `asyncio.sleep` and the clock: time passes only by sleeping."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 50.0
        monkeypatch.setattr(refresh.asyncio, "sleep", self.sleep)
        monkeypatch.setattr(refresh.time, "monotonic", lambda: self.now_s)

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def sweep_of(store: Users, rate: int = 100, *models) -> tuple[RefreshSweep, RecordingProducer]:
    producer = RecordingProducer()
    versions = served(LocalModels(1), *(models or (MODEL,)))
    return RefreshSweep(replace(SETTINGS, refresh_per_s=rate), store, versions, producer), producer


def asked(producer: RecordingProducer) -> list[str]:
    return [record["user_id"] for record in producer.values(STATE_REFRESH)]


def test_states_behind_of_another_model_or_unreadable_are_asked_for_and_no_others(monkeypatch):
    Slept(monkeypatch)
    store = Users(
        {
            "behind": state(5, 2, 4),
            "broken": b"\0" * 90,
            "current": state(5, 2, 5),
            "deleted": None,
            "newer": state(5, 3, 5),
            "older": state(5, 1, 5),
        }
    )
    sweep, producer = sweep_of(store)
    assert asyncio.run(sweep.sweep()) == 4
    assert asked(producer) == ["behind", "broken", "newer", "older"]
    assert all(
        record.key == orjson.loads(record.value)["user_id"].encode() for record in producer.sent
    )


def test_no_more_than_the_rate_is_asked_for(monkeypatch):
    slept = Slept(monkeypatch)
    sweep, producer = sweep_of(Users({f"u{n:02}": state(2, 1, 2) for n in range(30)}), 10)
    started = slept.now_s
    assert asyncio.run(sweep.sweep()) == 30
    assert slept.now_s - started == pytest.approx(3.0)
    assert len(set(asked(producer))) == 30


def test_without_a_model_or_a_rate_nothing_is_asked_for():
    store = Users({"u": state(2, 1, 2)})
    sweep, producer = sweep_of(store, 0)
    assert asyncio.run(sweep.sweep()) == 0
    versions = served(LocalModels(1))
    nothing = RefreshSweep(SETTINGS, store, versions, producer)
    assert asyncio.run(nothing.sweep()) == 0
    assert producer.sent == []


_REAL_SLEEP = asyncio.sleep


async def _turns(number: int) -> None:
    for _ in range(number):
        await _REAL_SLEEP(0.001)


async def _until(done) -> None:
    """Let the sweep run until it has done something, for a generous while at most."""
    async with asyncio.timeout(20):
        while not done():
            await _REAL_SLEEP(0.001)


@pytest.mark.parametrize(("is_owner", "is_asked"), [(True, False), (False, True), (False, False)])
def test_the_owner_of_the_first_partition_sweeps_and_who_is_asked_to(
    monkeypatch, is_owner, is_asked
):
    sweep, producer = sweep_of(Users({"u": state(2, 1, 2)}))

    async def session() -> None:
        await sweep.start()
        if is_asked:
            sweep.request()
        sweep.set_owner(is_owner)
        await (_until(lambda: producer.sent) if is_owner or is_asked else _turns(20))
        await sweep.stop()

    _without_waiting(monkeypatch)
    asyncio.run(session())
    assert set(asked(producer)) == ({"u"} if is_owner or is_asked else set())


def test_nothing_is_asked_for_while_triton_is_down(monkeypatch):
    triton, producer = LocalModels(1), RecordingProducer()
    versions = served(triton, MODEL)
    sweep = RefreshSweep(SETTINGS, Users({"u": state(2, 1, 2)}), versions, producer)
    triton.fail = {"ready"}
    asyncio.run(_interrupted(sweep, producer, triton.fail.clear, monkeypatch))
    assert set(asked(producer)) == {"u"}


@pytest.mark.parametrize("trouble", [StoreUnavailable("late"), OSError("reset")])
def test_a_sweep_that_broke_off_is_taken_up_again(monkeypatch, trouble):
    store = Users({"u": state(2, 1, 2)})
    sweep, producer = sweep_of(store)
    store.fail = trouble
    asyncio.run(_interrupted(sweep, producer, lambda: setattr(store, "fail", None), monkeypatch))
    assert set(asked(producer)) == {"u"}


def test_a_broker_that_was_away_does_not_end_the_sweeping(monkeypatch):
    sweep, producer = sweep_of(Users({"u": state(2, 1, 2)}))
    producer.fail = KafkaConnectionError("no broker")
    asyncio.run(_interrupted(sweep, producer, lambda: setattr(producer, "fail", None), monkeypatch))
    assert set(asked(producer)) == {"u"}


def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_seconds: float) -> None:
        await _REAL_SLEEP(0)

    monkeypatch.setattr(refresh.asyncio, "sleep", sleep)


async def _interrupted(sweep, producer: RecordingProducer, repair, monkeypatch) -> None:
    _without_waiting(monkeypatch)
    await sweep.start()
    sweep.set_owner(True)
    await _turns(20)
    assert producer.sent == []
    repair()
    await _until(lambda: producer.sent)
    await sweep.stop()


def test_a_refresh_record_names_its_user():
    record = refresh_record("u", "night")
    assert (record.topic, record.key) == (STATE_REFRESH, b"u")
    assert refreshed_user(record.value) == "u"


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'{"user_id":7}', b"nonsense", b"null"])
def test_a_refresh_record_without_a_user_is_malformed(raw):
    with pytest.raises(MalformedEvent):
        refreshed_user(raw)

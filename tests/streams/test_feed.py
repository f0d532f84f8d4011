import asyncio
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from features.errors import ModelUnavailable, StoreUnavailable
from streams import feed
from streams.feed import CannotGoOn, Progress, run_batch
from streams.topics import CLICKSTREAM
from tests.streams.workers import SETTINGS, received


class Work:
    """Does every record once `down` errors have been raised, and breaks on the poisonous ones."""

    name = "work"
    topics = (CLICKSTREAM,)
    pause_ms = 0
    max_batch = 64

    def __init__(self, poison: set[int] = frozenset(), down: list[Exception] | None = None) -> None:
        self.poison, self.down = poison, down or []
        self.refuse_down: list[Exception] = []
        self.done: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self.batches: list[int] = []

    async def handle(self, records) -> None:
        self.batches.append(len(records))
        if self.down:
            raise self.down.pop(0)
        for record in records:
            if record.offset in self.poison:
                raise KeyError(f"offset {record.offset}")
        self.done += [record.offset for record in records]

    async def refuse(self, record, error) -> None:
        if self.refuse_down:
            raise self.refuse_down.pop(0)
        self.refused.append((record.offset, repr(error)))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RETRY_S", (0.0, 0.0))


def run(work: Work, offsets) -> Work:
    asyncio.run(run_batch(work, [received(CLICKSTREAM, b"{}", offset) for offset in offsets]))
    return work


def test_a_batch_is_handled_once():
    work = run(Work(), range(3))
    assert (work.done, work.batches, work.refused) == ([0, 1, 2], [3], [])


@pytest.mark.parametrize(
    "down",
    [StoreUnavailable("late"), ModelUnavailable("late"), KafkaConnectionError(), OSError("reset")],
)
def test_a_server_that_is_down_holds_the_whole_batch_back(down):
    work = run(Work(down=[down] * 9), range(3))
    assert work.done == [0, 1, 2]
    assert work.batches == [3] * 10
    assert work.refused == []


def test_a_poisonous_record_is_set_apart_and_the_rest_goes_on_in_order():
    work = run(Work(poison={1, 3}), range(5))
    assert work.done == [0, 2, 4]
    assert work.refused == [(1, "KeyError('offset 1')"), (3, "KeyError('offset 3')")]


def test_a_record_too_large_for_its_topic_is_set_apart_and_not_waited_for():
    work = run(Work(down=[MessageSizeTooLargeError(), MessageSizeTooLargeError()]), range(2))
    assert work.batches == [2, 1, 1]
    assert [offset for offset, _ in work.refused] == [0]
    assert work.done == [1]


def test_work_that_cannot_go_on_blames_no_record():
    work = Work(down=[CannotGoOn("the folder is gone")])
    with pytest.raises(CannotGoOn, match="the folder is gone"):
        run(work, range(3))
    assert (work.done, work.refused) == ([], [])


def test_a_poisonous_record_alone_is_refused_at_once():
    work = run(Work(poison={7}), [7])
    assert (work.batches, work.done) == ([1], [])
    assert [offset for offset, _ in work.refused] == [7]


def test_a_dead_letter_that_cannot_be_written_is_tried_again():
    work = Work(poison={1})
    work.refuse_down = [KafkaConnectionError()] * 3
    run(work, range(3))
    assert work.done == [0, 2]
    assert [offset for offset, _ in work.refused] == [1]


def test_a_server_that_is_down_is_waited_for_longer_and_longer(monkeypatch):
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(feed, "RETRY_S", (0.05, 0.1, 1.0))
    monkeypatch.setattr(feed.asyncio, "sleep", sleep)
    run(Work(down=[StoreUnavailable("late")] * 5), [1])
    assert slept == [0.05, 0.1, 1.0, 1.0, 1.0]


def test_a_batch_that_is_ended_from_outside_is_neither_done_nor_refused():
    async def cancelled() -> Work:
        work = Work(down=[StoreUnavailable("late")] * 1_000_000)
        task = asyncio.create_task(run_batch(work, [received(CLICKSTREAM, b"{}", 1)]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return work

    work = asyncio.run(cancelled())
    assert (work.done, work.refused) == ([], [])


class Watch:
    """A clock in seconds for `Progress`."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.progress = Progress(lambda: self.now_s)

    def later(self, seconds: float) -> None:
        self.now_s += seconds

    def stuck(self) -> str | None:
        return self.progress.stuck(60.0)


def test_lag_without_a_commit_means_stuck_just_after_the_limit():
    #  0 looked lag=5   60 looked   61
    watch = Watch()
    watch.progress.looked(5)
    watch.later(60)
    watch.progress.looked(5)
    assert watch.stuck() is None
    watch.later(1)
    assert watch.stuck() == "lag=5 and no commit for 61 s"


def test_a_commit_under_lag_is_progress():
    watch = Watch()
    watch.progress.looked(5)
    watch.later(59)
    watch.progress.looked(9)
    watch.progress.committed()
    watch.later(59)
    watch.progress.looked(9)
    assert watch.stuck() is None


def test_a_worker_without_lag_is_never_stuck_however_long_it_commits_nothing():
    watch = Watch()
    for _ in range(100):
        watch.later(59)
        watch.progress.looked(0)
        assert watch.stuck() is None
    # Lag counts from the last look without any, not from the last commit.
    watch.later(5)
    watch.progress.looked(3)
    assert watch.stuck() is None


def test_a_loop_that_no_longer_looks_is_stuck_with_or_without_lag():
    watch = Watch()
    watch.progress.looked(0)
    watch.later(60)
    assert watch.stuck() is None
    watch.later(1)
    assert watch.stuck() == "event loop silent for 61 s"


def test_a_broker_that_is_down_is_waited_for_and_then_the_client_is_not_trusted():
    watch = Watch()
    watch.progress.looked(7)
    for _ in range(5):
        watch.later(59)
        watch.progress.looked_in_vain()
        assert watch.stuck() is None
    watch.later(6)
    assert watch.stuck() == "broker silent for 301 s"


PLACE = TopicPartition(CLICKSTREAM, 0)


class Consumer:
    """One partition of 30 records; a fetch brings two and lets others have their turn."""

    def __init__(self, position: int) -> None:
        self.position = position

    async def getmany(self, timeout_ms: int, max_records: int):
        await asyncio.sleep(0)
        offsets = range(self.position, min(30, self.position + 2))
        self.position += len(offsets)
        return (
            {
                PLACE: [
                    SimpleNamespace(
                        topic=CLICKSTREAM, partition=0, offset=at, key=b"", value=b"{}", timestamp=0
                    )
                    for at in offsets
                ]
            }
            if offsets
            else {}
        )

    def seek(self, partition, offset: int) -> None:
        self.position = offset

    def assignment(self):
        return {PLACE}

    async def end_offsets(self, partitions):
        await asyncio.sleep(0)
        return dict.fromkeys(partitions, 30)


class Remembers(Work):
    """Work that knows itself where to go on, and takes its time to say so."""

    gather_ms = 20
    max_batch = 8
    max_batch_bytes = 1 << 20

    def __init__(self, wants: int) -> None:
        super().__init__()
        self.wants = wants

    async def assigned(self, partitions):
        for _ in range(3):
            await asyncio.sleep(0)
        self.done.clear()
        return dict.fromkeys(partitions, self.wants)


class Channel:
    """Has every batch done at once."""

    def __init__(self, work: Work) -> None:
        self.work = work

    async def put(self, batch: feed.Batch) -> None:
        await run_batch(self.work, batch.records)
        batch.done.set_result(None)


def bound_feed(work: Work, consumer: Consumer) -> feed.Feed:
    kind = type(
        "Bound", (feed.Feed,), {"work": work, "settings": SETTINGS, "channel": Channel(work)}
    )
    found = kind()
    found._consumer, found._busy = consumer, asyncio.Lock()
    found._assignment, found._done, found._wanted = 0, {}, {}
    found._progress = Progress()
    return found


@pytest.mark.parametrize("committed", [0, 9, 13, 20])
@pytest.mark.parametrize("delay", range(12))
def test_work_that_remembers_its_offsets_goes_on_there_whatever_is_fetched_meanwhile(
    committed, delay
):
    """A batch must not mix what came before the seek with what came after it."""

    async def play() -> Remembers:
        work, consumer = Remembers(wants=13), Consumer(committed)
        owner = bound_feed(work, consumer)

        async def read() -> None:
            for _ in range(4):
                assignment = owner._assignment
                if found := await owner._gathered(assignment):
                    await owner._deliver(found, assignment)

        async def rebalance() -> None:
            for _ in range(delay):
                await asyncio.sleep(0)
            await owner._take_over([PLACE])

        await asyncio.gather(rebalance(), read())
        await read()
        return work

    assert asyncio.run(play()).done == list(range(13, 30))


def test_a_topic_that_ends_before_the_works_own_offset_ends_the_worker():
    async def play():
        owner = bound_feed(Remembers(wants=31), Consumer(0))
        await owner._take_over([PLACE])
        return owner._progress.stuck(60.0)

    assert "ends at offset 30, expected at least 31" in asyncio.run(play())


def test_work_that_cannot_go_on_ends_the_worker():
    class Broken(Channel):
        async def put(self, batch: feed.Batch) -> None:
            batch.done.set_exception(CannotGoOn("the folder is gone"))

    async def play():
        work, consumer = Remembers(wants=0), Consumer(0)
        owner = bound_feed(work, consumer)
        owner.channel = Broken(work)
        await owner._take_over([PLACE])
        with pytest.raises(CannotGoOn):
            await owner._deliver(await owner._gathered(owner._assignment), owner._assignment)
        return owner._progress.stuck(60.0)

    assert asyncio.run(play()) == "the folder is gone"

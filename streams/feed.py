"""A Faust app whose agent takes batches from a channel, fed by a consumer of our own.

Faust's tables and its topic-fed agents lose input under rebalance and acknowledge what failed
(docs/adr). So a Faust service owns the Kafka consumer: it reads a batch, puts it on a channel, and
commits when the agent is done with it. What is not done is delivered again.

- a server that is down (`Unavailable`) holds the batch back and tries it again
- an event that breaks the code is isolated, goes to the dead letters, and the rest goes on
- a worker with lag and no commit for `liveness_s` exits, so that its supervisor starts it anew
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

import faust
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError, MessageSizeTooLargeError
from faust.app.base import BootStrategy

from features.errors import FintrecError, Unavailable
from streams.clients import aiokafka_config
from streams.metrics import BATCH_SIZE, EVENTS, LAG, LAST_COMMIT
from streams.settings import Settings
from streams.topics import RANKING_POLICIES
from streams.wire import Received

logger = logging.getLogger(__name__)

COMMIT_INTERVAL_S = 0.25
BATCH_BYTES = 64 * 2**20  # more is not gathered, whatever the number of records
RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_POLL_MS = 200
EXIT_NO_PROGRESS = 70
_BROKER_LIMIT = 5
_SETTLE_S = 5.0


class Work(Protocol):
    """What a worker does: `streams/ingest.py`, `streams/scoring.py` and `streams/lake.py`.

    A batch is what one fetch brings, or with a `gather_ms` what comes within that time, up to
    `max_batch` records or `max_batch_bytes`.
    """

    name: str
    topics: tuple[str, ...]
    pause_ms: int
    gather_ms: int
    max_batch: int
    max_batch_bytes: int

    async def start(self) -> None:
        """Connect; called once, on the worker's event loop."""

    async def stop(self) -> None:
        """Disconnect."""

    async def handle(self, records: Sequence[Received]) -> None:
        """Do a batch to its end: when this returns, its offsets may be committed."""

    async def refuse(self, record: Received, error: Exception) -> None:
        """Put a record that broke the code into the dead letters."""

    async def assigned(
        self, partitions: Iterable[tuple[str, int]]
    ) -> Mapping[tuple[str, int], int] | None:
        """Learn which partitions this worker owns from now on.

        Gives the offsets to go on from, where the work itself remembers them, not Kafka.
        """


class _Boot(BootStrategy):
    # `faust worker` turns the web server on in spite of `web_enabled=False`; no port is ours to open.
    enable_web = False


class _App(faust.App):
    BootStrategy = _Boot


class Batch:
    """Records under way from the feed to the agent; `done` is set when the offsets may go."""

    def __init__(self, records: list[Received]) -> None:
        self.records = records
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class CannotGoOn(FintrecError):
    """No record is to blame and no server is down: the worker must end, and somebody look."""


async def run_batch(work: Work, records: Sequence[Received]) -> None:
    """Have a batch done: servers that are down are waited for, a poisonous record is set apart.

    Raises CannotGoOn where the work does.
    """
    try:
        await _persist(work.name, records[0].at, lambda: work.handle(records))
    except CannotGoOn:
        raise
    except Exception as error:
        # A worker never dies of an event: what breaks the code is set apart, whole, with its trace.
        logger.exception(
            "unexpected error worker=%s records=%d first=%s", work.name, len(records), records[0].at
        )
        if len(records) > 1:
            for record in records:
                await run_batch(work, [record])
            return
        broken = error  # the name of an except clause ends with it
        await _persist(work.name, records[0].at, lambda: work.refuse(records[0], broken))


async def _persist(name: str, first: str, attempt: Callable[[], Awaitable[None]]) -> None:
    """Try again for as long as a server is down.

    A record that is too large for its topic is no server that is down: it is raised at once.
    """
    for number in count(1):
        try:
            await attempt()
            return
        except MessageSizeTooLargeError:
            raise
        except (Unavailable, KafkaError, OSError) as down:
            logger.warning(
                "batch held back worker=%s attempt=%d first=%s reason=%s", name, number, first, down
            )
            await asyncio.sleep(RETRY_S[min(number, len(RETRY_S)) - 1])


def app_id(name: str) -> str:
    """Faust's id of the workers of a kind, and the consumer group of its own, idle consumer."""
    return f"fintrec-{name}"


def feed_group(name: str) -> str:
    """Consumer group of the feeds of a kind."""
    return f"{app_id(name)}-feed"


def create_app(work: Work, settings: Settings) -> faust.App:
    """The Faust app of a worker: one channel, one agent on it, one service that feeds it."""
    app = _App(
        app_id(work.name),
        broker=[f"kafka://{address}" for address in settings.kafka_bootstrap.split(",") if address]
        or None,
        broker_credentials=_credentials(settings),
        store="memory://",
        datadir=settings.stack_dir / "faust",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        autodiscover=False,
        monitor=None,
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_heartbeat_interval=settings.heartbeat_ms / 1000,
        broker_max_poll_interval=600.0,
    )
    channel: Any = app.channel()

    # Faust refuses to start without a source topic; the policies are quiet and change nothing here.
    @app.agent(
        app.topic(RANKING_POLICIES, key_type=bytes, value_type=bytes, value_serializer="raw"),
        name=f"{work.name}-idle",
    )
    async def idle(stream: Any) -> None:
        async for _ in stream:
            pass

    @app.agent(channel, name=work.name, concurrency=1)
    async def agent(stream: Any) -> None:
        async for batch in stream:
            try:
                await run_batch(work, batch.records)
            except BaseException as error:
                # The feed waits for this batch: it must hear of it, and the worker end.
                if not batch.done.done():
                    batch.done.set_exception(error)
                raise
            batch.done.set_result(None)

    app.service(
        type("BoundFeed", (Feed,), {"work": work, "settings": settings, "channel": channel})
    )
    return app


def _credentials(settings: Settings) -> Any:
    if settings.kafka_security_protocol == "PLAINTEXT":
        return None
    config = aiokafka_config(settings)
    context = config.get("ssl_context")
    if settings.kafka_security_protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=config["sasl_plain_username"],
        password=config["sasl_plain_password"],
        ssl_context=context,
        mechanism=config["sasl_mechanism"],
    )


class Progress:
    """When a worker last got on, and whether records wait for it; read by the watchdog's thread.

    A broker that is down is waited for: what cannot be asked is no lag. After `_BROKER_LIMIT` times
    the limit the worker exits all the same, in case it is the client that is stuck.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_commit = clock()
        self._last_look = self._last_turn = clock()
        self._lag = 0
        self._broken: str | None = None

    def broke(self, reason: str) -> None:
        """There is no going on, whatever comes."""
        self._broken = reason

    def committed(self) -> None:
        """Offsets were committed, or there was nothing to do."""
        self._last_commit = self._clock()

    def looked(self, lag: int) -> None:
        """The event loop is alive and found `lag` records waiting."""
        self._last_look = self._last_turn = self._clock()
        self._lag = lag
        if lag == 0:
            self._last_commit = self._clock()

    def looked_in_vain(self) -> None:
        """The event loop is alive, the broker did not answer."""
        self._last_turn = self._last_commit = self._clock()
        self._lag = 0

    def stuck(self, limit_s: float) -> str | None:
        """Why the worker is to exit, or None."""
        if self._broken is not None:
            return self._broken
        now = self._clock()
        if self._lag > 0 and now - self._last_commit > limit_s:
            return f"lag={self._lag} and no commit for {now - self._last_commit:.0f} s"
        if now - self._last_turn > limit_s:
            return f"event loop silent for {now - self._last_turn:.0f} s"
        if now - self._last_look > _BROKER_LIMIT * limit_s:
            return f"broker silent for {now - self._last_look:.0f} s"
        return None


def watch(progress: Progress, name: str, limit_s: float, stopped: threading.Event) -> None:
    """Exit the process when it makes no progress; runs in a thread, so a blocked loop is seen."""
    while not stopped.wait(min(1.0, limit_s / 10)):
        reason = progress.stuck(limit_s)
        if reason is not None:
            logger.critical("worker exits worker=%s reason=%s", name, reason)
            logging.shutdown()
            os._exit(EXIT_NO_PROGRESS)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    """Waits for the batch under way and commits it before its partitions go to another worker."""

    def __init__(
        self,
        settle: Callable[[], Awaitable[None]],
        take_over: Callable[[Iterable[TopicPartition]], Awaitable[None]],
    ) -> None:
        self._settle = settle
        self._take_over = take_over

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._settle()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._take_over(assigned)


class Feed(faust.Service):
    """Owns a worker's consumer: reads batches, hands them on, commits what is done.

    Faust makes the instance itself, so what it works with stands on a subclass (`create_app`).
    """

    work: Work
    settings: Settings
    channel: Any

    async def on_start(self) -> None:
        self._done: dict[TopicPartition, int] = {}
        self._assignment = 0  # changes when partitions do, and again when we know where to go on
        self._committed_at = 0.0
        self._wanted: dict[TopicPartition, int] = {}  # where the work itself wants to go on
        self._busy = asyncio.Lock()
        self._progress = Progress()
        self._watchdog_stop = threading.Event()
        self._consumer = AIOKafkaConsumer(
            **aiokafka_config(self.settings),
            group_id=feed_group(self.work.name),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_min_bytes=self.settings.fetch_min_bytes,
            fetch_max_wait_ms=self.settings.fetch_wait_ms,
            session_timeout_ms=self.settings.session_timeout_ms,
            heartbeat_interval_ms=self.settings.heartbeat_ms,
            max_poll_interval_ms=600_000,
            # Equal partition counts: the range assignor gives a user's partitions of all
            # topics to one worker.
            partition_assignment_strategy=(RangePartitionAssignor,),
        )
        await self.work.start()
        self._consumer.subscribe(
            list(self.work.topics), listener=_Rebalance(self._settle_and_commit, self._take_over)
        )
        await self._consumer.start()
        threading.Thread(
            target=watch,
            args=(self._progress, self.work.name, self.settings.liveness_s, self._watchdog_stop),
            daemon=True,
        ).start()

    async def on_stop(self) -> None:
        self._watchdog_stop.set()
        try:
            await asyncio.wait_for(self._settle_and_commit(), _SETTLE_S)
        except TimeoutError:
            # Its batch is not done: it stays uncommitted and is delivered again.
            logger.warning("stopped in mid-batch worker=%s", self.work.name)
        await self._consumer.stop()
        await self.work.stop()

    @faust.Service.task
    async def _feed(self) -> None:
        free_at = 0.0
        while not self.should_stop:
            assignment = self._assignment
            found = await self._gathered(assignment)
            if found:
                self._hold_back()
                await self._deliver(found, assignment)
                await self.sleep(max(0.0, free_at - time.monotonic()))
                free_at = time.monotonic() + self.work.pause_ms / 1000
                self._consumer.resume(*self._consumer.paused())
            if time.monotonic() - self._committed_at > COMMIT_INTERVAL_S:
                await self._commit()

    async def _gathered(self, assignment: int) -> dict[TopicPartition, list[Any]]:
        """Records of one fetch, or of all that come within the work's time to gather."""
        end_s = time.monotonic() + self.work.gather_ms / 1000
        found: dict[TopicPartition, list[Any]] = {}
        room, room_bytes = self.work.max_batch, self.work.max_batch_bytes
        while room > 0 and room_bytes > 0:
            more = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=room)
            for partition, messages in more.items():
                found.setdefault(partition, []).extend(messages)
                room -= len(messages)
                room_bytes -= sum(len(m.value or b"") for m in messages)
            is_late = time.monotonic() >= end_s
            if is_late or self.should_stop or assignment != self._assignment:
                break
        return found

    def _hold_back(self) -> None:
        # A fetch that runs beside a batch comes back early, and what arrives behind it waits for
        # one more round. Asked for when the batch is done, the next fetch is all there is.
        self._consumer.pause(*self._consumer.assignment())

    async def _deliver(self, found: dict[TopicPartition, list[Any]], assignment: int) -> None:
        records = [
            Received(m.topic, m.partition, m.offset, m.key, m.value, m.timestamp)
            for messages in found.values()
            for m in messages
        ]
        async with self._busy:
            if assignment != self._assignment:
                self._read_again(found)
                return
            batch = Batch(records)
            await self.channel.put(batch)
            try:
                await batch.done
            except CannotGoOn as error:
                self._progress.broke(str(error))
                raise
            for partition, messages in found.items():
                self._done[partition] = messages[-1].offset + 1
        BATCH_SIZE.labels(self.work.name).observe(len(records))
        for partition, messages in found.items():
            EVENTS.labels(partition.topic).inc(len(messages))

    def _read_again(self, found: dict[TopicPartition, list[Any]]) -> None:
        """Records read while partitions changed hands: not worked on, in case another has them."""
        for partition, messages in found.items():
            if partition in self._consumer.assignment():
                self._consumer.seek(partition, self._wanted.get(partition, messages[0].offset))

    async def _settle_and_commit(self) -> None:
        async with self._busy:
            await self._commit()

    async def _take_over(self, assigned: Iterable[TopicPartition]) -> None:
        # Under the lock: nothing of a new partition is worked on before its past is known.
        async with self._busy:
            self._assignment += 1
            self._done.clear()  # what was done of an earlier assignment is settled, or another's
            try:
                wanted = await self.work.assigned([(tp.topic, tp.partition) for tp in assigned])
                self._wanted = {TopicPartition(*place): at for place, at in (wanted or {}).items()}
                await self._go_to(self._wanted)
            except (FintrecError, OSError) as error:
                # The client would log it and go on; the watchdog ends the process instead.
                self._progress.broke(str(error))
            # What was fetched since comes from before the seek, and must not be mixed with the rest.
            self._assignment += 1

    async def _go_to(self, wanted: Mapping[TopicPartition, int]) -> None:
        """Read on from the work's own offsets; FintrecError where a topic ends before them."""
        if not wanted:
            return
        for partition, offset in wanted.items():
            self._consumer.seek(partition, offset)
        try:
            ends = await self._consumer.end_offsets(list(wanted))
        except KafkaError as silent:
            logger.warning("ends unknown worker=%s reason=%s", self.work.name, silent)
            return
        for partition, offset in wanted.items():
            if offset > ends[partition]:
                # Read from its start, a topic made anew would look like what is known already.
                raise FintrecError(
                    f"{partition.topic}[{partition.partition}] ends at offset {ends[partition]}, "
                    f"expected at least {offset}: was the topic made anew?"
                )

    async def _commit(self) -> None:
        self._committed_at = time.monotonic()
        owned = self._consumer.assignment()
        due = {tp: offset for tp, offset in self._done.items() if tp in owned}
        self._done.clear()
        if not due:
            return
        try:
            await self._consumer.commit(due)
        except (KafkaError, IllegalStateError) as lost:
            # The partitions may be another worker's by now: it starts from the last commit,
            # and what is delivered again changes nothing.
            logger.warning("commit refused worker=%s reason=%s", self.work.name, lost)
            self._done = due | self._done
            return
        self._progress.committed()
        LAST_COMMIT.set_to_current_time()

    @faust.Service.task
    async def _look_for_lag(self) -> None:
        while not self.should_stop:
            await self.sleep(min(5.0, self.settings.liveness_s / 4))
            try:
                lag = await self._lag()
            except (KafkaError, IllegalStateError, OSError) as silent:
                logger.warning("lag unknown worker=%s reason=%s", self.work.name, silent)
                self._progress.looked_in_vain()
                continue
            self._progress.looked(lag)

    async def _lag(self) -> int:
        owned = self._consumer.assignment()
        if not owned:
            return 0
        ends = await self._consumer.end_offsets(owned)
        total = 0
        for partition, end in ends.items():
            waiting = max(0, end - await self._consumer.position(partition))
            LAG.labels(partition.topic, partition.partition).set(waiting)
            total += waiting
        return total

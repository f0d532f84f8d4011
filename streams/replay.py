"""Replay of a log to Kafka: events in the order they happened, every acknowledgement checked.

Order is (event time, topic, id), so that a replay can be continued after the last event that was
acknowledged. The catalogue and consents are what later events are judged by: they come first and
whole, whatever the period, up to its end.
"""

import fcntl
import heapq
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import FintrecError
from fintrec import logs
from streams.topics import CLICKSTREAM, CONSENTS, CONVERSIONS, ITEMS, TRANSACTIONS

AHEAD: Final = (ITEMS, CONSENTS)
TOPICS: Final = (*AHEAD, CLICKSTREAM, TRANSACTIONS, CONVERSIONS)
MAX_UNACKNOWLEDGED: Final = 5_000
SAVE_EVERY: Final = 5_000
ACK_TIMEOUT_S: Final = 120.0
LONGEST_SLEEP_S: Final = 0.5  # at most this long without a look at what was acknowledged
ENDLESS_MS: Final = 1 << 62


class PublishError(FintrecError):
    """An event was not acknowledged; what was acknowledged before it is remembered."""


class Outgoing(NamedTuple):
    """One record on its way: `event_time_ms` is None for what is sent ahead of the events."""

    topic: str
    key: bytes
    value: bytes
    event_time_ms: int | None


class Acknowledgement(Protocol):
    """What a producer's send gives: the broker's answer, awaited."""

    @property
    def is_done(self) -> bool:
        """Whether the answer is there, good or bad, so that `get` does not wait."""

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the answer; raises the producer's error if the send failed."""


Send = Callable[[str, bytes, bytes], Acknowledgement]


@dataclass(frozen=True, slots=True)
class Period:
    """Which events: [from_ms, to_ms) and topics, in the order of TOPICS."""

    from_ms: int = 0
    to_ms: int = ENDLESS_MS
    topics: tuple[str, ...] = TOPICS


def outgoing(log_dir: Path, period: Period) -> Iterator[Outgoing]:
    """Everything to be sent, in its order; holds one day of the log at a time."""
    if ITEMS in period.topics:
        rows = logs.read_table(log_dir, ITEMS)
        yield from _records(ITEMS, rows.sort_by("item_id"), None)
    events = [topic for topic in period.topics if topic not in AHEAD]
    if CONSENTS in period.topics:
        for day in logs.days_of(log_dir, CONSENTS):
            yield from _day(log_dir, CONSENTS, day, 0, period.to_ms, is_ahead=True)
    days = sorted({day for topic in events for day in logs.days_of(log_dir, topic)})
    for day in days:
        start_ms = logs.day_start_ms(day)
        if start_ms >= period.to_ms or logs.day_end_ms(day) <= period.from_ms:
            continue
        parts = [_day(log_dir, topic, day, period.from_ms, period.to_ms) for topic in events]
        # Stable: equal instants keep the order of the topics.
        yield from heapq.merge(*parts, key=lambda event: event.event_time_ms or 0)


def check_log(log_dir: Path, topics: Sequence[str]) -> None:
    """Raises LogError where a folder has no file of any of the topics."""
    if not any(logs.has_files(log_dir, topic) for topic in topics):
        raise logs.LogError(
            f"{log_dir}: no files of {', '.join(topics)}, expected a LOG_DIR "
            f"with <topic>/day=YYYY-MM-DD/part-*.parquet and {ITEMS}/part-*.parquet"
        )


def counts(log_dir: Path, period: Period) -> dict[str, int]:
    """How many records of each topic `outgoing` gives, from one column of the log."""
    found = dict.fromkeys(period.topics, 0)
    for topic in period.topics:
        if topic == ITEMS:
            found[topic] = logs.read_table(log_dir, ITEMS).num_rows
            continue
        from_ms = 0 if topic == CONSENTS else period.from_ms
        for day in logs.days_of(log_dir, topic):
            times = logs.read_table(log_dir, topic, [day])["event_time_ms"]
            inside = pc.and_(pc.greater_equal(times, from_ms), pc.less(times, period.to_ms))
            found[topic] += pc.sum(inside).as_py() or 0
    return found


def covered(log_dir: Path, topics: Sequence[str]) -> tuple[int, int] | None:
    """Instants of the first and last event of the topics, None without any."""
    bounds: list[int] = []
    for topic in topics:
        for day in logs.days_of(log_dir, topic):
            times = logs.read_table(log_dir, topic, [day])["event_time_ms"]
            if len(times):
                bounds += pc.min_max(times).as_py().values()
    return (min(bounds), max(bounds)) if bounds else None


def _day(
    log_dir: Path, topic: str, day: str, from_ms: int, to_ms: int, is_ahead: bool = False
) -> Iterator[Outgoing]:
    table = logs.read_table(log_dir, topic, [day])
    times = table["event_time_ms"]
    table = table.filter(pc.and_(pc.greater_equal(times, from_ms), pc.less(times, to_ms)))
    second = "user_id" if topic == CONSENTS else "event_id"
    table = _plain(table).sort_by([("event_time_ms", "ascending"), (second, "ascending")])
    return _records(topic, table, None if is_ahead else table["event_time_ms"].to_pylist())


def _plain(table: pa.Table) -> pa.Table:
    return table.cast(
        pa.schema(
            [
                field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field
                for field in table.schema
            ]
        )
    )


def _records(topic: str, table: pa.Table, times: Sequence[int] | None) -> Iterator[Outgoing]:
    names = table.column_names
    columns = [column.to_pylist() for column in table.columns]
    keys = columns[names.index("item_id" if topic == ITEMS else "user_id")]
    if "anonymous_id" in names:  # before a login, the visitor (features.records.entity_of)
        visitors = columns[names.index("anonymous_id")]
        keys = [key or visitor for key, visitor in zip(keys, visitors, strict=True)]
    for place, values in enumerate(zip(*columns, strict=True)):
        # A field that is absent takes its default; null is a value only where the record has it.
        fields = {name: v for name, v in zip(names, values, strict=True) if v is not None}
        yield Outgoing(
            topic,
            keys[place].encode(),
            orjson.dumps(fields),
            None if times is None else times[place],
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one replay came: `num_acknowledged` records of `replay_id` are on the cluster."""

    replay_id: str
    num_acknowledged: int

    def save(self, path: Path) -> None:
        """Write the progress file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)) + "\n")
        os.replace(fresh, path)

    @classmethod
    def load(cls, path: Path, replay_id: str) -> "Progress":
        """The saved progress of this replay; zero if there is none or it is of another replay."""
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return cls(replay_id, 0)
        except ValueError as broken:
            raise PublishError(f"{path}: not a progress file ({broken}); delete it") from broken
        if found.get("replay_id") != replay_id:
            return cls(replay_id, 0)
        return cls(replay_id, int(found["num_acknowledged"]))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a progress file for one replay; raises PublishError where another one holds it.

    The kernel gives it back when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise PublishError(
                f"{lock.name} is held: this log and period are being published by another "
                "`fintrec publish`; wait for its end, or end it"
            ) from held
        yield


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast: `speed` seconds of events in a second, None for as fast as the cluster takes."""

    speed: float | None = None
    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def keep(
        self, events: Iterator[Outgoing], meanwhile: Callable[[], None] = lambda: None
    ) -> Iterator[Outgoing]:
        """The events, each held back until its turn; `meanwhile` is called in long pauses."""
        began_s = first_ms = None
        for event in events:
            if self.speed is not None and event.event_time_ms is not None:
                if began_s is None or first_ms is None:
                    began_s, first_ms = self.now_s(), event.event_time_ms
                due_s = began_s + (event.event_time_ms - first_ms) / 1000 / self.speed
                while (wait_s := due_s - self.now_s()) > 0:
                    self.sleep(min(wait_s, LONGEST_SLEEP_S))
                    meanwhile()
            yield event


def replay(
    events: Iterator[Outgoing],
    send: Send,
    progress: Progress,
    path: Path,
    pace: Pace,
    on_acknowledged: Callable[[int], None],
) -> Progress:
    """Send what progress does not cover yet; returns the progress at the end.

    Acknowledgements are taken as they come, in the order of the records. Progress is saved every
    SAVE_EVERY of them, and also when this ends by an error or Ctrl-C, so the next replay goes on
    after the last record that was acknowledged with all before it; the few behind it are sent
    twice, which the workers know by their event id. Raises PublishError on the first failed send.
    """
    waiting: deque[tuple[Outgoing, Acknowledgement]] = deque()
    done = saved = progress.num_acknowledged

    def settle(at_most: int) -> None:
        """Take what is acknowledged; wait only where more than `at_most` are not."""
        nonlocal done, saved
        while len(waiting) > at_most or (waiting and waiting[0][1].is_done):
            _await(*waiting[0])
            waiting.popleft()
            done += 1
            on_acknowledged(1)
            if done - saved >= SAVE_EVERY:
                Progress(progress.replay_id, done).save(path)
                saved = done

    def look() -> None:
        settle(MAX_UNACKNOWLEDGED)

    try:
        for event in pace.keep(islice(events, progress.num_acknowledged, None), look):
            waiting.append((event, _sent(send, event)))
            look()
        settle(0)
    finally:
        try:
            settle(len(waiting))
        finally:
            Progress(progress.replay_id, done).save(path)
    return Progress(progress.replay_id, done)


def _sent(send: Send, event: Outgoing) -> Acknowledgement:
    from kafka.errors import KafkaError

    try:
        return send(event.topic, event.key, event.value)
    except KafkaError as refused:
        raise _refusal(event, refused) from refused


def _await(event: Outgoing, acknowledgement: Acknowledgement) -> None:
    from kafka.errors import KafkaError

    try:
        acknowledgement.get(timeout=ACK_TIMEOUT_S)
    except KafkaError as refused:
        raise _refusal(event, refused) from refused


def _refusal(event: Outgoing, refused: Exception) -> PublishError:
    return PublishError(
        f"{event.topic}: a record of event_time_ms={event.event_time_ms} was not acknowledged: "
        f"{type(refused).__name__}: {refused}"
    )

"""The lake worker: every topic appended to Parquet by event day, each record exactly once.

A batch of all topics: decode -> a hidden part for each partition and day -> one manifest a
partition (`streams/lake_ledger.py`) -> rename -> commit to Kafka, which is only told: where a worker
goes on is what the manifest says. So a batch that is delivered again finds its offsets written.
"""

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa

from features.border import INTERNAL_ERROR, Border
from features.errors import Unavailable
from fintrec.lake import LakeError
from fintrec.parts import Span
from streams.feed import BATCH_BYTES, CannotGoOn
from streams.lake_compaction import Limits, compact
from streams.lake_ledger import Disk, Ledger, Overtaken
from streams.lake_rows import by_day, decode_rows
from streams.metrics import (
    HOP_SECONDS,
    LAKE_MISSING,
    LAKE_OVERTAKEN,
    LAKE_ROWS,
    LAKE_SKIPPED,
    REDELIVERED,
)
from streams.settings import Settings
from streams.topics import LAKE_TOPICS, TOPICS
from streams.wire import Received

logger = logging.getLogger(__name__)
_COMPACT_EVERY_S: Final = 30.0
_SHOWN: Final = 3  # refused records of a batch that are logged one by one
Place = tuple[str, int]


class Taken(Unavailable):
    """A partition is another worker's; what comes of it waits until Kafka says whose it is."""


class Lake:
    """The work of a lake worker, as `streams/feed.py` runs it."""

    name = "lake"
    topics: tuple[str, ...] = LAKE_TOPICS
    pause_ms = 0
    max_batch_bytes = BATCH_BYTES

    def __init__(self, settings: Settings, disk: Disk | None = None) -> None:
        self.gather_ms = settings.lake_flush_ms
        self.max_batch = settings.lake_max_batch
        self._dir = settings.lake_dir
        self._disk = disk or Disk()
        self._border = Border(max_bytes=settings.max_event_bytes)
        self._limits = Limits(settings.lake_max_parts, settings.lake_quiet_s, settings.lake_keep_s)
        self._writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._ledgers: dict[Place, Ledger] = {}
        self._turn = asyncio.Lock()  # batches, take-overs and merging come one after the other
        self._merging: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Merge small parts from now and then on."""
        self._merging = asyncio.create_task(self._merge_on())

    async def stop(self) -> None:
        """Stop merging."""
        if self._merging is not None:
            self._merging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._merging

    async def assigned(self, partitions: Iterable[Place]) -> Mapping[Place, int]:
        """Take the partitions over; the offsets that follow what the lake has of them."""
        async with self._turn:
            return await asyncio.to_thread(self._take_over, list(partitions))

    async def handle(self, records: Sequence[Received]) -> None:
        """Write a batch; returns when it is durable and visible."""
        async with self._turn:
            # In a thread: the consumer's heartbeats go on while the disk works.
            await asyncio.to_thread(self._append_all, records)

    async def refuse(self, record: Received, error: Exception) -> None:
        """Leave out a record that broke the code, counted and told."""
        logger.error("left out of the lake at=%s error=%s", record.at, type(error).__name__)
        async with self._turn:
            await asyncio.to_thread(self._leave_out, record)

    def _take_over(self, partitions: Sequence[Place]) -> dict[Place, int]:
        self._ledgers = {}
        found = {}
        for topic, partition in partitions:
            ledger = Ledger(self._dir, topic, partition, self._writer, self._disk)
            found[topic, partition] = ledger.take_over().next_offset
            self._ledgers[topic, partition] = ledger
        logger.info("took over partitions=%d lake=%s", len(found), self._dir)
        return found

    def _append_all(self, records: Sequence[Received]) -> None:
        groups: dict[Place, list[Received]] = defaultdict(list)
        for record in records:
            groups[record.topic, record.partition].append(record)
        for place, members in groups.items():
            with self._owned(place) as ledger:
                self._append(ledger, members)

    @contextlib.contextmanager
    def _owned(self, place: Place) -> Iterator[Ledger]:
        """The partition's ledger; what is done with it is given up when another writer has it.

        Raises CannotGoOn where the lake's folder is not what its manifests say.
        """
        ledger = self._ledgers.get(place)
        if ledger is None:
            raise Taken(f"lake: {place[0]}[{place[1]}] is another worker's")
        try:
            yield ledger
        except Overtaken as lost:
            # The records are the other writer's to write; Kafka will soon say so here too.
            LAKE_OVERTAKEN.inc()
            logger.warning("batch left to another worker: %s", lost)
            del self._ledgers[place]
        except LakeError as broken:
            raise CannotGoOn(str(broken)) from broken

    def _append(self, ledger: Ledger, records: Sequence[Received]) -> None:
        topic = ledger.offsets.topic
        new, holes = _in_order(records, ledger.offsets.next_offset)
        REDELIVERED.inc(len(records) - len(new))
        if not new:
            return
        with HOP_SECONDS.labels(self.name, "decode").time():
            table, skipped, refused = decode_rows(new, self._border)
        for record, error in refused[:_SHOWN]:
            logger.warning("no row at=%s reason=%s message=%s", record.at, error.reason, error)
        with HOP_SECONDS.labels(self.name, "write").time():
            pending = self._write(ledger, table)
        missing = self._missing(topic, holes)
        with HOP_SECONDS.labels(self.name, "commit").time():
            ledger.append(pending, new[-1].offset + 1, table.num_rows, skipped, missing)
        LAKE_ROWS.labels(topic).inc(table.num_rows)
        for reason, count in skipped.items():
            LAKE_SKIPPED.labels(topic, reason).inc(count)

    def _write(self, ledger: Ledger, table: pa.Table) -> list[tuple[str, str]]:
        """A hidden part for each day of the rows; their lines in the manifest."""
        topic, partition = ledger.offsets.topic, ledger.offsets.partition
        days = [("", table)] if TOPICS[topic].compacted else by_day(table)
        pending = []
        for day, rows in days:
            if not rows.num_rows:
                continue
            folder = ledger.table / f"day={day}" if day else ledger.table
            offsets = rows["offset"]
            path, line = ledger.hidden(
                folder, Span(partition, offsets[0].as_py(), offsets[-1].as_py())
            )
            self._disk.make_folder(folder)
            self._disk.write_table(path, rows)
            self._disk.sync(folder)
            pending.append(line)
        return pending

    def _missing(self, topic: str, holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Offsets that Kafka no longer has; a compacted topic has holes by its nature."""
        if TOPICS[topic].compacted:
            return []
        for wanted, found in holes:
            LAKE_MISSING.labels(topic).inc(found - wanted)
            logger.error(
                "records are gone from Kafka and not in the lake topic=%s from=%d to=%d (deleted "
                "by retention, or an older lake is not at %s)",
                topic,
                wanted,
                found,
                self._dir,
            )
        return holes

    def _leave_out(self, record: Received) -> None:
        with self._owned((record.topic, record.partition)) as ledger:
            new, holes = _in_order([record], ledger.offsets.next_offset)
            if new:
                missing = self._missing(record.topic, holes)
                ledger.append([], record.offset + 1, 0, {INTERNAL_ERROR: 1}, missing)
                LAKE_SKIPPED.labels(record.topic, INTERNAL_ERROR).inc()

    async def _merge_on(self) -> None:
        while True:
            await asyncio.sleep(_COMPACT_EVERY_S)
            for ledger in list(self._ledgers.values()):
                async with self._turn:
                    try:
                        await asyncio.to_thread(compact, ledger, self._limits)
                    except (LakeError, Overtaken, OSError) as failed:
                        logger.error("parts not merged table=%s reason=%s", ledger.table, failed)


def _in_order(
    records: Sequence[Received], start: int
) -> tuple[list[Received], list[tuple[int, int]]]:
    """(a partition's records from an offset on, each once; ranges of offsets that are not there)."""
    new, holes, wanted = [], [], start
    for record in records:
        if record.offset < wanted:
            continue
        if record.offset > wanted:
            holes.append((wanted, record.offset))
        new.append(record)
        wanted = record.offset + 1
    return new, holes

"""The event lake on the real broker: workers killed and frozen in mid-stream, a reader beside them."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
import pytest

from features.border import Border, check_key
from features.errors import MalformedEvent
from fintrec import lake, logs
from streams.topics import ITEMS, SLATE_AUDIT, SLATE_REQUESTS, SLATES
from streams.wire import Received, decode
from tests.integration.conftest import System, members
from tests.integration.stream import Stream
from tests.integration.wire import Published, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TABLES = (*logs.RECORDS, *lake.SERVING_TABLES)
# Small batches and eager merging: many commits, so that a kill hits one.
ENVIRONMENT = {
    "FINTREC_LAKE_FLUSH_MS": "200",
    "FINTREC_LAKE_MAX_BATCH": "400",
    "FINTREC_LAKE_MAX_PARTS": "3",
    "FINTREC_SESSION_TIMEOUT_MS": "6000",
    "FINTREC_HEARTBEAT_MS": "1000",
}


class Reader:
    """Reads the lake all the time, as a training job would, and keeps what it must not see."""

    def __init__(self, lake_dir: Path) -> None:
        self.faults: list[str] = []
        self.num_looks = 0
        self._lake_dir = lake_dir
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        seen: dict[str, int] = {}
        while not self._stop.wait(0.05):
            for table in TABLES:
                if not (self._lake_dir / table).exists():
                    continue
                marks = lake.watermark(self._lake_dir)
                rows = lake.read_rows(self._lake_dir, table, columns=["partition", "offset"])
                places = set(zip(*(column.to_pylist() for column in rows.columns), strict=True))
                if len(places) != rows.num_rows:
                    self.faults.append(f"{table}: {rows.num_rows - len(places)} rows twice")
                if rows.num_rows < seen.get(table, 0):
                    self.faults.append(f"{table}: {seen[table]} rows, then {rows.num_rows}")
                seen[table] = rows.num_rows
                # Below the watermark nothing is added any more, so a hole there is a loss.
                below = sum(offset < marks.get((table, p), 0) for p, offset in places)
                named = {
                    o.partition: o for o in lake.offsets_of(self._lake_dir) if o.topic == table
                }
                if below > sum(o.num_rows for o in named.values()):
                    self.faults.append(f"{table}: more rows than the manifest counts")
                self.num_looks += 1


@pytest.fixture(scope="module")
def lake_dir(system: System) -> Iterator[Path]:
    """The lake of the session's topics, with one worker on it."""
    system.start_worker("lake", "lake-1", **ENVIRONMENT)
    until("the lake worker owns partitions", lambda: members(system, "lake") == 1, 60)
    yield system.settings.lake_dir
    system.stop_worker("lake-1")


def await_written(system: System, lake_dir: Path) -> None:
    """Return when the lake's watermark is at the end of every topic that was read."""

    def behind() -> list[str]:
        ends: dict[tuple[str, int], int] = {}
        for table in TABLES:
            for record in system.wire.log(table):
                ends[table, record.partition] = record.offset + 1
        marks = lake.watermark(lake_dir)
        return [
            f"{place}: {marks.get(place)} of {end}"
            for place, end in ends.items()
            if marks.get(place, 0) < end
        ]

    try:
        until("the lake has everything", lambda: not behind(), 60)
    except AssertionError as late:
        raise AssertionError(f"{late}: {behind()[:5]}") from None


def is_row(record: Published) -> bool:
    """Whether the border lets a record in."""
    received = Received(
        record.topic, record.partition, record.offset, record.key, record.value, record.time_ms
    )
    if record.topic in (SLATES, SLATE_AUDIT, SLATE_REQUESTS):
        return True
    try:
        event = decode(
            Border().check_size(received.value, received.key), logs.RECORDS[record.topic]
        )
        if record.topic != ITEMS:
            check_key(received.key, event)
    except MalformedEvent:
        return False
    return True


def check_everything(system: System, lake_dir: Path) -> None:
    """Each record of each topic is in the lake exactly once, with its content."""
    for table in TABLES:
        expected = {(r.partition, r.offset): r for r in system.wire.log(table) if is_row(r)}
        rows = lake.read_rows(lake_dir, table).to_pylist()
        assert len(rows) == len(expected), table
        for row in rows:
            record = expected[row["partition"], row["offset"]]
            assert row["timestamp_ms"] == record.time_ms
            assert record.value is not None
            if table in lake.SERVING_TABLES:
                assert row["json"].encode() == record.value
                continue
            for name, value in orjson.loads(record.value).items():
                if name in logs.SCHEMAS[table].names and name != "eligibility":
                    assert row[name] == value, (table, name)


def test_workers_killed_and_frozen_in_mid_stream_lose_and_double_nothing(
    system: System, lake_dir: Path
) -> None:
    stream = Stream(system, "lake", events_per_s=400, requests_per_s=40, seed=3)
    with Reader(lake_dir) as reader, stream:
        for _ in range(3):
            until("more is written", _grows(lake_dir), 30)
            old = system.process("lake-1")
            system.stack.kill("lake-1")
            until("it is started again", lambda o=old: system.pid("lake-1") not in (None, o.pid))
        system.start_worker("lake", "lake-2", **ENVIRONMENT)
        until("both own partitions", lambda: members(system, "lake") == 2, 60)
        until("more is written", _grows(lake_dir), 30)
        frozen = system.process("lake-2")
        frozen.send(signal.SIGSTOP)
        try:
            until("its successor owns all", lambda: members(system, "lake") == 1, 60)
            until("more is written", _grows(lake_dir), 30)
        finally:
            frozen.send(signal.SIGCONT)
        until("the thawed worker is back", lambda: members(system, "lake") == 2, 60)
    system.wire.settle()
    await_written(system, lake_dir)
    system.stop_worker("lake-2")
    assert reader.num_looks > 10
    assert not reader.faults
    check_everything(system, lake_dir)
    for offsets in lake.offsets_of(lake_dir):
        assert not offsets.missing
        if offsets.topic != ITEMS:
            assert offsets.next_offset == offsets.num_rows + sum(offsets.skipped.values())


def _grows(lake_dir: Path):
    before = sum(lake.watermark(lake_dir).values())
    since = time.monotonic()
    return lambda: (
        sum(lake.watermark(lake_dir).values()) > before and time.monotonic() - since > 0.5
    )

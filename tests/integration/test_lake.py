"""The event lake on the real broker: workers killed and frozen in mid-stream, a reader beside them."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import orjson
import pytest

from features.border import Border, check_key
from features.errors import MalformedEvent
from features.records import SlateRequest
from features.spec import USER_STATIC
from fintrec import lake, logs, parity
from fintrec.bank.simulate import SIZES, simulate
from streams import replay
from streams.feed import EXIT_NO_PROGRESS
from streams.lake_ledger import Ledger
from streams.lake_nights import copy_nights
from streams.refresh import refresh_record
from streams.topics import (
    CLICKSTREAM,
    CONVERSIONS,
    ITEMS,
    SLATE_AUDIT,
    SLATE_REQUESTS,
    SLATES,
    STATE_REFRESH,
    TRANSACTIONS,
)
from streams.triton import TritonModels
from streams.wire import Received, decode
from tests.feast_rows import online_write
from tests.integration.conftest import NUM_PARTITIONS, System, await_applied, members, now_ms
from tests.integration.judge import FRESH
from tests.integration.referee import DAY
from tests.integration.stream import Stream
from tests.integration.traffic import request
from tests.integration.wire import Published, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

logger = logging.getLogger(__name__)
TABLES = (*logs.RECORDS, *lake.SERVING_TABLES)
WORKERS = ("lake-1", "lake-2")
# Small batches and eager merging: many commits, so that a kill hits one; gathered for long enough
# that a take-over falls into it.
ENVIRONMENT = {
    "FINTREC_LAKE_FLUSH_MS": "800",
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
        while not self._stop.wait(0.3):
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
    """The lake of the session's topics, with two workers on it."""
    for name in WORKERS:
        system.start_worker("lake", name, **ENVIRONMENT)
    until("both own partitions", lambda: members(system, "lake") == 2, 60)
    yield system.settings.lake_dir
    running = [system.process(name) for name in WORKERS]
    for process in running:
        process.send(signal.SIGTERM)
    assert all(process.wait_gone(30_000) for process in running)


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
    if record.topic in (SLATES, SLATE_AUDIT):
        return True
    expected = SlateRequest if record.topic == SLATE_REQUESTS else logs.RECORDS[record.topic]
    try:
        event = decode(Border().check_size(received.value, received.key), expected)
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
    stream = Stream(system, "lake", events_per_s=300, requests_per_s=20, seed=3)
    with Reader(lake_dir) as reader, stream:
        await_more(lake_dir)
        old = system.process("lake-1")
        system.stack.kill("lake-1")
        until("it is started again", lambda: system.pid("lake-1") not in (None, old.pid))
        until("both own partitions", lambda: members(system, "lake") == 2, 60)
        await_more(lake_dir)
        frozen = system.process("lake-2")
        frozen.send(signal.SIGSTOP)
        try:
            until("its successor owns all", lambda: members(system, "lake") == 1, 60)
            await_more(lake_dir)
        finally:
            frozen.send(signal.SIGCONT)
    system.wire.settle()
    await_written(system, lake_dir)
    assert reader.num_looks > 10
    assert not reader.faults
    check_everything(system, lake_dir)
    for offsets in lake.offsets_of(lake_dir):
        assert not offsets.missing
        if offsets.topic != ITEMS:
            assert offsets.next_offset == offsets.num_rows + sum(offsets.skipped.values())


def await_more(lake_dir: Path) -> None:
    """Return when every worker has had time to write a good deal more."""
    before = sum(lake.watermark(lake_dir).values())
    until("more is written", lambda: sum(lake.watermark(lake_dir).values()) > before + 200, 30)


# Progress is kept more often than at the desk, so that a kill finds some.
PUBLISH = """
from streams import replay
replay.SAVE_EVERY = replay.MAX_UNACKNOWLEDGED = 50
from streams.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def bank_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated bank whose log ends now."""
    folder = tmp_path_factory.mktemp("bank") / "log"
    simulate(SIZES["tiny"], 2, now_ms(), folder)
    return folder


def event_ids(system: System, topic: str) -> Counter[str]:
    """Ids of the events on a topic, with how often each came."""
    return Counter(
        orjson.loads(record.value)["event_id"]
        for record in system.wire.log(topic)
        if is_row(record)
    )


def test_publishing_killed_and_begun_again_loses_no_event(
    system: System, bank_dir: Path, lake_dir: Path
) -> None:
    expected = {event.event_id: event.topic for event in _of_the_last_day(bank_dir)}
    argv = [sys.executable, "-c", PUBLISH, "publish", str(bank_dir), "--dir", str(system.stack.dir)]
    argv += ["--days", "1", "--speed", "14400", "--json"]
    for topic in BANK_TOPICS:
        argv += ["--only", topic]

    def published() -> int:
        return sum(len(event_ids(system, topic).keys() & expected) for topic in BANK_TOPICS)

    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("a part is published", lambda: published() >= 0.5 * len(expected), 60)
    finally:
        process.kill()
    assert process.wait(10) == -signal.SIGKILL
    seen = published()
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=60)
    result = orjson.loads(done.stdout)
    # It went on where the killed one had got to, or a little before.
    assert 0.4 * len(expected) < result["already_published"] <= seen < len(expected)
    assert result["already_published"] + result["acknowledged"] == len(expected)
    until("all of it is on the topics", lambda: published() == len(expected))


BANK_TOPICS = (CLICKSTREAM, TRANSACTIONS, CONVERSIONS)


class _Named(NamedTuple):
    topic: str
    event_id: str


def _of_the_last_day(bank_dir: Path) -> list[_Named]:
    end_ms = logs.read_manifest(bank_dir)["end_ms"]
    period = replay.Period(end_ms - DAY, topics=BANK_TOPICS)
    return [
        _Named(event.topic, orjson.loads(event.value)["event_id"])
        for event in replay.outgoing(bank_dir, period)
    ]


def test_inputs_of_served_slates_are_those_that_the_lake_gives(
    system: System, lake_dir: Path, bank_dir: Path
) -> None:
    nights = logs.read_table(bank_dir, logs.USER_STATIC_TABLE)
    last = logs.days_of(bank_dir, logs.USER_STATIC_TABLE)[-1]
    copy_nights(bank_dir, lake_dir)
    night = logs.read_table(bank_dir, logs.USER_STATIC_TABLE, [last]).to_pylist()
    users = [row["user_id"] for row in night][:60]
    names = USER_STATIC.feature_names
    cutoff_ms = int(logs.milliseconds(nights, "event_timestamp").max())
    rows = [(row["user_id"], cutoff_ms, {n: row[n] for n in names}) for row in night]
    online_write(system.settings.redis_address, USER_STATIC.name, rows)
    for user in users[::2]:
        system.wire.send(STATE_REFRESH, user.encode(), refresh_record(user, "nightly").value)
    system.wire.settle()
    await_applied(system, [user for user in users if system.wire.events(user)])
    requests = [request(user, now_ms()) for user in users]
    for start in range(0, len(requests), 10):  # few enough at once to be scored in full
        for wanted in requests[start : start + 10]:
            system.wire.publish(SLATE_REQUESTS, wanted["user_id"], wanted)
        for wanted in requests[start : start + 10]:
            system.wire.answer(wanted["request_id"])
    system.wire.settle()
    await_written(system, lake_dir)
    triton = TritonModels(system.settings)
    report = parity.check(lake_dir, triton.encode)
    counts = report.counts()
    logger.info("parity %s", counts)
    assert not report.differing, (report.differing[:3], counts)
    ours = {r["request_id"] for r in requests}
    asked = [found for found in report.decisions if found.request_id in ours]
    assert len(asked) == len(users)
    assert all(not found.unchecked for found in asked), counts
    assert sum(found.tier == FRESH for found in asked) >= 30, counts
    assert counts["decisions"] == lake.read_rows(lake_dir, SLATE_AUDIT).num_rows


def test_a_worker_ends_when_a_topic_is_shorter_than_its_lake(
    system: System, lake_dir: Path, tmp_path: Path
) -> None:
    for partition in range(NUM_PARTITIONS):  # it will get one of them
        ledger = Ledger(tmp_path, CLICKSTREAM, partition, "before")
        ledger.take_over()
        ledger.append([], 1_000_000_000, 0, {"not_json": 1_000_000_000})
    argv = [sys.executable, "-m", "streams", "worker", "lake", "--dir", str(system.stack.dir)]
    environment = os.environ | ENVIRONMENT | {"FINTREC_LAKE_DIR": str(tmp_path)}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == EXIT_NO_PROGRESS
    assert re.search(r"clickstream\.v1\[\d\] ends at offset", done.stdout + done.stderr)

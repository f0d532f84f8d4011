"""The lake worker loses nothing, doubles nothing and shows nothing half, wherever it is killed."""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from features.records import Interaction, SlateRequest
from fintrec import lake, logs
from fintrec.parts import visible_parts
from fintrec.slates import slate_id
from streams.commands.worker import worker as worker_verbs
from streams.feed import CannotGoOn
from streams.lake import Lake, Taken
from streams.lake_compaction import Limits, compact, compact_all
from streams.lake_ledger import Disk, Ledger
from streams.topics import CLICKSTREAM, ITEMS, LAKE_TOPICS, SLATE_AUDIT, SLATE_REQUESTS, SLATES
from tests.streams.lake_topics import (
    DAY_MS,
    Topics,
    click,
    expected_places,
    handle,
    names_of,
    places,
    run,
    worker,
)
from tests.streams.workers import NOW_MS

MERGE_ALL = Limits(max_parts=2, quiet_s=1e9, keep_s=0)


class Killed(BaseException):
    """The process is gone: nothing of it runs on."""


class MortalDisk(Disk):
    """Dies at its n-th step, just before it or just after."""

    def __init__(self, dies_at: int, is_after: bool) -> None:
        self.steps, self.dies_at, self.is_after = 0, dies_at, is_after

    def _step(self, act: Callable[..., None], *given: Any) -> None:
        self.steps += 1
        is_last = self.steps == self.dies_at
        if is_last and not self.is_after:
            raise Killed
        try:
            act(*given)
        finally:
            if is_last:
                raise Killed

    def write_table(self, path: Path, table: Any) -> None:
        self._step(super().write_table, path, table)

    def write_bytes(self, path: Path, content: bytes) -> None:
        self._step(super().write_bytes, path, content)

    def sync(self, path: Path) -> None:
        self._step(lambda: None)  # what a process has written outlives it without

    def link(self, source: Path, target: Path) -> None:
        self._step(super().link, source, target)

    def rename(self, source: Path, target: Path) -> None:
        self._step(super().rename, source, target)

    def remove(self, path: Path) -> None:
        self._step(super().remove, path)


def write_and_merge(lake_dir: Path, topics: Topics, disk: Disk) -> None:
    """A worker's life: take over, three batches, merging after each."""

    async def life() -> None:
        work = worker(lake_dir, disk)
        positions = dict(await work.assigned(list(topics.logs)))
        for batch in topics.batches(positions, 2):
            await work.handle(batch)
            for ledger in work._ledgers.values():
                compact(ledger, MERGE_ALL)

    asyncio.run(life())


def check_whole(lake_dir: Path, topics: Topics) -> None:
    """Every record is a row exactly once, and the manifests account for every offset."""
    for topic in {topic for topic, _ in topics.logs}:
        assert places(lake_dir, topic) == expected_places(topics, topic)
    assert lake.watermark(lake_dir) == {place: len(log) for place, log in topics.logs.items()}
    for offsets in lake.offsets_of(lake_dir):
        lost = sum(end - start for start, end in offsets.missing)
        assert offsets.next_offset == offsets.num_rows + sum(offsets.skipped.values()) + lost
    assert not [name for name in names_of(lake_dir) if name.startswith(".")]


def check_honest(lake_dir: Path, topics: Topics) -> None:
    """What can be read now is doubled nowhere, and whole below the watermark."""
    marks = lake.watermark(lake_dir)
    for topic in {topic for topic, _ in topics.logs}:
        found = places(lake_dir, topic)
        assert len(set(found)) == len(found)
        expected = expected_places(topics, topic)
        assert set(found) <= set(expected)
        below = {(p, o) for p, o in expected if o < marks.get((topic, p), 0)}
        assert below <= set(found)


def few_topics() -> Topics:
    topics = Topics()
    for number in range(5):
        topics.add(CLICKSTREAM, click(number, "u", NOW_MS + (number == 1) * DAY_MS), 0)
    topics.add(CLICKSTREAM, b"{broken", 0, key=b"u")
    topics.add(ITEMS, {"item_id": "i", "version": 1, "content_type": "marketing"})
    return topics


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_a_worker_may_be_killed_at_every_step(tmp_path: Path, is_after: bool) -> None:
    topics = few_topics()
    whole_life = MortalDisk(0, is_after)
    write_and_merge(tmp_path / "whole", topics, whole_life)
    check_whole(tmp_path / "whole", topics)
    assert whole_life.steps > 50
    for dies_at in range(1, whole_life.steps + 1):
        lake_dir = tmp_path / f"{dies_at}"
        with pytest.raises(Killed):
            write_and_merge(lake_dir, topics, MortalDisk(dies_at, is_after))
        check_honest(lake_dir, topics)
        if dies_at % 4 == 0:  # its successor is killed as well, while it takes over
            with pytest.raises(Killed):
                write_and_merge(lake_dir, topics, MortalDisk(dies_at % 7 + 1, is_after))
            check_honest(lake_dir, topics)
        write_and_merge(lake_dir, topics, MortalDisk(0, is_after))
        check_whole(lake_dir, topics)


def test_everything_is_written_once_whatever_is_delivered_again(tmp_path: Path) -> None:
    topics = Topics()
    for number in range(40):
        topics.some_of_everything(number)
    run(worker(tmp_path), topics, batches=2)
    work = worker(tmp_path)
    run(work, topics)
    # Kafka's own offsets may be behind: everything comes once more, in other batches.
    for batch in topics.batches({}, 7):
        handle(work, batch)
    check_whole(tmp_path, topics)
    ids = logs.read_table(tmp_path, CLICKSTREAM)["event_id"].to_pylist()
    assert sorted(ids) == sorted(f"c{number}" for number in range(40))
    skipped = {(o.topic, o.partition): o.skipped for o in lake.offsets_of(tmp_path)}
    assert skipped[CLICKSTREAM, 0] == skipped[CLICKSTREAM, 1] == {"not_json": 4}


def test_a_batch_that_repeats_itself_is_written_once(tmp_path: Path) -> None:
    topics = few_topics()
    log = topics.logs[CLICKSTREAM, 0]
    work = worker(tmp_path)
    asyncio.run(work.assigned(list(topics.logs)))
    handle(work, [*log[:4], *log[2:], *log, *topics.logs[ITEMS, 0]])
    check_whole(tmp_path, topics)


def test_a_lake_is_a_log(tmp_path: Path) -> None:
    topics = Topics()
    late = click(1, "u1", NOW_MS - 5 * DAY_MS, position=2, propensity=0.25, device="ios")
    topics.add(CLICKSTREAM, late)
    topics.add(
        CLICKSTREAM,
        {"event_id": "a", "anonymous_id": "x", "event_time_ms": NOW_MS, "action": "page_view"},
        key=b"x",
    )
    item = {
        "item_id": "i",
        "version": 1,
        "content_type": "marketing",
        "products": ["p"],
        "eligibility": {"min_tenure_days": 3},
    }
    topics.add(ITEMS, item)
    topics.add(ITEMS, item | {"version": 2})
    topics.add(ITEMS, None, key=b"withdrawn")
    run(worker(tmp_path), topics)
    assert logs.days_of(tmp_path, CLICKSTREAM) == [
        logs.day_of(NOW_MS - 5 * DAY_MS),
        logs.day_of(NOW_MS),
    ]
    rows = logs.read_table(tmp_path, CLICKSTREAM).to_pylist()
    assert Interaction(**rows[0]) == Interaction(**late)
    assert (rows[1]["user_id"], rows[1]["anonymous_id"]) == ("", "x")
    (known,) = logs.read_items(tmp_path)
    assert (known.version, known.eligibility.min_tenure_days) == (2, 3)
    assert logs.read_manifest(tmp_path) == {}
    (offsets,) = [o for o in lake.offsets_of(tmp_path) if o.topic == ITEMS]
    assert offsets.skipped == {"tombstone": 1}
    row = lake.read_rows(tmp_path, CLICKSTREAM).to_pylist()[1]
    assert (row["partition"], row["offset"], row["timestamp_ms"]) == (0, 1, NOW_MS)


def test_requests_slates_and_audit_records_lie_side_by_side(tmp_path: Path) -> None:
    topics = Topics()
    asked = {"request_id": "r1", "user_id": "u1", "event_time_ms": NOW_MS, "product": "web"}
    slate = slate_id(SlateRequest(**asked))
    topics.add(SLATE_REQUESTS, asked)
    topics.add(SLATES, asked | {"slate_id": slate, "items": [{"item_id": "é"}]})
    audit = {"slate_id": slate, "request": orjson.dumps(asked).decode(), "tier": "fresh"}
    topics.add(SLATE_AUDIT, audit, key=b"u1")
    topics.add(SLATE_AUDIT, {"slate_id": slate}, key=b"u1")
    topics.add(SLATE_AUDIT, None, key=b"u1")
    run(worker(tmp_path), topics)
    for topic in (SLATE_REQUESTS, SLATES, SLATE_AUDIT):
        (row,) = lake.read_rows(tmp_path, topic).to_pylist()
        assert (row["slate_id"], row["request_id"], row["user_id"]) == (slate, "r1", "u1")
        assert row["event_time_ms"] == NOW_MS
        assert row["json"].encode() == topics.logs[topic, 0][0].value
    skipped = {o.topic: o.skipped for o in lake.offsets_of(tmp_path)}
    assert skipped[SLATE_AUDIT] == {"invalid": 1, "not_json": 1}


def test_the_clock_does_not_judge(tmp_path: Path) -> None:
    topics = Topics()
    for number, time_ms in enumerate((0, NOW_MS + 400 * DAY_MS)):
        topics.add(CLICKSTREAM, click(number, "u", time_ms))
    run(worker(tmp_path), topics)
    check_whole(tmp_path, topics)


def test_a_frozen_worker_does_not_write_over_its_successor(tmp_path: Path) -> None:
    topics = few_topics()
    frozen, successor = worker(tmp_path), worker(tmp_path)
    run(frozen, topics, size=2, batches=1)
    asyncio.run(successor.assigned(list(topics.logs)))
    second = topics.batches({place: 2 for place in topics.logs}, 2)[0]
    handle(frozen, second)  # thawed: writes, finds its number taken, and leaves it
    assert all(offset < 2 for _, offset in places(tmp_path, CLICKSTREAM))
    with pytest.raises(Taken):
        handle(frozen, second)
    run(successor, topics)
    run(worker(tmp_path), topics)
    check_whole(tmp_path, topics)


class FreezingDisk(Disk):
    """Has something else happen just before the manifest of the first batch is written or named."""

    def __init__(self, step: str, meanwhile: Callable[[], None]) -> None:
        self.calls = {"write_bytes": 0, "link": 0}
        self.step, self.meanwhile = step, meanwhile

    def write_bytes(self, path: Path, content: bytes) -> None:
        self._before("write_bytes")
        super().write_bytes(path, content)

    def link(self, source: Path, target: Path) -> None:
        self._before("link")
        super().link(source, target)

    def _before(self, step: str) -> None:
        self.calls[step] += 1  # 1 is the take-over
        if (step, self.calls[step]) == (self.step, 2):
            self.meanwhile()


@pytest.mark.parametrize("step", ["write_bytes", "link"])
@pytest.mark.parametrize("num_later", [0, 1, 3, 40])
def test_a_worker_that_freezes_in_its_commit_finds_its_number_taken(
    tmp_path: Path, num_later: int, step: str
) -> None:
    topics = Topics()
    for number in range(100):
        topics.add(CLICKSTREAM, click(number))

    def meanwhile() -> None:
        run(worker(tmp_path), topics, size=2, batches=num_later)

    # After 40 more batches the number itself is free again, and must not be.
    frozen = worker(tmp_path, FreezingDisk(step, meanwhile))
    run(frozen, topics, size=2, batches=1)
    assert len(places(tmp_path, CLICKSTREAM)) == 2 * num_later
    run(worker(tmp_path), topics)
    check_whole(tmp_path, topics)


def test_the_parts_of_a_worker_that_froze_after_its_commit_are_not_lost(tmp_path: Path) -> None:
    topics = few_topics()

    class Frozen(Disk):
        def rename(self, source: Path, target: Path) -> None:
            run(worker(tmp_path), topics)
            for ledger in [Ledger(tmp_path, CLICKSTREAM, 0, "w")]:
                compact(ledger, MERGE_ALL)
                compact(ledger, MERGE_ALL)
            super().rename(source, target)  # fails: it is done, and merged since

    run(worker(tmp_path, Frozen()), topics, size=2, batches=1)
    check_whole(tmp_path, topics)


def test_a_hole_in_kafka_is_told_and_kept(tmp_path: Path, caplog: Any) -> None:
    topics = few_topics()
    run(worker(tmp_path), topics, size=1, batches=1)
    log = topics.logs[CLICKSTREAM, 0]
    work = worker(tmp_path)
    asyncio.run(work.assigned(list(topics.logs)))
    handle(work, log[3:])
    (offsets,) = [o for o in lake.offsets_of(tmp_path) if o.topic == CLICKSTREAM]
    assert offsets.missing == [(1, 3)]
    assert offsets.num_rows + sum(offsets.skipped.values()) + 2 == offsets.next_offset == 6
    assert "gone from Kafka" in caplog.text


def test_a_compacted_topic_has_holes_by_its_nature(tmp_path: Path) -> None:
    topics = Topics()
    for version in range(6):
        topics.add(ITEMS, {"item_id": "i", "version": version, "content_type": "marketing"})
    work = worker(tmp_path)
    asyncio.run(work.assigned(list(topics.logs)))
    handle(work, topics.logs[ITEMS, 0][4:])
    (offsets,) = lake.offsets_of(tmp_path)
    assert (offsets.missing, offsets.next_offset) == ([], 6)


def test_a_lost_folder_is_read_again_from_the_start(tmp_path: Path) -> None:
    topics = few_topics()
    run(worker(tmp_path / "one"), topics)
    positions = asyncio.run(worker(tmp_path / "two").assigned(list(topics.logs)))
    assert set(positions.values()) == {0}


def test_parts_without_their_manifests_are_not_written_again(tmp_path: Path) -> None:
    topics = few_topics()
    run(worker(tmp_path), topics)
    shutil.rmtree(tmp_path / lake.OFFSETS)
    with pytest.raises(lake.LakeError, match="3 parts of partition 0 lie beyond offset 0"):
        run(worker(tmp_path), topics)


def test_a_part_that_the_manifest_names_and_nobody_has_ends_the_worker(tmp_path: Path) -> None:
    topics = few_topics()
    run(worker(tmp_path), topics)
    for part in (tmp_path / CLICKSTREAM).rglob("*.parquet"):
        part.unlink()
    with pytest.raises(lake.LakeError, match="neither it nor .* is there"):
        run(worker(tmp_path), topics)


def test_a_folder_that_is_removed_under_a_worker_ends_it(tmp_path: Path) -> None:
    topics = few_topics()
    work = worker(tmp_path / "lake")
    asyncio.run(work.assigned(list(topics.logs)))
    records = topics.logs[CLICKSTREAM, 0]
    handle(work, records[:1])
    shutil.rmtree(tmp_path / "lake")
    with pytest.raises(CannotGoOn, match="no manifest, .* was the lake's folder removed"):
        handle(work, records[1:])
    # Its successor begins anew with what Kafka has.
    run(worker(tmp_path / "lake"), topics)
    check_whole(tmp_path / "lake", topics)


def test_a_record_that_breaks_the_code_is_left_out_and_counted(tmp_path: Path) -> None:
    topics = few_topics()
    work = worker(tmp_path)
    asyncio.run(work.assigned(list(topics.logs)))
    first = topics.logs[CLICKSTREAM, 0][0]
    asyncio.run(work.refuse(first, KeyError("x")))
    asyncio.run(work.refuse(first, KeyError("x")))
    (offsets,) = [o for o in lake.offsets_of(tmp_path) if o.topic == CLICKSTREAM]
    assert (offsets.next_offset, offsets.skipped) == (1, {"internal_error": 1})


def test_a_full_disk_holds_the_batch_back_and_the_retry_writes_it_once(tmp_path: Path) -> None:
    topics = few_topics()

    class Full(Disk):
        fails = 1

        def write_table(self, path: Path, table: Any) -> None:
            super().write_table(path, table)
            if self.fails:
                self.fails -= 1
                raise OSError(28, "No space left on device")

    work = worker(tmp_path, Full())
    asyncio.run(work.assigned(list(topics.logs)))
    batch = topics.batches({}, 100)[0]
    with pytest.raises(OSError, match="No space"):
        handle(work, batch)
    handle(work, batch)
    check_whole(tmp_path, topics)


def part_sizes(lake_dir: Path, topic: str) -> list[int]:
    """Rows of each part that counts, oldest first."""
    return [
        pq.ParquetFile(path).metadata.num_rows
        for folder in sorted((lake_dir / topic).glob("day=*"))
        for path in visible_parts(folder)
    ]


def test_rows_are_written_anew_a_logarithmic_number_of_times(tmp_path: Path) -> None:
    topics, rewritten = Topics(), 0
    for number in range(240):
        topics.add(CLICKSTREAM, click(number, "u" * 100))
    work = worker(tmp_path)

    async def life() -> None:
        nonlocal rewritten
        positions = dict(await work.assigned(list(topics.logs)))
        (ledger,) = work._ledgers.values()
        for batch in topics.batches(positions, 1):
            await work.handle(batch)
            rewritten += compact(ledger, Limits(max_parts=6, quiet_s=1e9, keep_s=0))
            assert len(part_sizes(tmp_path, CLICKSTREAM)) <= 7

    asyncio.run(life())
    check_whole(tmp_path, topics)
    assert sum(part_sizes(tmp_path, CLICKSTREAM)) == 240
    assert rewritten < 240 * 2


def test_merged_parts_stay_for_readers_and_then_go(tmp_path: Path) -> None:
    topics = few_topics()
    run(worker(tmp_path), topics, size=1)
    ledger = Ledger(tmp_path, CLICKSTREAM, 0, "w")
    before = len(names_of(tmp_path))
    now_s = time.time()
    limits = Limits(max_parts=99, quiet_s=60, keep_s=600)
    assert compact(ledger, limits, lambda: now_s) == 0  # rows may still come
    assert compact(ledger, limits, lambda: now_s + 61) == 4
    assert len(names_of(tmp_path)) == before + 1
    check_whole(tmp_path, topics)
    assert compact(ledger, limits, lambda: now_s + 500) == 0
    assert len(names_of(tmp_path)) == before + 1
    assert compact(ledger, limits, lambda: now_s + 700) == 0
    assert len(names_of(tmp_path)) == before + 1 - 4
    check_whole(tmp_path, topics)
    # Settled folders are not looked at again, until a row comes.
    assert compact(ledger, limits, lambda: now_s + 701) == 0
    assert len(ledger.settled) == 3
    topics.add(CLICKSTREAM, click(99))
    run(worker(tmp_path), topics)
    assert compact(ledger, limits, lambda: now_s + 800) == 2
    check_whole(tmp_path, topics)


def test_merging_beside_a_worker_disturbs_neither(tmp_path: Path) -> None:
    topics = Topics()
    for number in range(60):
        topics.add(CLICKSTREAM, click(number))
    work = worker(tmp_path)

    async def life() -> None:
        positions = dict(await work.assigned(list(topics.logs)))
        for batch in topics.batches(positions, 4):
            await work.handle(batch)
            compact_all(tmp_path, Limits(2, 0, 0), "another process")

    asyncio.run(life())
    check_whole(tmp_path, topics)
    assert len(part_sizes(tmp_path, CLICKSTREAM)) < 8


def test_the_verb_merges_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    topics = few_topics()
    run(worker(tmp_path / "lake"), topics, size=1)
    done = CliRunner().invoke(worker_verbs, ["lake", "--compact-once", "--dir", str(tmp_path)])
    assert done.output == f"4 parts merged under {tmp_path / 'lake'}\n"
    check_whole(tmp_path / "lake", topics)


def test_the_lake_keeps_the_topics_that_its_readers_know() -> None:
    assert set(LAKE_TOPICS) == set(lake.SCHEMAS)
    assert set(lake.SERVING_TABLES) == {SLATE_REQUESTS, SLATES, SLATE_AUDIT}
    assert Lake.topics == LAKE_TOPICS
    with pytest.raises(lake.LakeError, match=r"got table 'user_static'"):
        lake.read_rows(Path("nowhere"), "user_static")

"""Nothing at or after an instant reaches a decision before it, and no hidden truth any of them.

A log is changed beyond recognition from an instant on: events moved, doubled, altered and gone,
nightly rows and consents too, in other files and another order. Everything that a data set says
about earlier pages must stay, to the bit; so must every label that was complete by then.
"""

import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.spec import DAY_MS, MINUTE_MS
from features.windows import FOREST_NAMES
from fintrec import logs
from fintrec.dataset import files
from fintrec.datasets import DatasetConfig, build_dataset, build_training_set

END_MS = 1_795_900_000_123
CONFIG = DatasetConfig(
    validation_days=3, test_days=4, label_days=5, num_shards=3, negatives_rate=0.1
)
SEEN = (
    "user_id",
    *("product", "page", "placement", "layout", "channel", "device", "time_ms", "last_event_ms"),
    *("static", "shown", *FOREST_NAMES),
)


def changed_rows(rng, rows, name, at_ms):
    """Rows before an instant, and what is made of the others."""
    kept = [row for row in rows if row["event_time_ms"] < at_ms]
    late = [row for row in rows if row["event_time_ms"] >= at_ms]
    for place, row in enumerate(late):
        if rng.random() < 0.3:
            continue
        moved = {**row, "event_time_ms": max(at_ms, row["event_time_ms"] - 40_000)}
        if rng.random() < 0.05:
            moved["event_time_ms"] = at_ms  # exactly then: a page of that instant is not earlier
        if moved.get("item_id"):
            moved["item_id"] = "pay_bill_a"
        if "amount_usd" in moved:
            moved |= {"amount_usd": 7.77, "kind": "purchase", "mcc": "3000"}
        if "page" in moved:
            moved |= {"page": "page_of_tomorrow", "anonymous_id": "a"}
        if "marketing" in moved:
            moved |= {"marketing": "opted_out", "effective_from_ms": int(rng.integers(at_ms))}
        kept.append(moved)
        if "event_id" in moved:
            kept += [moved, {**moved, "event_id": f"again-{place}"}]
    if name == logs.CONSENTS:
        users = {row["user_id"] for row in rows}
        told = {"event_time_ms": at_ms, "marketing": "opted_out", "effective_from_ms": at_ms}
        kept += [{**told, "user_id": user_id} for user_id in sorted(users)[::2]]
    return [kept[place] for place in rng.permutation(len(kept))]


def perturbed(log_dir, out, at_ms):
    """The log with everything from an instant on changed, and every file cut in two."""
    rng = np.random.default_rng(0)
    shutil.copytree(log_dir, out)
    for name in logs.EVENT_TABLES:
        shutil.rmtree(out / name)
        rows = changed_rows(rng, logs.read_table(log_dir, name).to_pylist(), name, at_ms)
        logs.write_table(out, name, pa.Table.from_pylist(rows, logs.SCHEMAS[name]))
    static = logs.read_table(log_dir, logs.USER_STATIC_TABLE)
    late = logs.milliseconds(static, "created_timestamp") >= at_ms
    owned = [
        ["mortgage"] if is_late else row
        for row, is_late in zip(static["enrollments"].to_pylist(), late, strict=True)
    ]
    place = static.column_names.index("enrollments")
    shutil.rmtree(out / logs.USER_STATIC_TABLE)
    logs.write_table(
        out, logs.USER_STATIC_TABLE, static.set_column(place, "enrollments", pa.array(owned))
    )
    for path in [*out.rglob("day=*/part-0.parquet")]:
        table = pq.read_table(path, partitioning=None)
        half = table.num_rows // 2
        pq.write_table(table.slice(half), path)
        pq.write_table(table.slice(0, half), path.with_name("part-1.parquet"))


def decisions_of(folder, before_ms):
    """All decisions before an instant: what was seen, with the rows of the history; and labels."""
    seen, clicks, conversions, examples = {}, {}, {}, {}
    windows = files.read_items(folder)[1]
    for shard in range(CONFIG.num_shards):
        rows = pq.read_table(files.shard_path(folder, files.DECISIONS, shard)).to_pylist()
        table = pq.read_table(files.shard_path(folder, files.HISTORIES, shard))
        histories = {}
        for row in table.to_pylist():
            histories.setdefault(row.pop("user_id"), []).append(tuple(row.values()))
        keys = []
        for row in rows:
            key = (row["user_id"], row["time_ms"], row["product"], row["page"], row["placement"])
            keys.append(key)
            if row["time_ms"] >= before_ms:
                continue
            mine = histories.get(row["user_id"], [])[: row["history_end"]]
            seen[key] = (*(str(row[name]) for name in SEEN), tuple(mine))
            if row["time_ms"] + 30 * MINUTE_MS < before_ms:
                clicks[key] = row["clicked"]
            conversions[key] = {
                item for item in row["converted"] if row["time_ms"] + windows[item] < before_ms
            }
        path = files.shard_path(folder, files.CONVERSION_EXAMPLES, shard)
        for row in pq.read_table(path).to_pylist():
            key = keys[row["decision"]]
            if key[1] + windows[row["item"]] < before_ms and key in clicks:
                examples[(*key, row["item"])] = (row["converted"], row["exposure"], row["weight"])
    return seen, clicks, conversions, examples


@pytest.fixture(scope="module")
def built(bank_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaks") / "set"
    build_dataset(bank_log, folder, CONFIG)
    return folder


@pytest.mark.parametrize("days_before_end", [3.3, 11.7])
def test_nothing_from_an_instant_on_changes_what_a_data_set_says_of_before(
    built, bank_log, tmp_path, days_before_end
):
    at_ms = END_MS - int(days_before_end * DAY_MS)
    perturbed(bank_log, tmp_path / "log", at_ms)
    build_dataset(tmp_path / "log", tmp_path / "set", CONFIG)
    expected, found = decisions_of(built, at_ms), decisions_of(tmp_path / "set", at_ms)
    for before, after in zip(expected, found, strict=True):
        assert before == after
    seen, clicks, conversions, examples = expected
    assert len(seen) > 300
    assert sum(map(any, clicks.values())) > 10
    assert sum(map(len, conversions.values())) > 20
    assert len(examples) > 300
    # The change is one: what comes later does differ.
    assert decisions_of(tmp_path / "set", END_MS)[0] != decisions_of(built, END_MS)[0]


def test_the_vocabulary_holds_no_name_that_only_later_pages_have(bank_log, tmp_path):
    at_ms = END_MS - 7 * DAY_MS  # the first instant of validation
    perturbed(bank_log, tmp_path / "log", at_ms)
    expected = build_training_set(bank_log, CONFIG).vocabulary
    assert build_training_set(tmp_path / "log", CONFIG).vocabulary == expected
    earlier = at_ms - DAY_MS
    perturbed(bank_log, tmp_path / "earlier", earlier)
    found = build_training_set(tmp_path / "earlier", CONFIG).vocabulary
    assert "page_of_tomorrow" in found.names["page"]


# Files opened while a test listens; a hook of `sys` stays for good, so it must cost nothing later.
_OPENED: list[str] | None = None


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if _OPENED is not None and event in ("open", "os.listdir", "os.scandir"):
        _OPENED.append(str(arguments[0]))


sys.addaudithook(_heard)


def test_no_file_of_the_hidden_truth_is_opened_and_its_absence_changes_no_byte(bank_log, tmp_path):
    global _OPENED
    log_dir = tmp_path / "log"
    shutil.copytree(bank_log, log_dir)
    build_dataset(log_dir, tmp_path / "without", CONFIG)
    truth = tmp_path / "log.truth"
    day = truth / "impressions" / "day=2026-11-20"
    day.mkdir(parents=True)
    pq.write_table(pa.table({"click_probability": [0.5]}), day / "part-0.parquet")
    pq.write_table(pa.table({"user_id": ["u000001"]}), truth / "users.parquet")
    _OPENED = []
    try:
        build_dataset(log_dir, tmp_path / "with", CONFIG)
        build_training_set(log_dir, CONFIG)
        opened = _OPENED
    finally:
        _OPENED = None
    assert any(str(tmp_path / "with") in path or ".with" in path for path in opened)
    assert not [path for path in opened if "log.truth" in path]
    # Parquet is opened by Arrow, which no hook hears: a folder without rights would fail instead,
    # but root may read all. So the truth is made unreadable as Parquet, and nobody notices.
    for path in truth.rglob("*.parquet"):
        path.write_bytes(b"not Parquet")
    build_dataset(log_dir, tmp_path / "broken", CONFIG)
    for name in ("with", "broken"):
        for path in (tmp_path / "without").rglob("*"):
            if path.is_file():
                same = tmp_path / name / path.relative_to(tmp_path / "without")
                assert same.read_bytes() == path.read_bytes()

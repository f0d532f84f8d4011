"""Nothing at or after an instant reaches a decision before it, and no hidden truth any of them.

A log is changed beyond recognition from an instant on: events moved, doubled, altered and gone,
nightly rows and consents too, in other files and another order. Everything that a data set says
about earlier pages must stay, to the bit; so must every label that was complete by then.
"""

import shutil
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.spec import DAY_MS, MINUTE_MS
from features.vocabulary import fingerprint
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


def changed_rows(rng, rows, name, at_of, is_kept):
    """Rows before their user's instant and those that are kept, and what is made of the others."""
    kept, late = [], []
    for row in rows:
        is_early = row["event_time_ms"] < at_of(row["user_id"]) or is_kept(row)
        (kept if is_early else late).append(row)
    for place, row in enumerate(late):
        if rng.random() < 0.3:
            continue
        at_ms = at_of(row["user_id"])
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
        for user_id in sorted(users)[::2]:
            told = {"event_time_ms": at_of(user_id), "effective_from_ms": at_of(user_id)}
            kept.append({**told, "user_id": user_id, "marketing": "opted_out"})
    return [kept[place] for place in rng.permutation(len(kept))]


def changed_nights(log_dir, at_of):
    """Nightly rows, those that could be read from an instant on changed.

    One more of each user, of a cut-off just before the instant, could first be read at it.
    """
    nights = logs.read_table(log_dir, logs.USER_STATIC_TABLE)
    rows = nights.to_pylist()
    for row, ms in zip(rows, logs.milliseconds(nights, "created_timestamp").tolist(), strict=True):
        if ms >= at_of(row["user_id"]):
            row["enrollments"] = ["mortgage"]
    for row in {row["user_id"]: row for row in rows}.values():
        at_ms = at_of(row["user_id"])
        if at_ms <= END_MS:
            cut_off, readable = (
                datetime.fromtimestamp(ms / 1000, UTC) for ms in (at_ms - 1, at_ms)
            )
            mine = {"event_timestamp": cut_off, "created_timestamp": readable}
            rows.append({**row, **mine, "enrollments": ["mortgage"]})
    return pa.Table.from_pylist(rows, logs.SCHEMAS[logs.USER_STATIC_TABLE])


def just_after(at_of):
    """One millisecond after an instant of each user."""
    return lambda user_id: at_of(user_id) + 1


def nobody(row):
    """Whether a row is kept whenever it happened: none is."""
    return False


def perturbed(log_dir, out, at_of, is_kept=nobody):
    """The log with everything from an instant of each user on changed, and every file cut in two.

    What was decided on consent counts from its instant on, for a page of that instant too: it is
    changed from one millisecond later where that instant's page is kept.
    """
    rng = np.random.default_rng(0)
    shutil.copytree(log_dir, out)
    for name in logs.EVENT_TABLES:
        shutil.rmtree(out / name)
        rows = logs.read_table(log_dir, name).to_pylist()
        is_later = name == logs.CONSENTS and is_kept is not nobody
        rows = changed_rows(rng, rows, name, just_after(at_of) if is_later else at_of, is_kept)
        logs.write_table(out, name, pa.Table.from_pylist(rows, logs.SCHEMAS[name]))
    shutil.rmtree(out / logs.USER_STATIC_TABLE)
    logs.write_table(out, logs.USER_STATIC_TABLE, changed_nights(log_dir, at_of))
    for path in [*out.rglob("day=*/part-0.parquet")]:
        table = pq.read_table(path, partitioning=None)
        half = table.num_rows // 2
        pq.write_table(table.slice(half), path)
        pq.write_table(table.slice(0, half), path.with_name("part-1.parquet"))


def decisions_of(folder, before_of):
    """Decisions before an instant of each user: what was seen, with the history; and labels."""
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
            before_ms = before_of(row["user_id"])
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
            before_ms = before_of(key[0])
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
    def at_of(user_id):
        return END_MS - int(days_before_end * DAY_MS)

    perturbed(bank_log, tmp_path / "log", at_of)
    build_dataset(tmp_path / "log", tmp_path / "set", CONFIG)
    expected, found = decisions_of(built, at_of), decisions_of(tmp_path / "set", at_of)
    for before, after in zip(expected, found, strict=True):
        assert before == after
    seen, clicks, conversions, examples = expected
    assert len(seen) > 300
    assert sum(map(any, clicks.values())) > 10
    assert sum(map(len, conversions.values())) > 20
    assert len(examples) > 300
    # The change is one: what comes later does differ.
    assert decisions_of(tmp_path / "set", at_end)[0] != decisions_of(built, at_end)[0]


@pytest.mark.parametrize(("share", "is_page_kept"), [(0.3, True), (0.7, True), (0.6, False)])
def test_nothing_at_or_just_after_a_page_of_each_user_changes_it_or_what_was_before(
    built, bank_log, tmp_path, share, is_page_kept
):
    pages = {}
    for row in logs.read_table(bank_log, logs.CLICKSTREAM).to_pylist():
        if row["action"] == "impression" and row["user_id"]:
            pages.setdefault(row["user_id"], set()).add(row["event_time_ms"])
    # Another of its pages for each user, so that they lie at all hours, all over the log.
    chosen = {}
    for number, (user_id, times) in enumerate(sorted(pages.items())):
        place = int(len(times) * (share + number / len(pages))) % len(times)
        chosen[user_id] = sorted(times)[place]

    def at_of(user_id):
        return chosen.get(user_id, END_MS + 1)

    def is_kept(row):
        is_page = row.get("action") == "impression"
        return is_page and row["event_time_ms"] == at_of(row["user_id"])

    before_of = just_after(at_of) if is_page_kept else at_of
    perturbed(bank_log, tmp_path / "log", at_of, is_kept if is_page_kept else nobody)
    build_dataset(tmp_path / "log", tmp_path / "set", CONFIG)
    expected, found = decisions_of(built, before_of), decisions_of(tmp_path / "set", before_of)
    tomorrow = fingerprint("page", "page_of_tomorrow")
    for key in [key for key in found[0] if key[3] == tomorrow]:
        assert key[1] == at_of(key[0])  # a page of the change itself, made of what was moved there
        del found[0][key], found[2][key]
    for before, after in zip(expected, found, strict=True):
        assert before == after
    seen, clicks, conversions, examples = expected
    of_the_instant = [key for key in seen if key[1] == at_of(key[0])]
    assert len(of_the_instant) > 40 if is_page_kept else not of_the_instant
    assert len(seen) > 300
    assert min(len(clicks), len(conversions), len(examples)) > 300
    counts = [files.read_manifest(folder)["counts"] for folder in (built, tmp_path / "set")]
    assert counts[0] != counts[1]  # the change is one


def at_end(user_id):
    """The end of the log, whoever asks."""
    return END_MS


def test_the_vocabulary_holds_no_name_that_only_later_pages_have(bank_log, tmp_path):
    at_ms = END_MS - 7 * DAY_MS  # the first instant of validation
    perturbed(bank_log, tmp_path / "log", lambda user_id: at_ms)
    expected = build_training_set(bank_log, CONFIG).vocabulary
    assert build_training_set(tmp_path / "log", CONFIG).vocabulary == expected
    earlier = at_ms - DAY_MS
    perturbed(bank_log, tmp_path / "earlier", lambda user_id: earlier)
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

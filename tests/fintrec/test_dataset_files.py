"""DATASET_DIR: what is written is what is built, whatever the shards."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.rows import cents_of
from features.spec import DAY_MS, registry_fingerprint
from fintrec import datasets, logs
from fintrec.dataset import build, files, plan
from fintrec.dataset.attribution import ATTRIBUTED
from fintrec.dataset.examples import EXPOSURES
from fintrec.dataset.plan import shards_for
from fintrec.dataset.report import report
from fintrec.dataset.spill import shard_of, tables_of
from fintrec.datasets import DatasetConfig, build_dataset, build_training_set, load_training_set

CONFIG = DatasetConfig(validation_days=3, test_days=4, label_days=5)


def assert_equal(one, other):
    """Two training sets hold the same, to the byte."""
    for name in ("items", "content_types", "categories", "users", "exclusions"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.vocabulary.to_dict() == other.vocabulary.to_dict()
    assert one.window_ms.tolist() == other.window_ms.tolist()
    for mine, theirs in zip(one.logs, other.logs, strict=True):
        assert mine.tobytes() == theirs.tobytes()
    for period in datasets.PERIODS:
        mine, theirs = getattr(one, period), getattr(other, period)
        for field in mine.__dataclass_fields__:
            left, right = getattr(mine, field), getattr(theirs, field)
            if isinstance(left, np.ndarray):
                assert left.dtype == right.dtype, field
                assert left.tobytes() == right.tobytes(), field
            else:
                assert left == right, field


@pytest.mark.parametrize("num_shards", [1, 7, 100])
def test_a_data_set_on_disk_equals_the_one_in_memory_whatever_the_shards(
    bank_log, tmp_path, num_shards
):
    config = DatasetConfig(validation_days=3, test_days=4, label_days=5, num_shards=num_shards)
    build_dataset(bank_log, tmp_path / "set", config)
    loaded = load_training_set(tmp_path / "set")
    assert len(loaded.train) > 300
    assert_equal(loaded, build_training_set(bank_log, CONFIG))


@pytest.fixture(scope="module")
def built(bank_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "set"
    build_dataset(bank_log, folder, replace(CONFIG, num_shards=4))
    return folder


@pytest.fixture(scope="module")
def ts(bank_log):
    return build_training_set(bank_log, CONFIG)


def rows_of(folder, table):
    """A table's rows with the shard that each lies in, and every decision's row by shard."""
    return [
        {"shard": number, **row}
        for number in range(4)
        for row in pq.read_table(files.shard_path(folder, table, number)).to_pylist()
    ]


def test_users_are_split_by_a_hash_that_no_machine_changes(built):
    assert [shard_of(name, 4) for name in ("u000001", "u000002", "")] == [1, 3, 0]
    for row in rows_of(built, files.DECISIONS):
        assert shard_of(row["user_id"], 4) == row["shard"]


def test_a_page_gives_a_click_example_for_everything_it_showed(built):
    expected, number = [], Counter()
    for row in rows_of(built, files.DECISIONS):
        place = (row["shard"], number[row["shard"]], row["split"])
        number[row["shard"]] += 1
        expected += [
            (*place, slot + 1, item, row["clicked"][slot])
            for slot, item in enumerate(row["shown"])
            if item >= 0
        ]
    found = [
        (r["shard"], r["decision"], r["split"], r["position"], r["item"], r["clicked"])
        for r in rows_of(built, files.CLICK_EXAMPLES)
    ]
    assert found == expected
    assert sum(row[-1] for row in found) > 50


def test_conversion_examples_are_all_positives_and_a_share_of_the_negatives(built, bank_log):
    items = files.read_items(built)[0]
    decisions = {}
    for row in rows_of(built, files.DECISIONS):
        decisions.setdefault(row["shard"], []).append(row)
    positives, num_negatives, num_labels, kinds = set(), 0, 0, set()
    for row in rows_of(built, files.CONVERSION_EXAMPLES):
        decision = decisions[row["shard"]][row["decision"]]
        item = row["item"]
        assert row["split"] == decision["split"]
        assert decision["time_ms"] + items[item]["window_ms"] <= decision["observed_until_ms"]
        assert row["converted"] == (item in decision["converted"])
        clicked = [i for i, c in zip(decision["shown"], decision["clicked"], strict=True) if c]
        kind = (
            "click" if item in clicked else "exposure" if item in decision["shown"] else "neither"
        )
        assert row["exposure"] == kind
        assert row["weight"] == pytest.approx(1 if row["converted"] else 50)
        if row["converted"]:
            positives.add((row["shard"], row["decision"], item))
            kinds.add(kind)
        num_negatives += not row["converted"]
    for shard, mine in decisions.items():
        for number, decision in enumerate(mine):
            assert {(shard, number, item) for item in decision["converted"]} <= positives
            num_labels += sum(
                decision["time_ms"] + item["window_ms"] <= decision["observed_until_ms"]
                for item in items
            )
    assert kinds == {"click", "exposure", "neither"}
    # The weights make up for what was left out, within what chance allows.
    expected = num_labels - len(positives)
    assert abs(num_negatives * 50 - expected) < 5 * 50 * num_negatives**0.5


def test_negatives_are_chosen_by_what_they_are_not_by_shard_or_rate(bank_log, built, tmp_path):
    def chosen(folder, num_shards):
        found = set()
        for number in range(num_shards):
            rows = pq.read_table(files.shard_path(folder, files.DECISIONS, number)).to_pylist()
            path = files.shard_path(folder, files.CONVERSION_EXAMPLES, number)
            for row in pq.read_table(path).to_pylist():
                decision = rows[row["decision"]]
                place = (decision["product"], decision["page"], decision["placement"])
                found.add((decision["user_id"], decision["time_ms"], *place, row["item"]))
        return found

    build_dataset(bank_log, tmp_path / "one", replace(CONFIG, num_shards=1))
    build_dataset(bank_log, tmp_path / "more", replace(CONFIG, negatives_rate=0.05))
    build_dataset(bank_log, tmp_path / "all", replace(CONFIG, negatives_rate=1))
    assert chosen(tmp_path / "one", 1) == chosen(built, 4)
    assert chosen(tmp_path / "more", 1) > chosen(built, 4)
    manifest = files.read_manifest(tmp_path / "all")
    for period in manifest["counts"]["periods"].values():
        assert period["pcvr"]["rows"] == period["pcvr"]["labels"]


def test_the_report_counts_what_the_tables_hold(built, ts, bank_log):
    found = report(built)
    for period in datasets.PERIODS:
        decisions, mine = getattr(ts, period), found["periods"][period]
        assert mine["decisions"] == len(decisions)
        assert mine["users"] == len(np.unique(decisions.user))
        assert mine["pctr"]["rows"] == (decisions.shown >= 0).sum()
        assert mine["pctr"]["positives"] == decisions.clicked.sum()
        assert mine["pcvr"]["labels"] == datasets.label_known(ts, decisions).sum()
        assert mine["pcvr"]["positives"] == len(decisions.converted_items)
        kinds = [mine["pcvr"][f"positives_with_{kind}"] for kind in EXPOSURES]
        assert sum(kinds) == mine["pcvr"]["positives"]
        examples = [r for r in rows_of(built, files.CONVERSION_EXAMPLES) if r["split"] == period]
        assert mine["pcvr"]["rows"] == len(examples)
    assert found["exclusions"] == ts.exclusions
    assert found["users"] == len(ts.users)
    assert found["history_rows"] == sum(map(len, ts.logs))
    for name in logs.EVENT_TABLES:
        assert found["log_rows"][name] == logs.read_table(bank_log, name).num_rows


def test_conversions_of_an_item_are_attributed_within_its_window(built, bank_log):
    rows = [
        row
        for name in (logs.CLICKSTREAM, logs.CONVERSIONS)
        for row in logs.read_table(bank_log, name).to_pylist()
    ]
    items = {row["item_id"]: row["window_ms"] for row in files.read_items(built)[0]}
    events = {}
    for row in rows:
        if row["item_id"]:
            kind = row.get("action", "conversion")
            of_item = events.setdefault((row["user_id"], row["item_id"]), {})
            of_item.setdefault(kind, []).append(row["event_time_ms"])
    expected = {name: Counter() for name in items}
    for (_, name), mine in events.items():
        window, counts = items[name], expected[name]
        shown, clicks, reached = (mine.get(k, []) for k in ("impression", "click", "conversion"))
        counts["exposures"] += len(shown)
        counts["clicks"] += len(clicks)
        counts["conversions"] += len(reached)
        counts["exposures_converted"] += sum(
            any(t < c <= t + window for c in reached) for t in shown
        )
        for time_ms in reached:
            if any(t < time_ms <= t + window for t in clicks):
                counts["conversions_with_click"] += 1
            elif any(t < time_ms <= t + window for t in shown):
                counts["conversions_with_exposure"] += 1
            else:
                counts["conversions_with_neither"] += 1
    found = report(built)
    for name, counts in expected.items():
        assert {key: found["items"][name][key] for key in ATTRIBUTED} == {
            key: counts[key] for key in ATTRIBUTED
        }
    for kinds in ("categories", "content_types"):
        total = sum(group["exposures_converted"] for group in found[kinds].values())
        assert total == sum(counts["exposures_converted"] for counts in expected.values()) > 100


def test_forest_features_are_those_of_the_whole_log_before_the_page(built, bank_log):
    rows = logs.read_table(bank_log, logs.TRANSACTIONS).to_pylist()
    for decision in rows_of(built, files.DECISIONS)[::97]:
        end_ms = decision["time_ms"]
        mine = [
            row
            for row in rows
            if row["user_id"] == decision["user_id"]
            and row["kind"] == "purchase"
            and end_ms - 14 * DAY_MS < row["event_time_ms"] < end_ms
        ]
        assert decision["purchases_count_14d"] == len(mine)
        spent = sum(cents_of(row["amount_usd"]) for row in mine)
        assert decision["spend_sum_14d"] == spent


def test_a_data_set_appears_whole_or_not_at_all(bank_log, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(build, "vocabulary_of", fail)
    with pytest.raises(OSError, match="disk full"):
        build_dataset(bank_log, tmp_path / "set", CONFIG)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / ".set.unfinished").mkdir()  # as after a kill
    build_dataset(bank_log, tmp_path / "set", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    with pytest.raises(ValueError, match="is not empty"):
        build_dataset(bank_log, tmp_path / "set", CONFIG)


def test_a_folder_that_is_no_data_set_is_named(built, bank_log, tmp_path):
    assert datasets.is_dataset(built)
    for folder in (bank_log, tmp_path):
        assert not datasets.is_dataset(folder)
        with pytest.raises(files.DatasetError, match="not a data set's manifest"):
            load_training_set(folder)
    shutil.copytree(built, tmp_path / "set")
    path = tmp_path / "set" / files.DECISIONS / "shard-00002.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(files.DatasetError, match=r"shard-00002\.parquet: not a readable"):
        load_training_set(tmp_path / "set")
    manifest = tmp_path / "set" / files.MANIFEST
    other = manifest.read_text().replace(registry_fingerprint(), "0" * 64)
    manifest.write_text(other)
    with pytest.raises(files.DatasetError, match="built with feature registry 000000000000"):
        load_training_set(tmp_path / "set")
    manifest.write_text(other.replace('"dataset_format": 1', '"dataset_format": 9'))
    with pytest.raises(files.DatasetError, match="format 9, expected 1: build it again"):
        load_training_set(tmp_path / "set")


def test_the_number_of_shards_follows_the_rows(bank_log, monkeypatch):
    found = tables_of(bank_log)
    assert shards_for(found, CONFIG) == 1
    monkeypatch.setattr(plan, "ROWS_OF_A_SHARD", 1_000)
    rows = sum(pq.read_metadata(path).num_rows for _, path in found)
    assert shards_for(found, CONFIG) == -(-rows // 1_000)
    assert shards_for(found, CONFIG, most=2) == 2
    assert shards_for(found, replace(CONFIG, num_shards=3)) == 3


def test_the_local_engine_is_not_asked_for_more_open_files_than_there_are(bank_log, tmp_path):
    many = replace(CONFIG, num_shards=100_000)
    with pytest.raises(
        ValueError, match="num_shards=100000 must be at most 512: this engine keeps"
    ):
        build_dataset(bank_log, tmp_path / "set", many)
    assert not (tmp_path / "set").exists()

"""Files to records of users, and back: what Spark may deliver in any order."""

import json

import numpy as np
import pyarrow as pa
import pytest

from features.history import ROW
from features.rows import row_of
from fintrec import logs
from fintrec.dataset.files import TABLES, shard_path, write_shard
from fintrec.dataset.plan import make_plan
from fintrec.dataset.shard import build_shard
from fintrec.dataset.spill import EVENTS, SPILL, Facts, gathered, shard_of, spilled, tables_of
from fintrec.datasets import DatasetConfig

CONFIG = DatasetConfig(validation_days=3, test_days=4, label_days=5)


@pytest.fixture(scope="module")
def parts(bank_log):
    return [spilled(name, path, 4) for name, path in tables_of(bank_log)]


@pytest.fixture(scope="module")
def facts(parts):
    total = Facts()
    for _, found in parts:
        total.add(found)
    return total


def test_a_file_becomes_one_record_a_user_in_the_order_of_the_shards(bank_log):
    name, path = max(tables_of(bank_log), key=lambda file: file[1].stat().st_size)
    assert name == logs.CLICKSTREAM
    records, found = spilled(name, path, 4)
    shards = records["shard"].to_pylist()
    ids = records["user_id"].to_pylist()
    assert shards == sorted(shards) == [shard_of(user_id, 4) for user_id in ids]
    assert len(ids) == len(set(ids)) > 5
    source = logs.read_part(path, name).to_pylist()
    known = [row for row in source if row["user_id"]]
    assert found.num_events == len(known)
    assert found.counts["anonymous_events"] == len(source) - len(known)
    for user_id, blob in zip(ids, records["rows"].to_pylist(), strict=True):
        mine = []
        for row in known:
            if row["user_id"] == user_id:
                given = {key: value for key, value in row.items() if value is not None}
                mine.append(row_of(logs.RECORDS[name](**given)))
        assert sorted(np.frombuffer(blob, ROW).tolist()) == sorted(mine)


def test_facts_add_up_in_any_order_and_survive_json(parts, facts):
    again = Facts()
    for place in np.random.default_rng(0).permutation(len(parts)):
        again.add(Facts.from_dict(json.loads(json.dumps(parts[place][1].to_dict()))))
    assert again.to_dict() == facts.to_dict()
    assert facts.first_seen_ms["page"]["home"] >= facts.first_ms
    assert facts.num_events == sum(found.num_events for _, found in parts) > 1000


def test_a_shard_is_a_function_of_its_records_whatever_their_order_and_cut(
    bank_log, parts, facts, tmp_path
):
    plan = make_plan(logs.read_manifest(bank_log), logs.read_items(bank_log), facts, CONFIG)
    records = pa.concat_tables([table for table, _ in parts])
    records = records.filter(pa.array(records["shard"].to_numpy() == 1))
    rng = np.random.default_rng(0)
    shuffled = records.take(pa.array(rng.permutation(len(records))))
    halves = []
    for row in shuffled.to_pylist():
        # Rows of a record in another order, and in two records.
        if row["kind"] != EVENTS:
            halves.append(row)
            continue
        rows = rng.permutation(np.frombuffer(row["rows"], ROW))
        middle = len(rows) // 2
        halves += [{**row, "rows": part.tobytes()} for part in (rows[middle:], rows[:middle])]
    other = pa.Table.from_pylist(halves, SPILL)
    counts = [
        write_shard(tmp_path / folder, 1, build_shard(gathered(table), plan), plan)
        for folder, table in (("one", records), ("other", other))
    ]
    assert counts[0] == counts[1]
    assert counts[0]["users"] > 5
    for table in TABLES:
        one, two = (shard_path(tmp_path / folder, table, 1) for folder in ("one", "other"))
        assert one.read_bytes() == two.read_bytes()


def test_no_records_are_a_shard_without_users(facts, bank_log, tmp_path):
    plan = make_plan(logs.read_manifest(bank_log), logs.read_items(bank_log), facts, CONFIG)
    shard = build_shard(gathered(SPILL.empty_table()), plan)
    assert shard.users == ()
    assert write_shard(tmp_path, 0, shard, plan)["periods"]["train"]["decisions"] == 0

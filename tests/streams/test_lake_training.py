"""A training set built from the lake is the one built from the log that was published."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from fintrec import logs
from fintrec.bank.simulate import SIZES, simulate
from fintrec.datasets import DatasetConfig, Decisions, build_training_set
from streams import replay
from streams.lake_compaction import Limits, compact_all
from streams.lake_nights import copy_nights
from streams.producer import partition_of
from streams.topics import ITEMS
from tests.streams.lake_topics import Topics, run, worker
from tests.streams.workers import NOW_MS

NUM_PARTITIONS = 3


def same(one: Decisions, other: Decisions) -> bool:
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Decisions)
    )


def test_a_training_set_from_the_lake_is_that_from_the_log(tmp_path: Path) -> None:
    log_dir, lake_dir = tmp_path / "log", tmp_path / "lake"
    simulate(SIZES["tiny"], 3, NOW_MS, log_dir)
    topics = Topics()
    for event in replay.outgoing(log_dir, replay.Period()):
        partition = 0 if event.topic == ITEMS else partition_of(event.key, NUM_PARTITIONS)
        topics.add(event.topic, event.value, partition, key=event.key)
    run(worker(lake_dir), topics, size=4000)
    assert copy_nights(log_dir, lake_dir) == copy_nights(log_dir, lake_dir) > 0
    # A lake has no end of its own; told the log's, it must give the same to the bit.
    logs.write_manifest(lake_dir, logs.read_manifest(log_dir))
    config = DatasetConfig(validation_days=4, test_days=4, label_days=7)
    expected = build_training_set(log_dir, config)
    for has_merged in (True, False):
        found = build_training_set(lake_dir, config)
        assert found.exclusions == expected.exclusions
        assert (found.items, found.users) == (expected.items, expected.users)
        assert found.vocabulary == expected.vocabulary
        for ours, theirs in zip(found.logs, expected.logs, strict=True):
            assert ours.tobytes() == theirs.tobytes()
        for name in ("train", "validation", "test"):
            assert same(getattr(found, name), getattr(expected, name)), name
        assert (compact_all(lake_dir, Limits(1, 0, 0), "merger") > 0) is has_merged

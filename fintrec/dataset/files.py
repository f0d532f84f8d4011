"""DATASET_DIR: a training set as Parquet, one file a shard and table (docs/data_layout.md).

DATASET_DIR/manifest.json
DATASET_DIR/vocabulary.json
DATASET_DIR/items.parquet
DATASET_DIR/<table>/shard-NNNNN.parquet
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.encoding import REQUEST_COLUMNS
from features.errors import FintrecError
from features.history import ROW, Rows, concatenated
from features.records import CONTENT_TYPES, Item
from features.spec import NUM_STATIC
from features.vocabulary import Vocabulary
from features.windows import FOREST_FEATURES, forest_features
from fintrec import logs
from fintrec.dataset.counts import counted
from fintrec.dataset.examples import EXPOSURES, ConversionExamples, conversion_examples
from fintrec.dataset.plan import Plan
from fintrec.dataset.shard import Shard
from fintrec.dataset.training_set import PERIODS, SLOTS, Decisions

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
VOCABULARY: Final = "vocabulary.json"
ITEMS: Final = "items.parquet"
DECISIONS: Final = "decisions"
HISTORIES: Final = "histories"
CLICK_EXAMPLES: Final = "click_examples"
CONVERSION_EXAMPLES: Final = "conversion_examples"
TABLES: Final = (DECISIONS, HISTORIES, CLICK_EXAMPLES, CONVERSION_EXAMPLES)
_NAME: Final = pa.dictionary(pa.int8(), pa.string())
# Everything of a decision that a training set reads; the forest's columns stay on disk.
_OF_TRAINING: Final = (
    "user_id",
    "split",
    "history_end",
    *REQUEST_COLUMNS,
    "static",
    "shown",
    "clicked",
    "converted",
)


class DatasetError(FintrecError):
    """A data set directory is not whole, or not one of this version."""


def shard_path(dataset_dir: Path, table: str, shard: int) -> Path:
    """Where a shard's table lies."""
    return dataset_dir / table / f"shard-{shard:05d}.parquet"


def write_shard(dataset_dir: Path, number: int, shard: Shard, plan: Plan) -> dict[str, Any]:
    """Write a shard's tables and return its counts; a table is there whole or not at all."""
    examples = {
        period.name: conversion_examples(shard, decisions, plan)
        for period, decisions in zip(plan.periods, shard.periods, strict=True)
    }
    tables = {
        DECISIONS: _decisions(shard, plan),
        HISTORIES: _histories(shard),
        CLICK_EXAMPLES: _click_examples(shard),
        CONVERSION_EXAMPLES: _conversion_examples(shard, examples),
    }
    for name, table in tables.items():
        path = shard_path(dataset_dir, name, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A second attempt at the same shard, as Spark may start one, must not meet the first.
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        pq.write_table(table, unfinished, compression="zstd")
        unfinished.replace(path)
    return counted(shard, examples, plan)


def _names(values: npt.NDArray[np.integer[Any]], names: tuple[str, ...]) -> pa.Array:
    codes = pa.array(values.astype(np.int8))
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))


def _periods(shard: Shard) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(PERIODS)), [len(part) for part in shard.periods])


def _column(shard: Shard, name: str) -> npt.NDArray[Any]:
    return np.concatenate([getattr(part, name) for part in shard.periods])


def _lists(values: npt.NDArray[Any], width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)


def _decisions(shard: Shard, plan: Plan) -> pa.Table:
    user, time_ms = _column(shard, "user"), _column(shard, "time_ms")
    request = _column(shard, "request").astype(np.int64)
    until_ms = np.array([part.observed_until_ms for part in shard.periods], np.int64)
    counts = np.concatenate([np.diff(part.converted_indptr) for part in shard.periods])
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    columns = {
        "user_id": pa.array(shard.users, pa.string()).take(pa.array(user)),
        "split": _names(_periods(shard), PERIODS),
        "history_end": pa.array(_column(shard, "end")),
        **{name: pa.array(request[:, at]) for at, name in enumerate(REQUEST_COLUMNS)},
        "static": _lists(_column(shard, "static").astype(np.float32), NUM_STATIC),
        "shown": _lists(_column(shard, "shown"), SLOTS),
        "clicked": _lists(_column(shard, "clicked"), SLOTS),
        "converted": pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(_column(shard, "converted_items"))
        ),
        "observed_until_ms": pa.array(until_ms[_periods(shard)]),
    }
    kinds = np.array([CONTENT_TYPES.index(item.content_type) for item in plan.items] + [-1])
    timeline = shard.timeline
    found = forest_features(
        timeline.rows,
        timeline.lengths,
        kinds[timeline.item_row],  # -1, no known item, is the last
        shard.place[user],
        time_ms,
    )
    for at, feature in enumerate(FOREST_FEATURES):
        columns[feature.name] = pa.array(found[:, at].astype(feature.dtype))
    return pa.table(columns)


def _histories(shard: Shard) -> pa.Table:
    rows = concatenated(shard.logs) if shard.logs else np.empty(0, ROW)
    owner = np.repeat(np.arange(len(shard.users)), [len(log) for log in shard.logs])
    names = [name for name in ROW.names or () if name != "spare"]
    ids = pa.array(shard.users, pa.string()).take(pa.array(owner))
    fields = {name: pa.array(np.ascontiguousarray(rows[name])) for name in names}
    return pa.table({"user_id": ids, **fields})


def _click_examples(shard: Shard) -> pa.Table:
    shown, clicked = _column(shard, "shown"), _column(shard, "clicked")
    decision, slot = np.nonzero(shown >= 0)
    return pa.table(
        {
            "split": _names(_periods(shard)[decision], PERIODS),
            "decision": pa.array(decision.astype(np.int32)),
            "position": pa.array((slot + 1).astype(np.int8)),
            "item": pa.array(shown[decision, slot]),
            "clicked": pa.array(clicked[decision, slot]),
        }
    )


def _conversion_examples(shard: Shard, examples: Mapping[str, ConversionExamples]) -> pa.Table:
    parts = [examples[name] for name in PERIODS]
    before = np.cumsum([0, *(len(part) for part in shard.periods)])
    decision = np.concatenate([part.decision + before[n] for n, part in enumerate(parts)])
    split = np.repeat(np.arange(len(PERIODS)), [len(part.decision) for part in parts])
    return pa.table(
        {
            "split": _names(split, PERIODS),
            "decision": pa.array(decision.astype(np.int32)),
            "item": pa.array(np.concatenate([part.item for part in parts])),
            "exposure": _names(np.concatenate([part.exposure for part in parts]), EXPOSURES),
            "converted": pa.array(np.concatenate([part.converted for part in parts])),
            "weight": pa.array(np.concatenate([part.weight for part in parts])),
        }
    )


def write_items(dataset_dir: Path, items: tuple[Item, ...], window_ms: tuple[int, ...]) -> None:
    """The catalogue in item order, with the windows that labels have."""
    rows = [
        {**msgspec.to_builtins(item), "window_ms": window}
        for item, window in zip(items, window_ms, strict=True)
    ]
    schema = logs.SCHEMAS[logs.ITEMS].append(pa.field("window_ms", pa.int64()))
    pq.write_table(pa.Table.from_pylist(rows, schema), dataset_dir / ITEMS, compression="zstd")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file that people can read, the same bytes for the same content."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a data set, not a log."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "dataset_format" in found


def read_manifest(dataset_dir: Path) -> dict[str, Any]:
    """A data set's manifest; DatasetError where there is none of this version."""
    path = dataset_dir / MANIFEST
    if not is_dataset(dataset_dir):
        raise DatasetError(
            f"{path}: not a data set's manifest, expected what 'fintrec dataset build' writes last"
        )
    found: dict[str, Any] = json.loads(path.read_bytes())
    if found["dataset_format"] != FORMAT:
        raise DatasetError(
            f"{path}: data set format {found['dataset_format']}, expected {FORMAT}: build it again"
        )
    return found


def check_shards(dataset_dir: Path, num_shards: int) -> None:
    """Raise DatasetError where a table of a shard is missing or no whole Parquet file."""
    for table in TABLES:
        for number in range(num_shards):
            path = shard_path(dataset_dir, table, number)
            if not path.is_file():
                raise DatasetError(
                    f"{path}: no such file, expected shard {number} of {num_shards}: build it again"
                )
            try:
                pq.read_metadata(path)
            except (pa.ArrowException, OSError) as broken:
                raise DatasetError(f"{path}: not a readable Parquet file ({broken})") from broken


def read_items(dataset_dir: Path) -> tuple[list[dict[str, Any]], npt.NDArray[np.int64]]:
    """The catalogue's rows in item order and each item's window in milliseconds."""
    table = _read(dataset_dir / ITEMS)
    return table.to_pylist(), table["window_ms"].to_numpy().astype(np.int64)


def read_vocabulary(dataset_dir: Path) -> Vocabulary:
    """Names and scored items, as of the start of validation."""
    path = dataset_dir / VOCABULARY
    try:
        return Vocabulary.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError) as broken:
        raise DatasetError(f"{path}: not a readable vocabulary ({broken})") from broken


def read_shards(
    dataset_dir: Path, num_shards: int, observed_until_ms: Sequence[int]
) -> Iterator[tuple[tuple[str, ...], list[Rows], tuple[Decisions, ...]]]:
    """Users, logs and decisions by period of each shard."""
    for number in range(num_shards):
        table = _read(shard_path(dataset_dir, DECISIONS, number), list(_OF_TRAINING))
        ids = table["user_id"].to_pylist()
        users = tuple(sorted(set(ids)))
        place = {name: at for at, name in enumerate(users)}
        user = np.array([place[name] for name in ids], np.int32)
        whole = _read_decisions(table, user)
        split = logs.coded(table, "split")
        code = split.mapped(PERIODS.index)
        periods = tuple(
            replace(whole.taken(np.flatnonzero(code == at)), observed_until_ms=until_ms)
            for at, until_ms in enumerate(observed_until_ms)
        )
        yield users, _read_logs(dataset_dir, number, users), periods


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowException, OSError) as broken:
        raise DatasetError(f"{path}: not a readable Parquet file ({broken})") from broken


def _read_decisions(table: pa.Table, user: npt.NDArray[np.int32]) -> Decisions:
    def flat(name: str) -> npt.NDArray[Any]:
        return table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)

    request = np.column_stack([table[name].to_numpy() for name in REQUEST_COLUMNS])
    counts = pc.list_value_length(table["converted"]).to_numpy()
    return Decisions(
        user=user,
        end=table["history_end"].to_numpy().astype(np.int32),
        time_ms=table["time_ms"].to_numpy().astype(np.int64),
        request=request.astype(np.int64),
        static=flat("static").reshape(-1, NUM_STATIC).astype(np.float16),
        shown=flat("shown").reshape(-1, SLOTS).astype(np.int32),
        clicked=flat("clicked").reshape(-1, SLOTS).astype(bool),
        converted_indptr=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        converted_items=flat("converted").astype(np.int32),
    )


def _read_logs(dataset_dir: Path, number: int, users: tuple[str, ...]) -> list[Rows]:
    table = _read(shard_path(dataset_dir, HISTORIES, number))
    rows = np.zeros(table.num_rows, ROW)
    for name in table.column_names:
        if name != "user_id":
            rows[name] = table[name].to_numpy()
    place = {name: at for at, name in enumerate(users)}
    owner = np.array([place[name] for name in table["user_id"].to_pylist()], np.int64)
    lengths = np.bincount(owner, minlength=len(users))
    return np.split(rows, np.cumsum(lengths)[:-1]) if users else []

"""What the trees read of a DATASET_DIR: engineered features of pages, and sampled examples.

The forest's features lie on disk beside the decisions and are not part of a training set. Here they
are read in the order of `load_training_set`, so that a place in `data.test` means the same page.

Shapes: M decisions of a period, F engineered features, N examples
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from features.windows import FOREST_NAMES, forest_fingerprint
from fintrec.dataset import files
from fintrec.datasets import PERIODS, TrainingSet

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Examples:
    """Sampled (page, item) of one period: all positives, of the negatives `negatives_rate`.

    `page` is a place in the period's decisions, `item` in the items.
    """

    page: IntArray
    item: IntArray
    converted: npt.NDArray[np.bool_]
    negatives_rate: float

    def __len__(self) -> int:
        return len(self.page)

    def some(self, limit: int, rng: np.random.Generator) -> "Examples":
        """At most `limit` examples, evenly likely whatever their label, in order."""
        if len(self) <= limit:
            return self
        rows = np.sort(rng.choice(len(self), limit, replace=False))
        return Examples(self.page[rows], self.item[rows], self.converted[rows], self.negatives_rate)


@dataclass(frozen=True, slots=True)
class Engineered:
    """The engineered features (M, F) and the examples by period."""

    features: Mapping[str, Float32Array]
    examples: Mapping[str, Examples]


def read(dataset_dir: Path, data: TrainingSet) -> Engineered:
    """Read features and examples for the training set that was loaded from the same folder.

    DatasetError where the folder was built with other features, or is not the one of `data`.
    """
    manifest = files.read_manifest(dataset_dir)
    if manifest["forest_fingerprint"] != forest_fingerprint():
        raise files.DatasetError(
            f"{dataset_dir}: built with forest features {manifest['forest_fingerprint'][:12]}, "
            f"this code has {forest_fingerprint()[:12]}: build it again"
        )
    rate = float(manifest["config"]["negatives_rate"])
    shards = [_shard(dataset_dir, number) for number in range(manifest["num_shards"])]
    features, examples = {}, {}
    for code, name in enumerate(PERIODS):
        order, place = _order(shards, code)
        decisions = getattr(data, name)
        time_ms = np.concatenate([s["time_ms"][s["split"] == code] for s in shards])[order]
        if not np.array_equal(time_ms, decisions.time_ms):
            raise files.DatasetError(
                f"{dataset_dir}: {len(time_ms)} {name} decisions are not the "
                f"{len(decisions)} of the training set, expected the folder it was loaded from"
            )
        features[name] = np.concatenate([s["features"][s["split"] == code] for s in shards])[order]
        examples[name] = _examples(shards, code, place, rate)
    return Engineered(features, examples)


def _shard(dataset_dir: Path, number: int) -> dict[str, npt.NDArray[np.generic]]:
    """Columns of a shard: its decisions, and its examples under names that begin with `example`."""
    columns = ["user_id", "split", "time_ms", *FOREST_NAMES]
    table = pq.read_table(
        files.shard_path(dataset_dir, files.DECISIONS, number), columns=columns, partitioning=None
    )
    drawn = pq.read_table(
        files.shard_path(dataset_dir, files.CONVERSION_EXAMPLES, number), partitioning=None
    )
    return {
        "user_id": np.array(table["user_id"].to_pylist(), object),
        "split": _codes(table["split"].to_pylist()),
        "time_ms": table["time_ms"].to_numpy().astype(np.int64),
        "features": np.column_stack(
            [table[name].to_numpy().astype(np.float32) for name in FOREST_NAMES]
        ),
        "example_split": _codes(drawn["split"].to_pylist()),
        "example_decision": drawn["decision"].to_numpy().astype(np.int64),
        "example_item": drawn["item"].to_numpy().astype(np.int64),
        "example_converted": drawn["converted"].to_numpy(zero_copy_only=False).astype(bool),
    }


def _codes(names: list[str]) -> IntArray:
    code = {name: at for at, name in enumerate(PERIODS)}
    return np.array([code[name] for name in names], np.int64)


def _order(
    shards: list[dict[str, npt.NDArray[np.generic]]], code: int
) -> tuple[IntArray, list[IntArray]]:
    """The training set's order of a period's decisions, one shard behind the other, and where each
    of a shard's rows of the period went (-1: of another period).
    """
    here = [np.flatnonzero(shard["split"] == code) for shard in shards]
    users = np.concatenate([s["user_id"][rows] for s, rows in zip(shards, here, strict=True)])
    times = np.concatenate([s["time_ms"][rows] for s, rows in zip(shards, here, strict=True)])
    _, owner = np.unique(users.astype(str), return_inverse=True)
    order = np.lexsort((owner.reshape(-1), times)).astype(np.int64)
    went = np.empty(len(order), np.int64)
    went[order] = np.arange(len(order))
    place, first = [], 0
    for shard, rows in zip(shards, here, strict=True):
        mine = np.full(len(shard["split"]), -1, np.int64)
        mine[rows] = went[first : first + len(rows)]
        first += len(rows)
        place.append(mine)
    return order, place


def _examples(
    shards: list[dict[str, npt.NDArray[np.generic]]],
    code: int,
    place: list[IntArray],
    negatives_rate: float,
) -> Examples:
    parts = []
    for shard, went in zip(shards, place, strict=True):
        own = shard["example_split"] == code
        page = went[shard["example_decision"][own].astype(np.int64)]
        parts.append((page, shard["example_item"][own], shard["example_converted"][own]))
    page, item, converted = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((item, page))
    return Examples(
        page[order].astype(np.int64),
        item[order].astype(np.int64),
        converted[order].astype(bool),
        negatives_rate,
    )

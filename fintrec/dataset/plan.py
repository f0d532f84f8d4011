"""What every shard is built by: items and windows, periods, rules. Made once from the whole log."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from features.categories import CATEGORIES
from features.records import Item
from features.spec import DAY_MS
from features.vocabulary import Vocabulary
from fintrec import logs
from fintrec.dataset.config import DatasetConfig, window_days
from fintrec.dataset.spill import Facts

ROWS_OF_A_SHARD: Final = 1_000_000  # about half a gigabyte at work


@dataclass(frozen=True, slots=True)
class Period:
    """Decisions within [start, end), whose labels may look no further than `observed_until_ms`."""

    name: str
    start_ms: int
    end_ms: int
    observed_until_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a log is cut; `items` by id, `window_ms` by item, `end_ms` the end of the log."""

    items: tuple[Item, ...]
    window_ms: tuple[int, ...]
    periods: tuple[Period, Period, Period]
    end_ms: int
    notice_ms: int
    negatives_rate: float

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Ids in item order."""
        return tuple(item.item_id for item in self.items)


def make_plan(
    log: Mapping[str, Any], items: tuple[Item, ...], facts: Facts, config: DatasetConfig
) -> Plan:
    """The plan of a log with this manifest, catalogue and facts; ValueError where it is too short."""
    start_ms = int(log.get("start_ms", facts.first_ms))
    end_ms = int(log.get("end_ms", facts.last_ms + 1))
    until_ms = end_ms - int(config.label_only_days * DAY_MS)
    test_ms = until_ms - int(config.test_days * DAY_MS)
    validation_ms = test_ms - int(config.validation_days * DAY_MS)
    if validation_ms <= start_ms:
        days = (end_ms - start_ms) / DAY_MS
        raise ValueError(
            f"the log covers {days:.1f} days; validation_days={config.validation_days}, "
            f"test_days={config.test_days} and label_only_days={config.label_only_days} "
            "leave none to train on"
        )
    first_ms = min(facts.first_ms, start_ms)
    if config.train_days is not None:
        first_ms = max(first_ms, validation_ms - int(config.train_days * DAY_MS))
    return Plan(
        items=items,
        window_ms=tuple(int(days * DAY_MS) for days in window_days(items, config)),
        periods=(
            Period("train", first_ms, validation_ms, validation_ms),
            Period("validation", validation_ms, test_ms, end_ms),
            Period("test", test_ms, until_ms, end_ms),
        ),
        end_ms=end_ms,
        notice_ms=int(config.notice_days * DAY_MS),
        negatives_rate=config.negatives_rate,
    )


def vocabulary_of(plan: Plan, facts: Facts) -> Vocabulary:
    """Names that occurred in the training period; every item and merchant category has a token."""
    before_ms = plan.periods[0].end_ms
    names = {
        field: [name for name, first in seen.items() if first < before_ms]
        for field, seen in facts.first_seen_ms.items()
    }
    names["item"] = [f"category/{category}" for category in CATEGORIES[1:]]
    return Vocabulary.build(names, plan.item_ids)


def shards_for(
    files: Sequence[tuple[str, Path]], config: DatasetConfig, most: int | None = None
) -> int:
    """Into how many shards the users are split, by the rows that the files say they have.

    `most` is what the engine can work with. Raises ValueError where the configuration asks for more.
    """
    if config.num_shards is not None:
        if most is not None and config.num_shards > most:
            raise ValueError(
                f"num_shards={config.num_shards} must be at most {most}: this engine keeps a file "
                "open for each shard"
            )
        return config.num_shards
    num_rows = 0
    for _, path in files:
        try:
            num_rows += pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as broken:
            raise logs.LogError(f"{path}: not a readable Parquet file ({broken})") from broken
    wanted = max(1, math.ceil(num_rows / ROWS_OF_A_SHARD))
    return wanted if most is None else min(wanted, most)

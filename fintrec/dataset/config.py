"""How a log is cut into a training set: periods, attribution windows, opt-outs, down-sampling."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from features.errors import ConfigurationError
from features.records import CONTENT_TYPES, Item

_MAPPINGS: Final = (
    "item_window_days",
    "category_window_days",
    "content_type_window_days",
)
_NAMES_SHOWN: Final = 5  # of those that an unknown name might have been
_POSITIVE: Final = ("train_days", "validation_days", "test_days", "label_days", "num_shards")
_NOT_NEGATIVE: Final = ("notice_days", "label_only_days")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """Everything that decides what a data set holds, given the log. Days may be fractions.

    Periods count from the end of the log: `label_only_days` give no decisions and only complete
    the labels of earlier ones; before them lie test, validation and training (`train_days` at
    most, None: all).

    An item's attribution window is the first of: its entry in `item_window_days`, its category's,
    its content type's, the catalogue's; `label_days` caps them all (None: no cap).

    An opt-out counts from `notice_days` before it takes effect, at the earliest when it was told.
    `negatives_rate` is the share of negatives among the conversion examples; each weighs its
    inverse. `num_shards` splits the users (None: one shard a million rows).
    """

    train_days: float | None = None
    validation_days: float = 7
    test_days: float = 7
    label_only_days: float = 0
    label_days: float | None = None
    item_window_days: Mapping[str, float] = field(default_factory=dict)
    category_window_days: Mapping[str, float] = field(default_factory=dict)
    content_type_window_days: Mapping[str, float] = field(default_factory=dict)
    notice_days: float = 30
    negatives_rate: float = 0.02
    num_shards: int | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 < self.negatives_rate <= 1:
            raise ValueError(f"negatives_rate={self.negatives_rate} must be in (0, 1]")
        for name in _MAPPINGS:
            for key, days in getattr(self, name).items():
                if not 0 < days <= 365:
                    raise ValueError(f"{name}.{key}={days} must be in (0, 365]")
        unknown = sorted(set(self.content_type_window_days) - set(CONTENT_TYPES))
        if unknown:
            raise ValueError(f"content_type_window_days has {unknown[0]!r}, not of {CONTENT_TYPES}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as manifests keep it."""
        return {
            f.name: dict(value) if isinstance(value := getattr(self, f.name), Mapping) else value
            for f in dataclasses.fields(self)
        }


def paper() -> DatasetConfig:
    """The paper's split: 90 days of training, 7 of validation, 7 of test."""
    return DatasetConfig(train_days=90)


def demo() -> DatasetConfig:
    """For the demo's 40 days: windows of at most 7 days, so that most labels are complete."""
    return DatasetConfig(validation_days=4, test_days=8, label_days=7)


def config_from(given: Mapping[str, Any], source: str, start: DatasetConfig) -> DatasetConfig:
    """`start` with the given fields changed; ConfigurationError says what of `source` is wrong."""
    known = {f.name for f in dataclasses.fields(DatasetConfig)}
    for key, value in given.items():
        if key not in known:
            raise ConfigurationError(
                f"{source}: key {key!r} is unknown, expected one of {', '.join(sorted(known))}"
            )
        _check(key, value, source)
    try:
        return dataclasses.replace(start, **given)
    except ValueError as refused:
        raise ConfigurationError(f"{source}: {refused}") from refused


def read_config(path: Path, start: DatasetConfig) -> DatasetConfig:
    """`start` with the fields of a TOML file changed; ConfigurationError names file and key."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise ConfigurationError(f"{path}: not TOML ({broken})") from broken
    except OSError as refused:
        raise ConfigurationError(f"{path}: cannot be read ({refused.strerror})") from refused
    return config_from(given, str(path), start)


def _check(key: str, value: Any, source: str) -> None:
    if key in _MAPPINGS:
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{source}: {key} is {value!r}, expected a table of days")
        for name, days in value.items():
            if not _is_number(days):
                raise ConfigurationError(f"{source}: {key}.{name} is {days!r}, expected days")
    elif key == "num_shards":
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigurationError(f"{source}: {key} is {value!r}, expected a whole number")
    elif not _is_number(value):
        raise ConfigurationError(f"{source}: {key} is {value!r}, expected a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def window_days(items: tuple[Item, ...], config: DatasetConfig) -> list[float]:
    """Each item's attribution window; ValueError where the configuration names none of the items."""
    for kind, named, known in (
        ("item", config.item_window_days, {item.item_id for item in items}),
        ("category", config.category_window_days, {item.category for item in items}),
    ):
        unknown = sorted(set(named) - known)
        if unknown:
            near = get_close_matches(unknown[0], known, _NAMES_SHOWN, 0.5)
            shown = near or sorted(known - {""})[:_NAMES_SHOWN]
            raise ValueError(
                f"{kind}_window_days names {unknown[0]!r}, which no item of the log has as its "
                f"{kind}, expected one of {len(known)} such as {', '.join(shown)}"
            )
    cap = float("inf") if config.label_days is None else config.label_days
    found = []
    for item in items:
        days = float(item.attribution_window_days)
        days = config.content_type_window_days.get(item.content_type, days)
        days = config.category_window_days.get(item.category, days)
        days = config.item_window_days.get(item.item_id, days)
        found.append(min(days, cap))
    return found

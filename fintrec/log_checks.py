"""What values a table of a log may hold, row by row; the first that may not is an error.

The limits are those of the records on the wire (`features/records.py`). A row is named by its
place in its file, from 0.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import FintrecError
from features.records import Record
from features.spec import DAY_MS

MAX_TENURE_DAYS: Final = 100_000
_DAY_COLUMN: Final = "event_time_ms"
_LIMITED: Final = (msgspec.inspect.StrType, msgspec.inspect.IntType, msgspec.inspect.FloatType)


class LogError(FintrecError):
    """A log directory, file, column or value is not what docs/data_layout.md says."""


@lru_cache(maxsize=16)
def _limits(record: type[Record]) -> dict[str, Any]:
    """Meta type of each field that has limits, by field."""
    declared = msgspec.inspect.type_info(record)
    assert isinstance(declared, msgspec.inspect.StructType)
    found = {}
    for field in declared.fields:
        for kind in _members(field.type):
            if isinstance(kind, _LIMITED):
                found[field.name] = kind
    return found


def _members(kind: Any) -> tuple[Any, ...]:
    """The types that a field may have, without what describes them."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _members(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return tuple(member for each in kind.types for member in _members(each))
    return (kind,)


def check_values(table: pa.Table, record: type[Record], where: str) -> None:
    """Raise LogError at the first value outside the record's limits; nulls pass."""
    limits = _limits(record)
    for name in table.column_names:
        kind = limits.get(name)
        if kind is None or not table.num_rows:
            continue
        if isinstance(kind, msgspec.inspect.StrType):
            _check_text(table[name], name, kind, where)
        else:
            _check_number(table[name], name, kind, where)
    if {"user_id", "anonymous_id"} <= set(table.column_names):
        _check_entity(table, where)


def _check_text(column: pa.ChunkedArray, name: str, kind: Any, where: str) -> None:
    pattern = pc.match_substring_regex if kind.pattern else None
    start = 0
    for chunk in column.chunks:
        is_coded = pa.types.is_dictionary(chunk.type)
        values = chunk.dictionary if is_coded else chunk
        lengths = pc.utf8_length(values)
        wrong = pc.less(lengths, kind.min_length or 0)
        if kind.max_length is not None:
            wrong = pc.or_(wrong, pc.greater(lengths, kind.max_length))
        if pattern is not None:
            wrong = pc.or_(wrong, pc.invert(pattern(values, kind.pattern)))
        if pc.any(wrong).as_py():
            if is_coded:
                wrong = wrong.take(chunk.indices)
            row = pc.index(wrong, True).as_py()
            if row >= 0:
                raise LogError(
                    f"{where}: row {start + row}, column {name!r} is {_shown(chunk[row])}, "
                    f"expected {_expected_text(kind)}"
                )
        start += len(chunk)


def _check_number(column: pa.ChunkedArray, name: str, kind: Any, where: str) -> None:
    extremes = pc.min_max(column).as_py()
    low, high = extremes["min"], extremes["max"]
    if low is None:
        return
    if (kind.ge is None or low >= kind.ge) and (kind.le is None or high <= kind.le):
        return
    is_low = kind.ge is not None and low < kind.ge
    wrong = pc.less(column, kind.ge) if is_low else pc.greater(column, kind.le)
    row = pc.index(wrong, True).as_py()
    raise LogError(
        f"{where}: row {row}, column {name!r} is {column[row].as_py()}, "
        f"expected {kind.ge} to {kind.le}"
    )


def _check_entity(table: pa.Table, where: str) -> None:
    nobody = pc.and_(_is_blank(table["user_id"]), _is_blank(table["anonymous_id"]))
    row = pc.index(nobody, True).as_py()
    if row >= 0:
        raise LogError(
            f"{where}: row {row}, columns 'user_id' and 'anonymous_id' are both empty, "
            "expected one of them"
        )


def _is_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(column.cast(pa.string()), ""), True)


def check_nights(table: pa.Table, where: str) -> None:
    """Raise LogError at the first nightly row of nobody, or with a tenure that is none."""
    if not table.num_rows:
        return
    row = pc.index(_is_blank(table["user_id"]), True).as_py()
    if row >= 0:
        raise LogError(f"{where}: row {row}, column 'user_id' is '', expected an identifier")
    for name in table.column_names:
        if name.startswith("tenure_"):
            days = table[name].to_numpy()
            wrong = np.flatnonzero((days < 0) | (days > MAX_TENURE_DAYS))
            if len(wrong):
                raise LogError(
                    f"{where}: row {wrong[0]}, column {name!r} is {days[wrong[0]]}, "
                    f"expected 0 to {MAX_TENURE_DAYS} days"
                )


def check_day(table: pa.Table, day: str, where: str) -> None:
    """Raise LogError at the first row whose instant is not of its folder's day (UTC)."""
    if _DAY_COLUMN in table.column_names:
        name, time_ms = _DAY_COLUMN, table[_DAY_COLUMN].to_numpy()
    else:
        name = "event_timestamp"
        time_ms = pc.cast(table[name], pa.int64()).to_numpy() // 1000
    try:
        start = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as refused:
        raise LogError(f"{where}: folder 'day={day}', expected day=YYYY-MM-DD") from refused
    start_ms = int(start.timestamp()) * 1000
    wrong = np.flatnonzero((time_ms < start_ms) | (time_ms >= start_ms + DAY_MS))
    if len(wrong):
        row = int(wrong[0])
        raise LogError(
            f"{where}: row {row}, column {name!r} is {int(time_ms[row])}{_instant(time_ms[row])}, "
            f"expected an instant of the folder's day {day} (UTC)"
        )


def _instant(time_ms: Any) -> str:
    if not 0 <= time_ms <= 1 << 42:
        return " ms"
    return f" ({datetime.fromtimestamp(int(time_ms) / 1000, UTC):%Y-%m-%d %H:%M})"


def _expected_text(kind: Any) -> str:
    if kind.pattern:
        return str(kind.pattern).strip("^$()").replace("|", ", ")
    if kind.max_length is None:
        return f"at least {kind.min_length} characters"
    return f"{kind.min_length or 0} to {kind.max_length} characters"


def _shown(scalar: pa.Scalar) -> str:
    text = repr(scalar.as_py())
    return text if len(text) <= 60 else f"{text[:57]}..."

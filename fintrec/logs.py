"""LOG_DIR: a bank's log as partitioned Parquet (docs/data_layout.md), written and read.

    LOG_DIR/manifest.json
    LOG_DIR/<topic>/day=YYYY-MM-DD/part-*.parquet     event topics, by day of the event (UTC)
    LOG_DIR/items.v1/part-*.parquet                   the catalogue
    LOG_DIR/user_static/day=YYYY-MM-DD/part-*.parquet nightly rows, by day of the cut-off

Columns are the wire's fields; `features/records.py` says which have a default and may be absent.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.records import Consent, Conversion, Interaction, Item, Record, Transaction
from features.rows import Coded
from features.spec import DAY_MS, USER_STATIC
from fintrec.log_checks import LogError as LogError
from fintrec.log_checks import check_day, check_nights, check_values
from fintrec.parts import visible_parts

# The same names as streams/topics.py, which this package may not import; a test compares them.
CLICKSTREAM: Final = "clickstream.v1"
TRANSACTIONS: Final = "transactions.v1"
CONVERSIONS: Final = "conversions.v1"
CONSENTS: Final = "consents.v1"
ITEMS: Final = "items.v1"
USER_STATIC_TABLE: Final = USER_STATIC.name
EVENT_TABLES: Final = (CLICKSTREAM, TRANSACTIONS, CONVERSIONS, CONSENTS)
RECORDS: Final[Mapping[str, type[Record]]] = {
    CLICKSTREAM: Interaction,
    TRANSACTIONS: Transaction,
    CONVERSIONS: Conversion,
    CONSENTS: Consent,
    ITEMS: Item,
}
MANIFEST: Final = "manifest.json"
DEMOGRAPHICS: Final = "demographics"  # protected: fintrec/demographics.py says who may read it

_TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
_STRING: Final = pa.string()
_ELIGIBILITY: Final = pa.struct(
    [
        ("requires_enrollments", pa.list_(_STRING)),
        ("excludes_enrollments", pa.list_(_STRING)),
        ("min_tenure_days", pa.int64()),
    ]
)
_ARROW_TYPES: Final[Mapping[str, pa.DataType]] = {
    "event_time_ms": pa.int64(),
    "position": pa.int64(),
    "propensity": pa.float64(),
    "amount_usd": pa.float64(),
    "due_date_ms": pa.int64(),
    "minimum_due_usd": pa.float64(),
    "value_usd": pa.float64(),
    "effective_from_ms": pa.int64(),
    "version": pa.int64(),
    "products": pa.list_(_STRING),
    "urgency": pa.float64(),
    "attribution_window_days": pa.int64(),
    "eligibility": _ELIGIBILITY,
    "explorable": pa.bool_(),
    "pinned_position": pa.int64(),
    "valid_from_ms": pa.int64(),
    "valid_until_ms": pa.int64(),
}


def _event_schema(record: type[Record]) -> pa.Schema:
    return pa.schema([(name, _ARROW_TYPES.get(name, _STRING)) for name in record.__struct_fields__])


SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    **{name: _event_schema(record) for name, record in RECORDS.items()},
    USER_STATIC_TABLE: pa.schema(
        [
            ("user_id", _STRING),
            ("event_timestamp", _TIMESTAMP),
            ("created_timestamp", _TIMESTAMP),
            *(
                (
                    feature.name,
                    pa.list_(_STRING) if feature.dtype == "string_list" else pa.int64(),
                )
                for feature in USER_STATIC.features
            ),
        ]
    ),
}


def day_of(time_ms: int) -> str:
    """The day of an instant, UTC, as partitions name it."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d")


def instant(time_ms: int) -> str:
    """An instant for people, with its milliseconds; it may be none that a calendar has."""
    try:
        return f"{time_ms} ({datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%d %H:%M})"
    except (ValueError, OverflowError, OSError):
        return str(time_ms)


def day_start_ms(day: str) -> int:
    """First millisecond of a partition's day."""
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000


def day_end_ms(day: str) -> int:
    """First millisecond after a partition's day."""
    return day_start_ms(day) + DAY_MS


def check_new_folder(folder: Path) -> None:
    """Raises ValueError unless a folder is empty or can be made where it shall lie."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a new or empty directory")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, expected a new or empty directory")
    above = next((parent for parent in folder.parents if parent.exists()), folder)
    if above != folder and not above.is_dir():
        raise ValueError(f"{folder}: {above} is a file, expected a directory to write in")


def check_replaceable_folder(folder: Path) -> None:
    """The same, also unless a folder beside it can be renamed to it when it is whole."""
    check_new_folder(folder)
    if folder.name in ("", "..") or folder.is_symlink() or folder.is_mount():
        raise ValueError(
            f"{folder} cannot be replaced by a whole folder of its name: "
            "expected no link, no mount point and no bare '.' or '..'"
        )


def write_manifest(log_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Write LOG_DIR/manifest.json."""
    log_dir.mkdir(parents=True, exist_ok=True)
    (log_dir / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def read_manifest(log_dir: Path) -> dict[str, Any]:
    """LOG_DIR/manifest.json, {} where a log came without one."""
    path = log_dir / MANIFEST
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as broken:
        raise LogError(f"{path}: not JSON ({broken})") from broken
    if not isinstance(found, dict):
        raise LogError(f"{path}: got a JSON {type(found).__name__}, expected an object")
    for name in ("start_ms", "end_ms"):
        if not isinstance(found.get(name, 0), int):
            raise LogError(f"{path}: {name} is {found[name]!r}, expected whole milliseconds")
    start_ms, end_ms = found.get("start_ms"), found.get("end_ms")
    if start_ms is not None and end_ms is not None and end_ms <= start_ms:
        raise LogError(
            f"{path}: end_ms is {end_ms} and start_ms is {start_ms}, expected an end after the start"
        )
    return found


def write_table(log_dir: Path, name: str, table: pa.Table, part: int = 0) -> int:
    """Write a whole table of SCHEMAS in its partitions, each sorted by time; returns the rows.

    Replaces the files that an earlier call wrote for the same days and part; a log written in
    several calls gives each a part of its own.
    """
    table = _conformed(table, name, f"table {name}")
    if name == ITEMS:
        _write_part(log_dir / name, table, part)
        return int(table.num_rows)
    if name == USER_STATIC_TABLE:
        time_ms = pc.cast(table["event_timestamp"], pa.int64()).to_numpy() // 1000
        order = np.argsort(time_ms, kind="stable")
    else:
        time_ms = table["event_time_ms"].to_numpy()
        key = table["event_id" if "event_id" in table.column_names else "user_id"]
        # Equal instants stand in the order of their ids, so that every writer makes one file.
        ids = pc.rank(key, tiebreaker="first").to_numpy()
        order = np.lexsort((ids, time_ms))
    table, days = table.take(pa.array(order)), time_ms[order] // DAY_MS
    bounds = np.flatnonzero(np.diff(days)) + 1
    for start, end in zip([0, *bounds], [*bounds, len(days)], strict=True):
        if end > start:
            day = day_of(int(days[start]) * DAY_MS)
            _write_part(log_dir / name / f"day={day}", table.slice(start, end - start), part)
    return int(table.num_rows)


def _write_part(folder: Path, table: pa.Table, part: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".part-{part}.parquet.tmp"  # readers take part-* only
    pq.write_table(table, unfinished, compression="zstd")
    unfinished.rename(folder / f"part-{part}.parquet")


def days_of(log_dir: Path, name: str) -> list[str]:
    """Days for which a table has files, ascending; raises LogError without a LOG_DIR."""
    if not log_dir.is_dir():
        raise LogError(f"{log_dir}: no such directory, expected a LOG_DIR")
    return sorted(p.name.removeprefix("day=") for p in (log_dir / name).glob("day=*"))


def read_table(log_dir: Path, name: str, days: Sequence[str] | None = None) -> pa.Table:
    """A table of SCHEMAS, all days or some; strings dictionary encoded except event ids.

    A table without files is empty. Raises LogError with file, column and expectation.
    """
    parts = [read_part(path, name) for path in part_paths(log_dir, name, days)]
    if not parts:
        return _encoded_schema(name).empty_table()
    return pa.concat_tables(parts).unify_dictionaries()


def part_paths(log_dir: Path, name: str, days: Sequence[str] | None = None) -> Iterator[Path]:
    """Files of a table, all days or some, by day and name; raises LogError without a LOG_DIR."""
    known = days_of(log_dir, name)
    if name == ITEMS:
        yield from visible_parts(log_dir / name)
        return
    for day in known if days is None else days:
        yield from visible_parts(log_dir / name / f"day={day}")


def has_files(log_dir: Path, name: str) -> bool:
    """Whether a table has any file; raises LogError without a LOG_DIR."""
    return next(part_paths(log_dir, name), None) is not None


def _is_coded(name: str, field: pa.Field) -> bool:
    return name != ITEMS and field.type == _STRING and field.name != "event_id"


def _encoded_schema(name: str) -> pa.Schema:
    coded = pa.dictionary(pa.int32(), _STRING)
    return pa.schema(
        [field.with_type(coded) if _is_coded(name, field) else field for field in SCHEMAS[name]]
    )


def read_part(path: Path, name: str) -> pa.Table:
    """One file of a table, as `read_table` gives it; raises LogError with file, row and column."""
    coded = [field.name for field in SCHEMAS[name] if _is_coded(name, field)]
    try:
        # partitioning=None: the folder's day is not a column.
        table = pq.read_table(path, read_dictionary=coded, partitioning=None)
    except (pa.ArrowException, OSError) as broken:
        raise LogError(f"{path}: not a readable Parquet file ({broken})") from broken
    table = _conformed(table, name, str(path), coded=True)
    if name == USER_STATIC_TABLE:
        check_nights(table, str(path))
    else:
        check_values(table, RECORDS[name], str(path))
    if name != ITEMS:
        check_day(table, path.parent.name.removeprefix("day="), str(path))
    return table


def _conformed(table: pa.Table, name: str, where: str, coded: bool = False) -> pa.Table:
    """The table with exactly the columns, types and defaults of its schema; others are dropped."""
    required, defaults = _requirements(name)
    schema = _encoded_schema(name) if coded else SCHEMAS[name]
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(_cast(table[field.name], field, where, field.name in required, defaults))
        elif field.name in required:
            raise LogError(f"{where}: column {field.name!r} is missing, expected {field.type}")
        else:
            fill = pa.scalar(defaults.get(field.name), SCHEMAS[name].field(field.name).type)
            columns.append(pc.cast(pa.repeat(fill, table.num_rows), field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _requirements(name: str) -> tuple[set[str], dict[str, Any]]:
    """Names of columns that must be given, and defaults of the others."""
    if name == USER_STATIC_TABLE:
        return set(SCHEMAS[name].names), {}
    required, defaults = set(), {}
    for field in msgspec.structs.fields(RECORDS[name]):
        if field.required:
            required.add(field.name)
        elif field.default is not msgspec.NODEFAULT:
            defaults[field.name] = field.default
        else:
            assert field.default_factory is not msgspec.NODEFAULT
            defaults[field.name] = msgspec.to_builtins(field.default_factory())
    return required, defaults


def _cast(
    column: pa.ChunkedArray,
    field: pa.Field,
    where: str,
    is_required: bool,
    defaults: Mapping[str, Any],
) -> pa.ChunkedArray:
    if column.type != field.type:
        try:
            column = column.cast(field.type)
        except pa.ArrowException as refused:
            raise LogError(
                f"{where}: column {field.name!r} is {column.type}, expected {field.type} ({refused})"
            ) from refused
    if pa.types.is_floating(field.type):
        row = pc.index(pc.is_finite(column), False).as_py()
        if row >= 0:
            raise LogError(
                f"{where}: row {row}, column {field.name!r} is {column[row]}, expected a finite number"
            )
    if column.null_count:
        if is_required:
            row = pc.index(pc.is_null(column), True).as_py()
            raise LogError(f"{where}: row {row}, column {field.name!r} is null, expected a value")
        if defaults.get(field.name) is not None and not pa.types.is_nested(field.type):
            plain = column.cast(_STRING) if pa.types.is_dictionary(field.type) else column
            column = plain.fill_null(defaults[field.name]).cast(field.type)
    return column


def coded(table: pa.Table, name: str) -> Coded:
    """A dictionary-encoded column of `read_table` as names and codes."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # an empty column stays chunked
        return Coded((), np.empty(0, np.int64))
    return Coded(column.dictionary.to_pylist(), column.indices.to_numpy().astype(np.int64))


def integers(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """An integer column without nulls as NumPy."""
    return table[name].to_numpy().astype(np.int64, copy=False)


def milliseconds(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """A timestamp column in milliseconds since the epoch."""
    return pc.cast(table[name], pa.int64()).to_numpy().astype(np.int64) // 1000


def read_items(log_dir: Path) -> tuple[Item, ...]:
    """The catalogue, each item's newest version, by item id."""
    newest: dict[str, Item] = {}
    for place, row in enumerate(read_table(log_dir, ITEMS).to_pylist()):
        given = {name: value for name, value in row.items() if value is not None}
        try:
            item = msgspec.convert(given, Item)
        except msgspec.ValidationError as refused:
            raise LogError(f"{log_dir / ITEMS}: row {place}: {refused}") from refused
        if item.item_id not in newest or newest[item.item_id].version <= item.version:
            newest[item.item_id] = item
    return tuple(newest[name] for name in sorted(newest))

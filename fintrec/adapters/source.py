"""Source files of an adapter as columns of known types, or an error that says what is wrong."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fintrec import logs
from fintrec.logs import LogError

INSTANT: Final = pa.timestamp("ms", tz="UTC")  # a source instant without a time zone counts as UTC
IntArray = npt.NDArray[np.int64]


def read_source(
    path: Path, columns: Mapping[str, pa.DataType], nullable: Collection[str] = ()
) -> pa.Table:
    """The given columns of a Parquet file, cast to their types.

    Raises LogError for a missing, unreadable or empty file, a missing column, a value that does not
    cast, a null outside `nullable`, a number that is not finite.
    """
    if not path.is_file():
        raise LogError(f"{path}: no such file, expected Parquet with {', '.join(columns)}")
    try:
        known = pq.read_schema(path).names
        missing = [name for name in columns if name not in known]
        if missing:
            raise LogError(
                f"{path}: column {missing[0]!r} is missing, expected {columns[missing[0]]}"
            )
        table = pq.read_table(path, columns=list(columns), partitioning=None)
    except (pa.ArrowException, OSError) as broken:
        raise LogError(f"{path}: not a readable Parquet file ({broken})") from broken
    if not table.num_rows:
        raise LogError(f"{path}: no rows, expected some")
    return pa.table(
        {
            name: _checked(table[name], name, kind, str(path), name in nullable)
            for name, kind in columns.items()
        }
    )


def _checked(
    column: pa.ChunkedArray, name: str, kind: pa.DataType, where: str, may_be_null: bool
) -> pa.ChunkedArray:
    try:
        cast = column.cast(kind)
    except pa.ArrowException as refused:
        raise LogError(
            f"{where}: column {name!r} is {column.type}, expected {kind} ({refused})"
        ) from refused
    if cast.null_count and not may_be_null:
        row = pc.index(pc.is_null(cast), True).as_py()
        raise LogError(f"{where}: row {row}, column {name!r} is null, expected a value")
    if pa.types.is_floating(kind):
        row = pc.index(pc.is_finite(cast), False).as_py()
        if row >= 0:
            raise LogError(
                f"{where}: row {row}, column {name!r} is {cast[row]}, expected a finite number"
            )
    return cast


def unique_key(table: pa.Table, names: Sequence[str], path: Path) -> None:
    """Raises LogError where two rows share a key."""
    counted = table.group_by(list(names)).aggregate([([], "count_all")])
    if counted.num_rows < table.num_rows:
        row = pc.index(pc.greater(counted["count_all"], 1), True).as_py()
        key = {name: counted[name][row].as_py() for name in names}
        raise LogError(f"{path}: {counted['count_all'][row]} rows with {key}, expected one")


def milliseconds(column: pa.ChunkedArray) -> IntArray:
    """An INSTANT column in milliseconds since the epoch."""
    return pc.cast(column, pa.int64()).to_numpy().astype(np.int64)


def joined(*parts: Any) -> pa.ChunkedArray:
    """Text made of columns and constants, row by row."""
    texts = [part if isinstance(part, str) else pc.cast(part, pa.string()) for part in parts]
    return pc.binary_join_element_wise(*texts, "")


def new_log(log_dir: Path) -> None:
    """Raises LogError unless LOG_DIR is new or an empty folder: days of two logs must not mix."""
    try:
        logs.check_new_folder(log_dir)
    except ValueError as refused:
        raise LogError(str(refused)) from refused


def granted(log_dir: Path, user_ids: pa.Array, time_ms: int) -> int:
    """Write consent from an instant on for users who agreed to be contacted; returns the rows."""
    num = len(user_ids)
    return logs.write_table(
        log_dir,
        logs.CONSENTS,
        pa.table(
            {
                "user_id": user_ids,
                "event_time_ms": np.full(num, time_ms),
                "marketing": pa.repeat("granted", num),
                "effective_from_ms": np.full(num, time_ms),
            }
        ),
    )

"""Which files of a LOG_DIR are its tables, so that none that looks like one is passed over.

    LOG_DIR/<topic>/day=YYYY-MM-DD/part-*.parquet
    LOG_DIR/items.v1/part-*.parquet
    LOG_DIR/demographics/part-*.parquet    known here, read by no data set

A folder with one letter wrong would be a table without rows: a user without transactions, a label
without its conversion. What is no Parquet, or hidden, may lie anywhere.
"""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from fintrec import logs
from fintrec.lake import SERVING_TABLES

_BY_DAY: Final = (*logs.EVENT_TABLES, logs.USER_STATIC_TABLE)
_KNOWN: Final = (*_BY_DAY, logs.ITEMS, *SERVING_TABLES, logs.DEMOGRAPHICS)
_PART: Final = "part-*.parquet"


def check_files(log_dir: Path) -> None:
    """Raise LogError at the first Parquet file of a log that no reader would read.

    Names that begin with "." or "_" are unfinished or about the log; a lake's serving tables and
    its parts that another covers are no part of the log, and known.
    """
    for path in _parquet_files(log_dir):
        table, *below = path.relative_to(log_dir).parts
        if not below:
            expected = f"<table>/{_PART} with a table of {', '.join(_KNOWN)}"
            raise logs.LogError(f"{path}: a Parquet file outside any table, expected {expected}")
        if table not in _KNOWN:
            raise logs.LogError(
                f"{path}: folder {table!r} is no table of a log, expected one of "
                f"{', '.join(_KNOWN)}"
            )
        folders = [] if table in (logs.ITEMS, logs.DEMOGRAPHICS) else ["day=*"]
        if table in SERVING_TABLES or _matches(below, [*folders, _PART]):
            continue
        shape = "/".join((table, *("day=YYYY-MM-DD" for _ in folders), _PART))
        raise logs.LogError(
            f"{path}: a Parquet file that is not read, got {'/'.join((table, *below))}, "
            f"expected {shape}"
        )


def _parquet_files(log_dir: Path) -> Iterator[Path]:
    """Parquet files below a folder that are not hidden, by name."""
    for folder, names, files in os.walk(log_dir):
        names[:] = sorted(name for name in names if not name.startswith((".", "_")))
        for name in sorted(files):
            if name.lower().endswith(".parquet") and not name.startswith((".", "_")):
                yield Path(folder, name)


def _matches(names: list[str], patterns: list[str]) -> bool:
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))

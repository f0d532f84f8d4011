"""An event log of cases, in the form of BPI Challenge 2012: a Parquet file, a row an event.

Columns: case, activity, lifecycle, ts, amount_req; others are left alone. Rows of one case are in the
order in which they were logged, which breaks ties of equal instants. Cases are taken by their first
instant. The kind of an event is its activity with its lifecycle.

Shapes: N events, C cases
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fintrec.adapters.source import INSTANT, milliseconds, read_source
from fintrec.logs import LogError

IntArray = npt.NDArray[np.int64]
COLUMNS: Final = {
    "case": pa.string(),
    "activity": pa.string(),
    "lifecycle": pa.string(),
    "ts": INSTANT,
    "amount_req": pa.float64(),
}


@dataclass(frozen=True, slots=True)
class EventLog:
    """Events of all cases, case by case in the order of their starts."""

    kinds: tuple[str, ...]  # activity|lifecycle, sorted
    kind_N: IntArray
    activity_N: npt.NDArray[np.str_]
    time_ms_N: IntArray
    amount_N: npt.NDArray[np.float64]
    case_N: IntArray  # 0..C-1
    start_C1: IntArray  # C + 1 entries: case c is the events start[c]..start[c + 1]

    @property
    def num_cases(self) -> int:
        """C."""
        return len(self.start_C1) - 1


def read_event_log(path: Path) -> EventLog:
    """Read a file of the form.

    LogError for a missing file or column, a value of another type, a null, or a case whose rows are
    not in the order of time.
    """
    table = read_source(path, COLUMNS)
    text = {
        name: np.array(table[name].to_pylist(), dtype=object)
        for name in ("case", "activity", "lifecycle")
    }
    time_ms = milliseconds(table["ts"])
    order, start_C1 = _by_case(text["case"], time_ms)
    kind = [f"{a}|{b}" for a, b in zip(text["activity"], text["lifecycle"], strict=True)]
    kinds, kind_N = np.unique(np.array(kind), return_inverse=True)
    log = EventLog(
        tuple(kinds.tolist()),
        kind_N[order].astype(np.int64),
        text["activity"][order].astype(str),
        time_ms[order],
        table["amount_req"].to_numpy()[order],
        np.repeat(np.arange(len(start_C1) - 1), np.diff(start_C1)),
        start_C1,
    )
    _check_order(log, text["case"][order], path)
    return log


def _by_case(case_N: npt.NDArray[np.object_], time_ms: IntArray) -> tuple[IntArray, IntArray]:
    """(order of the rows, starts): cases by their first instant, ties by first row; rows as logged."""
    names, first_row, code_N = np.unique(case_N.astype(str), return_index=True, return_inverse=True)
    first_ms = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(first_ms, code_N, time_ms)
    rank = np.empty(len(names), np.int64)
    rank[np.lexsort((first_row, first_ms))] = np.arange(len(names))
    order = np.argsort(rank[code_N], kind="stable")
    return order, np.concatenate(([0], np.cumsum(np.bincount(rank[code_N]))))


def _check_order(log: EventLog, case_N: npt.NDArray[np.object_], path: Path) -> None:
    back = (np.diff(log.time_ms_N) < 0) & (np.diff(log.case_N) == 0)
    if back.any():
        case = case_N[int(np.flatnonzero(back)[0])]
        raise LogError(
            f"{path}: the rows of case {case!r} are not in the order of ts, expected them as logged"
        )

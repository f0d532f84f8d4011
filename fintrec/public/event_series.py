"""An event log as the sequences a model reads: kinds, instants, elapsed times.

Shapes: N events, C cases
"""

from typing import Final

import numpy as np

from fintrec.public.event_log import EventLog
from fintrec.public.kind_windows import Series
from fintrec.public.ragged import Ragged

NUM_ELAPSED: Final = 2  # since the row before, since the case began


def with_end(log: EventLog) -> Ragged:
    """The kinds of all cases, END (the last kind) after each."""
    num_kinds = len(log.kinds)
    kind_N = np.insert(log.kind_N, log.start_C1[1:], num_kinds)
    return Ragged(kind_N, log.start_C1 + np.arange(log.num_cases + 1), num_kinds + 1)


def cases(log: EventLog) -> Series:
    """All cases with END after each; element i of case c stands at row i + c."""
    kinds, end = with_end(log), log.start_C1[1:]
    time_ms_N = np.insert(log.time_ms_N, end, log.time_ms_N[end - 1])
    started_N = np.repeat(time_ms_N[kinds.start_S1[:-1]], kinds.length_S)
    gap_N = np.diff(time_ms_N, prepend=time_ms_N[:1])
    gap_N[kinds.start_S1[:-1]] = 0
    elapsed_NE = np.log1p(np.stack((gap_N, time_ms_N - started_N), axis=1)).astype(np.float32)
    return Series(kinds, time_ms_N, elapsed_NE)


def happened_before(log: EventLog, instant_ms: int) -> EventLog:
    """The rows before an instant: what the log held then. Cases without any are left out."""
    chosen = log.time_ms_N < instant_ms
    length_C = np.bincount(log.case_N[chosen], minlength=log.num_cases)
    length_C = length_C[length_C > 0]
    return EventLog(
        log.kinds,
        log.kind_N[chosen],
        log.activity_N[chosen],
        log.time_ms_N[chosen],
        log.amount_N[chosen],
        np.repeat(np.arange(len(length_C)), length_C),
        np.concatenate(([0], np.cumsum(length_C))),
    )

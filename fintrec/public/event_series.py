"""An event log as the sequences a model reads: kinds, instants, elapsed times, staff, amount.

Who did it is a field of its own, one a member of staff known from training, 0 for nobody or somebody
new; the amount asked for is a field by its decile in training.

Shapes: N events, C cases, R rows that a field's values are taken from
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fintrec.public.event_log import EventLog, IntArray
from fintrec.public.kind_windows import Series
from fintrec.public.ragged import Ragged

NUM_BANDS: Final = 10
NUM_ELAPSED: Final = 2  # since the row before, since the case began


@dataclass(frozen=True, slots=True)
class EventFields:
    """Values that are known from the training rows."""

    resources: npt.NDArray[np.str_]  # ascending
    amounts: npt.NDArray[np.float64]  # upper ends of all bands but the last

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes of each field."""
        return (len(self.resources) + 1, len(self.amounts) + 1)

    def codes(self, log: EventLog) -> IntArray:
        """(N, 2)."""
        place = np.searchsorted(self.resources, log.resource_N)
        place = np.minimum(place, len(self.resources) - 1)
        known = self.resources[place] == log.resource_N
        resource_N = np.where(known, place + 1, 0)
        amount_N = np.searchsorted(self.amounts, log.amount_N, side="left")
        return np.stack((resource_N, amount_N), axis=1).astype(np.int64)


def fit_fields(log: EventLog, rows: npt.NDArray[np.bool_]) -> EventFields:
    """The fields' values among the given rows of a log."""
    shares = np.arange(1, NUM_BANDS) / NUM_BANDS
    amounts = np.unique(np.quantile(log.amount_N[rows], shares))
    return EventFields(np.unique(log.resource_N[rows]), amounts)


def with_end(log: EventLog) -> Ragged:
    """The kinds of all cases, END (the last kind) after each."""
    num_kinds = len(log.kinds)
    kind_N = np.insert(log.kind_N, log.start_C1[1:], num_kinds)
    return Ragged(kind_N, log.start_C1 + np.arange(log.num_cases + 1), num_kinds + 1)


def cases(log: EventLog, fields: EventFields | None) -> Series:
    """All cases with END after each; element i of case c stands at row i + c."""
    kinds, end = with_end(log), log.start_C1[1:]
    time_ms_N = np.insert(log.time_ms_N, end, log.time_ms_N[end - 1])
    return _series(kinds, time_ms_N, None if fields is None else fields.codes(log), end, fields)


def _series(
    kinds: Ragged,
    time_ms_N: IntArray,
    code_NF: IntArray | None,
    end: IntArray,
    fields: EventFields | None,
) -> Series:
    started_N = np.repeat(time_ms_N[kinds.start_S1[:-1]], kinds.length_S)
    gap_N = np.diff(time_ms_N, prepend=time_ms_N[:1])
    gap_N[kinds.start_S1[:-1]] = 0
    elapsed_NE = np.log1p(np.stack((gap_N, time_ms_N - started_N), axis=1)).astype(np.float32)
    if code_NF is None or fields is None:
        none = np.zeros((len(time_ms_N), 0), np.int64)
        return Series(kinds, time_ms_N, elapsed_NE, none, ())
    return Series(kinds, time_ms_N, elapsed_NE, np.insert(code_NF, end, 0, axis=0), fields.sizes)


def happened_before(log: EventLog, instant_ms: int) -> EventLog:
    """The rows before an instant: what the log held then. Cases without any are left out."""
    chosen = log.time_ms_N < instant_ms
    length_C = np.bincount(log.case_N[chosen], minlength=log.num_cases)
    length_C = length_C[length_C > 0]
    return EventLog(
        log.kinds,
        log.kind_N[chosen],
        log.activity_N[chosen],
        log.resource_N[chosen],
        log.time_ms_N[chosen],
        log.amount_N[chosen],
        np.repeat(np.arange(len(length_C)), length_C),
        np.concatenate(([0], np.cumsum(length_C))),
    )

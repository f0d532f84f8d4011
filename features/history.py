"""The bounded, event-time-ordered history S_u of a user (FinTRec section 3.1).

A history is a sorted NumPy array of `ROW`. It is a pure function of the *set* of events seen:
rows are ordered by (event time, event fingerprint), a repeated event is dropped, and of each
source only the newest rows are kept. So arrival order, duplicates and ties never show, and
merging histories is associative, commutative and idempotent.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

WINDOW: Final = 120  # interactions a model sees (paper: context window up to 120)

INTERACTION: Final = 0
TRANSACTION: Final = 1
# How many rows of a source are kept: many impressions must not push the day's purchases out.
CAPS: Final = {INTERACTION: WINDOW, TRANSACTION: 60}

ROW: Final = np.dtype(
    [
        ("time_ms", "<i8"),
        ("event", "<u8"),  # fingerprint of event_id: ties and duplicates
        ("item", "<i4"),  # item, or merchant category of a transaction
        ("product", "<i4"),
        ("page", "<i4"),
        ("placement", "<i4"),
        ("layout", "<i4"),
        ("cents", "<i4"),  # purchases only
        ("action", "u1"),
        ("channel", "u1"),
        ("device", "u1"),
        ("position", "u1"),
        ("category", "u1"),
        ("source", "u1"),
        ("spare", "<u2"),
    ]
)
Rows: TypeAlias = npt.NDArray[np.void]
_BYTES: Final = np.dtype((np.void, ROW.itemsize))

_IDENTITY: Final = ("time_ms", "event", "source")
_TIE_BREAK: Final = (*_IDENTITY, *(name for name in ROW.names or () if name not in _IDENTITY))

EMPTY: Final[Rows] = np.empty(0, ROW)


def concatenated(histories: Sequence[Rows]) -> Rows:
    """Rows of several histories, one behind the other."""
    # As plain bytes: NumPy copies records of fields field by field, twenty times as slow.
    return np.concatenate([np.ascontiguousarray(h).view(_BYTES) for h in histories]).view(ROW)


def ordered(rows: Rows) -> Rows:
    """Rows sorted by (time, event fingerprint), each event once.

    An id names an event within its source. Should it come twice with other content, the smaller
    row stays, whichever came first.
    """
    if len(rows) < 2:
        return rows
    rows = rows.take(np.lexsort((rows["event"], rows["time_ms"])))
    tied = (rows["time_ms"][1:] == rows["time_ms"][:-1]) & (rows["event"][1:] == rows["event"][:-1])
    if not tied.any():
        return rows
    rows = rows[np.lexsort([rows[name] for name in reversed(_TIE_BREAK)])]
    first = np.ones(len(rows), bool)
    for name in _IDENTITY:
        first[1:] &= rows[name][1:] == rows[name][:-1]
    first[1:] = ~first[1:]
    return rows[first]


def bounded(rows: Rows) -> Rows:
    """The newest rows of each source, at most `CAPS[source]`; `rows` are ordered."""
    source = rows["source"]
    kept = None
    for which, cap in CAPS.items():
        places = np.flatnonzero(source == which)
        if len(places) > cap:
            kept = np.ones(len(rows), bool) if kept is None else kept
            kept[places[:-cap]] = False
    return rows if kept is None else rows.take(np.flatnonzero(kept))


def merged(history: Rows, new: Rows) -> Rows:
    """History with new rows of any order folded in: ordered, each event once, bounded."""
    if not len(new):
        return history
    new = ordered(new)
    both = concatenated((history, new))
    is_later = not len(history) or history["time_ms"][-1] < new["time_ms"][0]
    return bounded(both if is_later else ordered(both))


def as_of(log: Rows, end: int) -> Rows:
    """The history a worker would hold after the first `end` rows of a user's ordered log."""
    start = end
    missing = dict(CAPS)
    # Walk back in strides until every source's cap is filled; a log may hold years.
    while start > 0 and any(left > 0 for left in missing.values()):
        step = max(0, start - 256)
        part = log["source"][step:start]
        for which in missing:
            missing[which] -= int((part == which).sum())
        start = step
    return bounded(log[start:end])

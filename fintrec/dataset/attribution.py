"""What became of each item's exposures, and what came before each of its conversions.

Counted over the whole log and before any exclusion, one conversion event at a time: in its item's
window before it the user clicked the item, or only saw it, or neither (FinTRec section 3.1, fig. 2).

Shapes: K items, R rows.
"""

from typing import Final

import numpy as np

from fintrec.dataset.axis import IntArray
from fintrec.dataset.timeline import CLICK, CONVERSION, IMPRESSION, Timeline

ATTRIBUTED: Final = (
    "exposures",
    "clicks",
    "exposures_converted",
    "conversions",
    "conversions_with_click",
    "conversions_with_exposure",
    "conversions_with_neither",
)


def attributed(timeline: Timeline, window_ms: IntArray) -> IntArray:
    """Counts by item, (K, len(ATTRIBUTED)); events of unknown items are none of them."""
    known = timeline.item_row >= 0
    action = timeline.rows["action"]
    shown, clicked, reached = (
        np.flatnonzero(known & (action == code)) for code in (IMPRESSION, CLICK, CONVERSION)
    )
    window = window_ms[timeline.item_row[reached]]
    has_click = _distance(timeline, clicked, reached) <= window
    has_exposure = _distance(timeline, shown, reached) <= window
    followed = _distance(timeline, reached, shown, is_later=True)
    led = followed <= window_ms[timeline.item_row[shown]]
    rows = (
        shown,
        clicked,
        shown[led],
        reached,
        reached[has_click],
        reached[has_exposure & ~has_click],
        reached[~has_exposure & ~has_click],
    )
    num_items = len(window_ms)
    return np.column_stack([np.bincount(timeline.item_row[at], minlength=num_items) for at in rows])


def _distance(
    timeline: Timeline, events: IntArray, of: IntArray, is_later: bool = False
) -> IntArray:
    """Time from each of the rows `of` back to the newest of `events` strictly before it.

    Both of one user and item; a very large number where there is none. With `is_later`, on to the
    first strictly after it.
    """
    at = np.concatenate((events, of))
    is_event = np.arange(len(at)) < len(events)
    sign = -1 if is_later else 1
    time_ms = sign * timeline.rows["time_ms"][at].astype(np.int64)
    owner, item = timeline.owner[at], timeline.item_row[at]
    # At one instant what is asked for comes first, so that it does not see its own time.
    order = np.lexsort((is_event, time_ms, item, owner))
    latest = np.maximum.accumulate(np.where(is_event[order], np.arange(len(at)), -1))
    asked = np.flatnonzero(~is_event[order])
    match = latest[asked]
    event, own = order[np.maximum(match, 0)], order[asked]
    found = (match >= 0) & (owner[event] == owner[own]) & (item[event] == item[own])
    out = np.empty(len(of), np.int64)
    gap = np.where(found, time_ms[own] - time_ms[event], np.iinfo(np.int64).max)
    out[own - len(events)] = gap
    return out

"""Dynamic context F_d(t) at every row of a history, in integers (FinTRec section 3.2).

As of a row's event time t: counts and sums over (t - window, t], since the nightly cut-off and
since the user's previous digital session; recency of clicks, purchases, logins and contacts; the
age of the visit. Integer milliseconds, counts and cents, so order of addition never shows.

All users of a batch are worked on at once: rows of user u are shifted by u * `_SHIFT_MS`, which
keeps one sorted time axis on which every window is two binary searches.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.categories import CATEGORIES
from features.history import INTERACTION, Rows
from features.spec import (
    CUTOFF_HOUR_UTC,
    DAY_MS,
    DYNAMIC_FEATURES,
    HOUR_MS,
    SESSION_IDLE_MS,
    WINDOWS_MS,
)
from features.vocabulary import DIGITAL_CHANNELS, code

Int: Final = np.int64
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_SHIFT_MS: Final = 1 << 43  # more than any event time
_COLUMN: Final = {feature.name: place for place, feature in enumerate(DYNAMIC_FEATURES)}
_IMPRESSION, _CLICK, _PURCHASE = (code("action", a) for a in ("impression", "click", "purchase"))
_LOGIN, _LOGOUT = code("action", "login"), code("action", "logout")
_CONTACTS: Final = [code("action", "call"), code("action", "branch")]
_DIGITAL: Final = [code("channel", name) for name in DIGITAL_CHANNELS]


@dataclass(frozen=True, slots=True)
class Visits:
    """Sessions and offline touch points of a batch of histories, one entry a row.

    `visit` numbers visits from 0 over the whole batch (a digital session, or one offline touch
    point), `order` is the row's place in its visit, `start_ms` the visit's first event time,
    `previous_end_ms` the last event of the digital session before this row's (or, at an offline
    touch point, of the digital events so far), in shifted time; below the user's start if none.
    """

    visit: IntArray
    order: IntArray
    start_ms: IntArray
    previous_end_ms: IntArray


def nightly_cutoff_ms(time_ms: IntArray) -> IntArray:
    """The last nightly cut-off at or before each instant."""
    offset = CUTOFF_HOUR_UTC * HOUR_MS
    return (time_ms - offset) // DAY_MS * DAY_MS + offset


def is_digital(rows: Rows) -> BoolArray:
    """Which rows happened on a digital channel, and so belong to a session."""
    channel = rows["channel"]
    found = rows["source"] == INTERACTION
    return found & ((channel == _DIGITAL[0]) | (channel == _DIGITAL[1]))


def user_starts(lengths: IntArray) -> IntArray:
    """For each row of concatenated histories, the place of its user's first row."""
    firsts = np.cumsum(lengths) - lengths
    return np.repeat(firsts, lengths)


def visits(rows: Rows, lengths: IntArray) -> Visits:
    """Group rows of concatenated histories into visits.

    A digital session opens at a user's first digital row, at a login, after a logout, and when
    the user was idle for longer than 30 minutes. An offline touch point is a visit of its own.
    """
    total = len(rows)
    users = np.repeat(np.arange(len(lengths), dtype=Int), lengths)
    shifted = rows["time_ms"].astype(Int) + users * _SHIFT_MS
    digital = is_digital(rows)
    places = np.flatnonzero(digital)
    opens = np.zeros(total, bool)
    previous_end = users * _SHIFT_MS - 1
    visit_key = np.arange(
        total, dtype=Int
    )  # offline: its own place; digital: its first row's place
    if len(places):
        times, owner, action = shifted[places], users[places], rows["action"][places]
        first = np.ones(len(places), bool)
        first[1:] = (
            (owner[1:] != owner[:-1])
            | (times[1:] - times[:-1] > SESSION_IDLE_MS)
            | ((action[1:] == _LOGIN) & (action[:-1] != _LOGIN))
            | (action[:-1] == _LOGOUT)
        )
        opens[places] = first
        session = np.cumsum(first) - 1
        heads = places[first]
        visit_key[places] = heads[session]
        tails = np.concatenate((np.flatnonzero(first)[1:] - 1, [len(places) - 1]))
        ends, end_owner = times[tails], owner[tails]
        before = session - 1
        known = (before >= 0) & (end_owner[np.maximum(before, 0)] == owner)
        previous_end[places] = np.where(known, ends[np.maximum(before, 0)], owner * _SHIFT_MS - 1)
        offline = np.flatnonzero(~digital)
        last = np.searchsorted(places, offline) - 1
        near = np.maximum(last, 0)
        seen = (last >= 0) & (owner[near] == users[offline])
        previous_end[offline] = np.where(seen, times[near], users[offline] * _SHIFT_MS - 1)
    _, visit = np.unique(visit_key, return_inverse=True)
    return Visits(
        visit.astype(Int),
        _order_in_visit(visit_key, digital),
        rows["time_ms"][visit_key].astype(Int),
        previous_end,
    )


def _order_in_visit(visit_key: IntArray, digital: BoolArray) -> IntArray:
    """Place of each row among the rows of its visit, in row order."""
    by_visit = np.argsort(visit_key, kind="stable")
    keys = visit_key[by_visit]
    run = np.arange(len(keys)) - np.searchsorted(keys, keys)
    order = np.empty(len(keys), Int)
    order[by_visit] = run
    return order


def dynamic_features(rows: Rows, lengths: IntArray, found: Visits) -> IntArray:
    """F_d(t) of every row of concatenated histories, (rows, NUM_DYNAMIC) int64, registry order."""
    total = len(rows)
    out = np.zeros((total, len(DYNAMIC_FEATURES)), Int)
    if not total:
        return out
    users = np.repeat(np.arange(len(lengths), dtype=Int), lengths)
    shifted = rows["time_ms"].astype(Int) + users * _SHIFT_MS
    # Rows of one timestamp share F_d: it is a function of the instant, not of the place.
    upto = np.searchsorted(shifted, shifted, side="right")
    action, cents = rows["action"], rows["cents"].astype(Int)
    is_purchase = action == _PURCHASE
    is_contact = (action == _CONTACTS[0]) | (action == _CONTACTS[1])
    sums = _running(
        [action == _IMPRESSION, action == _CLICK, is_purchase, is_contact, cents * is_purchase]
    )
    cutoff = nightly_cutoff_ms(rows["time_ms"].astype(Int)) + users * _SHIFT_MS
    since = {name: shifted - size for name, size in WINDOWS_MS.items()} | {"day": cutoff - 1}
    for name, after in since.items():
        start = np.searchsorted(shifted, np.maximum(after, users * _SHIFT_MS - 1), side="right")
        count = sums[:, upto] - sums[:, start]
        place = _COLUMN[f"impressions_count_{name}"]
        out[:, place : place + 4] = count[[0, 1, 2, 4]].T
        day_start = start
    by_category = _running(
        [(rows["category"] == c) * cents * is_purchase for c in range(1, len(CATEGORIES))]
    )
    place = _COLUMN[f"spend_{CATEGORIES[1]}_sum_day"]
    out[:, place : place + len(CATEGORIES) - 1] = (
        by_category[:, upto] - by_category[:, day_start]
    ).T
    start = np.searchsorted(shifted, found.previous_end_ms, side="right")
    place = _COLUMN["purchases_count_since_session"]
    out[:, place : place + 3] = (sums[:, upto] - sums[:, start])[[2, 4, 3]].T
    firsts = user_starts(lengths)
    for name, flag in (
        ("click", action == _CLICK),
        ("purchase", is_purchase),
        ("login", action == _LOGIN),
        ("contact", is_contact),
    ):
        out[:, _COLUMN[f"{name}_recency"]] = _recency(flag, shifted, upto - 1, firsts)
    earlier = np.searchsorted(shifted, shifted, side="left") - 1
    out[:, _COLUMN["touch_recency"]] = _recency(np.ones(total, bool), shifted, earlier, firsts)
    out[:, _COLUMN["session_interactions_count"]] = found.order + 1
    out[:, _COLUMN["session_age"]] = rows["time_ms"] - found.start_ms
    return out


def _running(columns: list[npt.NDArray[np.generic]]) -> IntArray:
    """Running sums with a leading zero, (columns, rows + 1)."""
    stacked = np.stack([np.asarray(column, Int) for column in columns])
    out = np.zeros((stacked.shape[0], stacked.shape[1] + 1), Int)
    np.cumsum(stacked, axis=1, out=out[:, 1:])
    return out


def _recency(flag: BoolArray, shifted: IntArray, last: IntArray, firsts: IntArray) -> IntArray:
    """Milliseconds from the last flagged row at or before place `last` to each row; -1 if none."""
    marked = np.maximum.accumulate(np.where(flag, np.arange(len(flag), dtype=Int), -1))
    place = np.where(last >= 0, marked[np.maximum(last, 0)], -1)
    known = place >= firsts
    return np.where(known, shifted - shifted[np.maximum(place, 0)], -1)

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
_WINDOW_SIZES: Final = np.array([*WINDOWS_MS.values()], Int)[:, None]


def _columns(first: str, last: str) -> slice:
    return slice(_COLUMN[first], _COLUMN[last] + 1)


_WINDOWED: Final = _columns("impressions_count_15m", "spend_sum_day")
_BY_CATEGORY: Final = _columns(f"spend_{CATEGORIES[1]}_sum_day", f"spend_{CATEGORIES[-1]}_sum_day")
_SINCE_SESSION: Final = _columns("purchases_count_since_session", "contacts_count_since_session")
_RECENCY: Final = _columns("click_recency", "touch_recency")
_IMPRESSION, _CLICK, _PURCHASE = (code("action", a) for a in ("impression", "click", "purchase"))
_LOGIN, _LOGOUT = code("action", "login"), code("action", "logout")
_CONTACTS: Final = [code("action", "call"), code("action", "branch")]
_DIGITAL: Final = [code("channel", name) for name in DIGITAL_CHANNELS]


@dataclass(frozen=True, slots=True)
class Visits:
    """Sessions and offline touch points of a batch of histories, one entry a row.

    `visit` numbers visits from 0 over the whole batch (a digital session, or one offline touch
    point), `order` is the row's place in its visit, `start_ms` the visit's first event time,
    `previous` the place of the last row of the digital session before this row's (at an offline
    touch point: of the last digital row so far), -1 if the user had none.
    """

    visit: IntArray
    order: IntArray
    start_ms: IntArray
    previous: IntArray


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
    every = np.arange(len(rows), dtype=Int)
    starts = user_starts(lengths)
    time_ms = rows["time_ms"].astype(Int)
    digital = is_digital(rows)
    head = every.copy()  # first row of a row's visit; of an offline touch point, itself
    order = np.zeros(len(rows), Int)
    last_digital = np.maximum.accumulate(np.where(digital, every, -1))
    previous = np.where(last_digital >= starts, last_digital, -1)
    places = np.flatnonzero(digital)
    if len(places):
        times, owner, action = time_ms[places], starts[places], rows["action"][places]
        opens = np.ones(len(places), bool)
        opens[1:] = (
            (owner[1:] != owner[:-1])
            | (times[1:] - times[:-1] > SESSION_IDLE_MS)
            | ((action[1:] == _LOGIN) & (action[:-1] != _LOGIN))
            | (action[:-1] == _LOGOUT)
        )
        firsts = np.flatnonzero(opens)
        session = np.cumsum(opens) - 1
        head[places] = places[firsts][session]
        order[places] = np.arange(len(places)) - firsts[session]
        # The row before a session's first is the last of the session before, if it is the user's.
        ended = np.concatenate(([-1], places[firsts[1:] - 1]))
        previous[places] = np.where(ended >= owner[firsts], ended, -1)[session]
    visit = (np.cumsum(head == every) - 1)[head]
    return Visits(visit, order, time_ms[head], previous)


def dynamic_features(
    rows: Rows, lengths: IntArray, found: Visits, wanted: IntArray | None = None
) -> IntArray:
    """F_d(t) of rows of concatenated histories, (rows, NUM_DYNAMIC) int64, registry order.

    Of every row, or of those at the places `wanted`; what counts is always the whole history.
    """
    total = len(rows)
    at = np.arange(total, dtype=Int) if wanted is None else wanted
    out = np.empty((len(DYNAMIC_FEATURES), len(at)), Int)
    if not len(at):
        return out.T
    time_ms = rows["time_ms"].astype(Int)
    floor = np.repeat(np.arange(len(lengths), dtype=Int) * _SHIFT_MS, lengths)
    shifted = time_ms + floor
    starts = user_starts(lengths)
    # Rows of one timestamp share F_d: it is a function of the instant, not of the place.
    begin, end = _runs(shifted)
    day, _ = _runs(nightly_cutoff_ms(time_ms) + floor)
    session = np.where(found.previous >= 0, end[found.previous], starts)
    tallies, flags = _tallies(rows)
    begin, end, now, user = begin[at], end[at], shifted[at], starts[at]
    upto = tallies.take(end, axis=1)

    since = np.empty((len(WINDOWS_MS) + 1, len(at)), Int)
    np.maximum(np.searchsorted(shifted, now - _WINDOW_SIZES, side="right"), user, out=since[:-1])
    since[-1] = day[at]
    windowed = out[_WINDOWED].reshape(len(since), 4, len(at)).transpose(1, 0, 2)
    np.subtract(upto[:4, None], tallies[:4].take(since, axis=1), out=windowed)
    np.subtract(upto[5:], tallies[5:].take(since[-1], axis=1), out=out[_BY_CATEGORY])
    out[_SINCE_SESSION] = upto[2:5] - tallies[2:5].take(session[at], axis=1)

    recency = out[_RECENCY]
    last_seen = np.maximum.accumulate(np.where(flags, shifted, -1), axis=1)
    last_seen.take(end - 1, axis=1, out=recency[:4])
    recency[4] = np.where(begin > 0, shifted[begin - 1], -1)
    never = recency < floor[at]
    np.subtract(now, recency, out=recency)
    recency[never] = -1
    out[_COLUMN["session_interactions_count"]] = found.order[at] + 1
    out[_COLUMN["session_age"]] = time_ms[at] - found.start_ms[at]
    return out.T


def _tallies(rows: Rows) -> tuple[IntArray, BoolArray]:
    """Running sums with a leading zero, (5 + categories, rows + 1), and flags of recencies, (4, rows).

    Sums: impressions, clicks, purchases, cents spent, contacts, then cents spent by category.
    Flags: click, purchase, login, contact.
    """
    action = np.ascontiguousarray(rows["action"])
    is_purchase = action == _PURCHASE
    is_contact = (action == _CONTACTS[0]) | (action == _CONTACTS[1])
    flags = np.stack((action == _CLICK, is_purchase, action == _LOGIN, is_contact))
    sums = np.zeros((4 + len(CATEGORIES), len(rows) + 1), Int)
    each = sums[:, 1:]
    each[0] = action == _IMPRESSION
    each[1], each[2], each[4] = flags[0], is_purchase, is_contact
    bought = np.flatnonzero(is_purchase)
    cents, category = rows["cents"][bought], rows["category"][bought]
    each[3, bought] = cents
    known = category > 0
    each[4 + category[known], bought[known]] = cents[known]
    np.cumsum(each, axis=1, out=each)
    return sums, flags


def _runs(values: IntArray) -> tuple[IntArray, IntArray]:
    """First place of each row's run of equal values, and the place behind its last."""
    opens = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=opens[1:])
    firsts = np.flatnonzero(opens)
    run = np.cumsum(opens) - 1
    return firsts[run], np.concatenate((firsts[1:], [len(values)]))[run]

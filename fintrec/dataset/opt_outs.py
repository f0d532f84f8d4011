"""When users were opted out of marketing, as far as was known at each instant.

In force: the rule of `features/consent.py`, as workers apply it. In notice: an opt-out was told
and takes effect within the notice period; it is not in force yet, but the wish is known, so pages
of that time are no examples either. A grant counts from the day it takes effect, with no wait.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.consent import Verdict, verdict, with_consent
from features.history import Rows
from features.packed import CONSENT
from features.records import MARKETING, Consent
from fintrec.dataset.axis import AXIS_MS, BoolArray, IntArray, on_axis

FOREVER_MS: Final = 1 << 60  # an opt-out never grows stale
_OPTED_OUT: Final = MARKETING.index("opted_out")


@dataclass(frozen=True, slots=True)
class OptOuts:
    """Instants, on the axis of users, from which users are in force or in notice, or not."""

    axis: IntArray
    in_force: BoolArray
    in_notice: BoolArray

    def at(self, user: IntArray, time_ms: IntArray) -> tuple[BoolArray, BoolArray]:
        """(in force, in notice) of users at instants."""
        if not len(self.axis):
            return np.zeros(len(user), bool), np.zeros(len(user), bool)
        last = np.searchsorted(self.axis, on_axis(user, time_ms), side="right") - 1
        near = np.maximum(last, 0)
        mine = (last >= 0) & (self.axis[near] // AXIS_MS == user)
        return mine & self.in_force[near], mine & self.in_notice[near]


def opt_outs(decisions: Rows, owner: IntArray, notice_ms: int) -> OptOuts:
    """Opt-outs of users by their decisions (CONSENT rows) in any order."""
    told, effective = decisions["event_time_ms"], decisions["effective_from_ms"]
    is_out = decisions["marketing"] == _OPTED_OUT
    counts = np.bincount(owner) if len(owner) else np.zeros(0, np.int64)
    # Most users decide once; they are worked on at once.
    single = np.flatnonzero(is_out & (counts[owner] == 1))
    noticed = on_axis(owner[single], np.maximum(told, effective - notice_ms)[single])
    forced = on_axis(owner[single], np.maximum(told, effective)[single])
    axes = [noticed, forced]
    in_force = [np.zeros(len(single), bool), np.ones(len(single), bool)]
    in_notice = [noticed < forced, np.zeros(len(single), bool)]
    several = np.flatnonzero(counts[owner] > 1)
    several = several[np.lexsort((told[several], owner[several]))]
    borders = np.flatnonzero(np.diff(owner[several])) + 1
    for rows in np.split(several, borders) if len(several) else []:
        instants, force, notice = _of_user(decisions[rows], notice_ms)
        axes.append(on_axis(owner[rows[:1]].repeat(len(instants)), instants))
        in_force.append(force)
        in_notice.append(notice)
    axis, force, notice = (np.concatenate(part) for part in (axes, in_force, in_notice))
    order = np.argsort(axis, kind="stable")
    return OptOuts(axis[order], force[order], notice[order])


def _of_user(decisions: Rows, notice_ms: int) -> tuple[IntArray, BoolArray, BoolArray]:
    """Instants at which what is known of one user may change, and what holds from each."""
    told, effective = decisions["event_time_ms"], decisions["effective_from_ms"]
    instants = np.unique(np.concatenate((told, effective, effective - notice_ms)))
    instants = instants[instants >= told.min()]
    states = [_state_at(int(now), decisions, notice_ms) for now in instants]
    return (
        instants,
        np.array([state[0] for state in states], bool),
        np.array([state[1] for state in states], bool),
    )


def _state_at(now_ms: int, decisions: Rows, notice_ms: int) -> tuple[bool, bool]:
    """What a worker that has seen every decision told up to an instant takes to hold."""
    seen: npt.NDArray[np.void] = np.empty(0, CONSENT)
    for told in decisions[decisions["event_time_ms"] <= now_ms]:
        record = Consent(
            user_id="-",
            event_time_ms=int(told["event_time_ms"]),
            marketing=MARKETING[int(told["marketing"])],
            effective_from_ms=int(told["effective_from_ms"]),
        )
        seen = with_consent(seen, record)
    is_forced = verdict(seen, now_ms, FOREVER_MS) is Verdict.OPTED_OUT
    coming = seen["effective_from_ms"]
    is_coming = (coming > now_ms) & (coming <= now_ms + notice_ms)
    is_noticed = bool((is_coming & (seen["marketing"] == _OPTED_OUT)).any())
    return is_forced, is_noticed and not is_forced

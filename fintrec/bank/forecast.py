"""How likely a conversion of any cause is within each item's window after a page, by the truth.

Two predictors (`fintrec/bank/oracle.py` says what they bound), each a product over everything that
may bring the goal: exposures so far and later, triggers so far and later, and external goals.

Shapes: E exposures of a user, D pages (decisions) of a user, I items, U users, C enrollments.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS
from fintrec.bank import needs, surfaces
from fintrec.bank.catalogue import Catalogue
from fintrec.bank.goals import (
    EXTERNAL_PER_DAY,
    TRIGGER_LAG_MS,
    external_shares,
    wanted_needs,
    without_exposure,
)
from fintrec.bank.mechanism import GOAL_AFTER_MS
from fintrec.bank.policy import LoggingPolicy, slot_probabilities
from fintrec.bank.population import NEVER_MS, BoolArray, FloatArray, IntArray, Population
from fintrec.bank.visits import AXIS_MS, Triggers, place_shares

_PRIOR_EXPOSURES: Final = 5.0  # of a need's average, where a user's own past is short
_PRIOR_DAYS: Final = 7.0  # of the average visitor's pages


@dataclass(frozen=True, slots=True)
class Exposures:
    """Impressions of a log with their truth, ordered by user and time, E rows."""

    user: IntArray
    item: IntArray
    time_ms: IntArray
    click: FloatArray
    clicked: BoolArray
    if_clicked: FloatArray  # probability of the goal at any time, given a click
    if_not: FloatArray
    goal_ms: IntArray  # when the exposure's own goal was reached, NEVER_MS if it was not

    def of(self, rows: npt.NDArray[Any] | slice) -> "Exposures":
        """Some rows."""
        return Exposures(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Log:
    """What the oracle reads of a simulated log; users and items by place."""

    people: Population
    catalogue: Catalogue
    exposures: Exposures
    triggers: Triggers
    goal_user: IntArray
    goal_item: IntArray
    goal_ms: IntArray
    owned_since_UC: IntArray  # when each product was opened, also within the log
    start_ms: int
    end_ms: int


class Forecast:
    """Probabilities of (page, item) labels, user by user."""

    def __init__(self, log: Log, from_ms: int, window_days: FloatArray) -> None:
        catalogue = log.catalogue
        self._log, self._catalogue = log, catalogue
        self._window_ms = window_days * DAY_MS
        self._lag_ms = catalogue.lag_days * DAY_MS
        self._policy = LoggingPolicy(catalogue, log.people)
        self._bounds = _bounds(log.exposures.user, log.people.num_users)
        self._open = without_exposure(catalogue)
        order = np.lexsort((log.goal_ms, log.goal_user))
        self._goals = log.goal_user[order], log.goal_item[order], log.goal_ms[order]
        self._goal_bounds = _bounds(self._goals[0], log.people.num_users)
        order = np.lexsort((log.triggers.time_ms, log.triggers.user))
        self._triggers = Triggers(*(getattr(log.triggers, n)[order] for n in Triggers.__slots__))
        self._trigger_bounds = _bounds(self._triggers.user, log.people.num_users)
        served = [max(int((self._open & (catalogue.need == n)).sum()), 1) for n in wanted_needs()]
        self._trigger_goal = np.array([t.goal for t in needs.TRIGGERS]) / served
        self._serves = (catalogue.need == wanted_needs()[:, None]) & self._open  # (kinds, I)
        self._owned_since = np.concatenate(
            (log.owned_since_UC, np.full((log.people.num_users, 1), NEVER_MS)), axis=1
        )
        past = log.exposures.of(log.exposures.time_ms < from_ms)
        num_pages = len(np.unique(past.user * AXIS_MS + past.time_ms))
        num_days = max(from_ms - log.start_ms, 1) / DAY_MS
        self._pages_per_day = num_pages / log.people.num_users / num_days
        ease = self._ease(past)
        by_need = np.bincount(catalogue.need[past.item], ease, len(needs.NEEDS))
        self._ease_by_need = by_need / np.maximum(
            np.bincount(catalogue.need[past.item], minlength=len(needs.NEEDS)), 1
        )

    def _ease(self, some: Exposures) -> FloatArray:
        """How likely an exposure was to lead to its goal, as a multiple of the item's rate."""
        goal = some.click * some.if_clicked + (1 - some.click) * some.if_not
        return np.asarray(goal / self._catalogue.goal_rate[some.item])

    def of_user(
        self, user: int, times: IntArray
    ) -> tuple[FloatArray, FloatArray, BoolArray, BoolArray, IntArray]:
        """(hindsight, foresight, label, known, item) of all (page, item), flat."""
        mine = self._log.exposures.of(slice(*self._bounds[user : user + 2]))
        triggers = slice(*self._trigger_bounds[user : user + 2])
        kind, came = self._triggers.which[triggers], self._triggers.time_ms[triggers]
        past, future = self._exposed(mine, times)
        told, coming = self._triggered(kind, came, times)
        who = np.full(len(times), user)
        external = self._external(who, times)
        hindsight = 1 - np.exp(past + future + told + coming - external)
        expected = self._expected(user, mine, kind, came, times)
        foresight = 1 - np.exp(past + told - external - expected)
        closed = (self._owned_since[user] <= times[:, None])[:, self._catalogue.enrolls]
        label = self._labels(user, times)
        known = times[:, None] + self._window_ms <= self._log.end_ms
        item = np.broadcast_to(np.arange(label.shape[1]), label.shape)
        return (
            np.where(closed, 0.0, hindsight).ravel(),
            np.where(closed, 0.0, foresight).ravel(),
            label.ravel(),
            known.ravel(),
            item.ravel(),
        )

    def _exposed(self, mine: Exposures, times: IntArray) -> tuple[FloatArray, FloatArray]:
        """Log survival (D, I) of the goals of exposures up to each page, and of later ones."""
        rate = np.where(mine.clicked, mine.if_clicked, mine.if_not)
        lag, window = self._lag_ms[mine.item], self._window_ms[mine.item]
        age = times[:, None] - mine.time_ms  # negative for later exposures
        by_now, by_then = _reached(age, lag), _reached(age + window, lag)
        is_past, is_future = age >= 0, (age < 0) & (age > -window)
        chance = rate * (by_then - by_now) / (1 - rate * by_now)
        done = mine.goal_ms[None, :] <= times[:, None]
        return (
            self._summed(np.where(is_past & ~done, np.log1p(-chance), 0.0), mine.item),
            self._summed(np.where(is_future, np.log1p(-rate * by_then), 0.0), mine.item),
        )

    def _summed(self, values_DE: FloatArray, item: IntArray) -> FloatArray:
        out = np.zeros((len(values_DE), len(self._catalogue.items)))
        order = np.argsort(item, kind="stable")
        starts = np.flatnonzero(np.diff(item[order], prepend=-1))
        if len(starts):
            out[:, item[order][starts]] = np.add.reduceat(values_DE[:, order], starts, axis=1)
        return out

    def _triggered(
        self, kind: IntArray, came: IntArray, times: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Log survival (D, I) of the goals of triggers before each page, and of later ones."""
        out = []
        age = times[:, None] - came
        for is_side in (age > 0, age <= 0):
            total = np.zeros((len(times), len(self._catalogue.items)))
            for window in np.unique(self._window_ms):
                reached = _reached(age + window, TRIGGER_LAG_MS) - _reached(age, TRIGGER_LAG_MS)
                log_left = np.where(is_side, np.log1p(-self._trigger_goal[kind] * reached), 0.0)
                by_kind = np.zeros((len(times), len(needs.TRIGGERS)))
                np.add.at(by_kind.T, kind, log_left.T)
                here = self._window_ms == window
                total[:, here] = (by_kind @ self._serves)[:, here]
            out.append(total)
        return out[0], out[1]

    def _external(self, who: IntArray, times: IntArray) -> FloatArray:
        """Expected external goals within the windows, (D, I); needs move little meanwhile."""
        people = self._log.people
        later = times + int(np.median(self._window_ms) / 2)
        shares = external_shares(self._catalogue, people.levels(who, later))
        return np.asarray(EXTERNAL_PER_DAY * shares * self._window_ms / DAY_MS)

    def _expected(
        self, user: int, mine: Exposures, kind: IntArray, came: IntArray, times: IntArray
    ) -> FloatArray:
        """Expected goals (D, I) of exposures and triggers after each page, as the past went."""
        catalogue, window = self._catalogue, self._window_ms
        days = (times - self._log.start_ms) / DAY_MS
        page_ms = np.unique(mine.time_ms)
        num_pages = np.searchsorted(page_ms, times, side="left")
        typical = _PRIOR_DAYS * self._pages_per_day
        pages_per_day = (num_pages + typical) / (days + _PRIOR_DAYS)
        room_days = (window - self._lag_ms * -np.expm1(-window / self._lag_ms)) / DAY_MS
        shown = pages_per_day[:, None] * self._shows(user, times)
        goals = shown * self._eases(mine, times) * catalogue.goal_rate * room_days
        kinds = range(len(needs.TRIGGERS))
        per_day = np.stack([(came[kind == k] < times[:, None]).sum(axis=1) for k in kinds], axis=1)
        per_day = per_day / (days + needs.TRIGGER_MEMORY_MS / DAY_MS)[:, None]
        later_days = (window - TRIGGER_LAG_MS * -np.expm1(-window / TRIGGER_LAG_MS)) / DAY_MS
        return np.asarray(goals + (per_day * self._trigger_goal) @ self._serves * later_days)

    def _shows(self, user: int, times: IntArray) -> FloatArray:
        """Expected number of each item on a page of the user, (D, I)."""
        share = float(self._log.people.app_share[user])
        weights = share * place_shares("mobile_app") + (1 - share) * place_shares("web")
        who = np.full(len(times), user)
        owned_since = np.broadcast_to(
            self._owned_since[user], (len(times), self._owned_since.shape[1])
        )
        total = np.zeros((len(times), len(self._catalogue.items)))
        for place, spot in enumerate(surfaces.PLACES):
            at = np.full(len(times), place)
            allowed = self._policy.eligible(owned_since, who, times, at)
            total += weights[place] * np.minimum(
                spot.slots * slot_probabilities(self._policy.weights(who), allowed), 1.0
            )
        return total

    def _eases(self, mine: Exposures, times: IntArray) -> FloatArray:
        """Average ease of the user's earlier exposures by need, for each item, (D, I)."""
        earlier = (mine.time_ms < times[:, None]).astype(np.float64)
        need = self._catalogue.need[mine.item]
        is_need = np.eye(len(needs.NEEDS))[need]
        count = earlier @ is_need + _PRIOR_EXPOSURES
        total = earlier @ (is_need * self._ease(mine)[:, None])
        average = (total + _PRIOR_EXPOSURES * self._ease_by_need) / count
        return np.asarray(average[:, self._catalogue.need])

    def _labels(self, user: int, times: IntArray) -> BoolArray:
        """Whether each item's goal was reached within its window after each page, (D, I)."""
        mine = slice(*self._goal_bounds[user : user + 2])
        item, goal_ms = self._goals[1][mine], self._goals[2][mine]
        waited = goal_ms - times[:, None]
        page, which = np.nonzero((waited > 0) & (waited <= self._window_ms[item]))
        out = np.zeros((len(times), len(self._catalogue.items)), bool)
        out[page, item[which]] = True
        return out


def _bounds(user: IntArray, num_users: int) -> IntArray:
    """Where each user's rows begin in rows ordered by user, and the end of the last, (U + 1,)."""
    return np.searchsorted(user, np.arange(num_users + 1))


def _reached(age_ms: FloatArray | IntArray, lag_ms: FloatArray | float) -> FloatArray:
    """Probability that a goal that will be reached is reached at an age (0 before it can be)."""
    return np.asarray(-np.expm1(-np.maximum(age_ms - GOAL_AFTER_MS, 0) / lag_ms))

"""How likely a conversion of any cause is within each item's window after a page, by the truth.

Two predictors (`fintrec/bank/oracle.py` says what they bound), each a product over everything that
may bring the goal: exposures so far and later, triggers so far and later, and external goals.

Shapes: E exposures of a user, D pages (decisions) of a user, I items, U users, C enrollments.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS, MINUTE_MS
from fintrec.bank import needs, surfaces
from fintrec.bank.catalogue import Catalogue
from fintrec.bank.goals import (
    EXTERNAL_PER_DAY,
    TRIGGER_LAG_MS,
    external_shares,
    wanted_needs,
    without_exposure,
)
from fintrec.bank.mechanism import (
    CLICK_INTERCEPT,
    GOAL_AFTER_MS,
    GOAL_NEED_WEIGHT,
    NEED_WEIGHT,
    POSITION_EFFECT,
    VIEW_GOAL_SHARE,
    sigmoid,
)
from fintrec.bank.policy import LoggingPolicy, slot_probabilities
from fintrec.bank.population import NEVER_MS, BoolArray, FloatArray, IntArray, Population
from fintrec.bank.visits import (
    APART_MS,
    AXIS_MS,
    MAX_PAGES,
    MEAN_MORE_PAGES,
    Triggers,
    fast_needs,
    place_shares,
)

_PRIOR_EXPOSURES: Final = 5.0  # of a need's average, where a user's own past is short
_PRIOR_DAYS: Final = 7.0  # of the average visitor's pages
_TYPICAL_EFFECT: Final = float(np.mean(POSITION_EFFECT))
SESSION_GAP_MS: Final = 10 * MINUTE_MS  # more than two pages of a session lie apart


def _remaining_pages() -> FloatArray:
    """Expected further pages of a session after its n-th page (from 0), (MAX_PAGES,)."""
    number = np.arange(60)
    log_fact = np.cumsum(np.log(np.maximum(number, 1)))
    chance = np.exp(number * np.log(MEAN_MORE_PAGES) - MEAN_MORE_PAGES - log_fact)
    more = np.minimum(number, MAX_PAGES - 1)
    return np.array(
        [(chance * (more - n))[more >= n].sum() / chance[more >= n].sum() for n in range(MAX_PAGES)]
    )


REMAINING_PAGES: Final = _remaining_pages()


@dataclass(frozen=True, slots=True)
class Exposures:
    """Impressions of a log with their truth, ordered by user and time, E rows."""

    user: IntArray
    item: IntArray
    time_ms: IntArray
    place: IntArray  # indexes surfaces.PLACES
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


@dataclass(frozen=True, slots=True)
class _Parts:
    """What may bring the goals of (page, item), (D, I) each: log survivals, then expected numbers."""

    past: FloatArray  # exposures before the page
    later: FloatArray  # those from the page on
    told: FloatArray  # triggers before the page
    coming: FloatArray  # later ones
    external: FloatArray
    expected: FloatArray  # goals of exposures after this page and of triggers to come
    here: FloatArray  # exposures on this page
    caused: FloatArray  # goals of one exposure on this page


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
        parts = self._parts(user, times)
        before = parts.past + parts.told - parts.external
        hindsight = 1 - np.exp(before + parts.later + parts.coming)
        foresight = 1 - np.exp(before - parts.expected - parts.here * parts.caused)
        closed = self._closed(user, times)
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

    def of_page(
        self, user: int, times: IntArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """What foresight says of an item when it is told whether the page shows it, (D, I) each.

        - foresight, not told
        - the probability of its goal if the page does not show it
        - the probability of a goal that one exposure on the page leads to within the window, at a
          typical position: P(goal | shown) = 1 - (1 - second) * (1 - third)
        - how often the logging policy would show it on the page, 0 where it must not
        """
        parts = self._parts(user, times)
        open_ = ~self._closed(user, times)
        before = parts.past + parts.told - parts.external - parts.expected
        return (
            open_ * (1 - np.exp(before - parts.here * parts.caused)),
            open_ * (1 - np.exp(before)),
            open_ * parts.caused,
            parts.here,
        )

    def _parts(self, user: int, times: IntArray) -> "_Parts":
        mine = self._log.exposures.of(slice(*self._bounds[user : user + 2]))
        triggers = self._mine(user)
        kind, came = triggers.which, triggers.time_ms
        past, later = self._exposed(mine, times)
        told, coming = self._triggered(kind, came, times)
        here, shows = self._shows(user, mine, times)
        caused, more_pages = self._soon(user, mine, times)
        expected = self._expected(mine, shows, times) + self._retriggered(kind, came, times)
        return _Parts(
            past=past,
            later=later,
            told=told,
            coming=coming,
            external=self._external(np.full(len(times), user), times),
            expected=expected + more_pages * shows * caused,
            here=here,
            caused=caused,
        )

    def _closed(self, user: int, times: IntArray) -> BoolArray:
        """Whether the product that each item opens is open already, (D, I)."""
        return (self._owned_since[user] <= times[:, None])[:, self._catalogue.enrolls]

    def _exposed(self, mine: Exposures, times: IntArray) -> tuple[FloatArray, FloatArray]:
        """Log survival (D, I) of the goals of exposures before each page, and from it on."""
        rate = np.where(mine.clicked, mine.if_clicked, mine.if_not)
        lag, window = self._lag_ms[mine.item], self._window_ms[mine.item]
        age = times[:, None] - mine.time_ms  # negative for later exposures
        by_now, by_then = _reached(age, lag), _reached(age + window, lag)
        is_past, is_later = age > 0, (age <= 0) & (age > -window)
        chance = rate * (by_then - by_now) / (1 - rate * by_now)
        done = mine.goal_ms[None, :] <= times[:, None]
        return (
            self._summed(np.where(is_past & ~done, np.log1p(-chance), 0.0), mine.item),
            self._summed(np.where(is_later, np.log1p(-rate * by_then), 0.0), mine.item),
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

    def _expected(self, mine: Exposures, shows_DI: FloatArray, times: IntArray) -> FloatArray:
        """Expected goals (D, I) of exposures on later visits, if visits go on as they did."""
        days = (times - self._log.start_ms) / DAY_MS
        num_pages = np.searchsorted(np.unique(mine.time_ms), times, side="left")
        typical = _PRIOR_DAYS * self._pages_per_day
        pages_per_day = (num_pages + typical) / (days + _PRIOR_DAYS)
        room_days = _room_ms(self._window_ms, self._lag_ms) / DAY_MS
        ease = self._eases(mine, times)
        shown = pages_per_day[:, None] * shows_DI
        return np.asarray(shown * ease * self._catalogue.goal_rate * room_days)

    def _retriggered(self, kind: IntArray, came: IntArray, times: IntArray) -> FloatArray:
        """Expected goals (D, I) of triggers to come, if they come as they did."""
        days = (times - self._log.start_ms + needs.TRIGGER_MEMORY_MS) / DAY_MS
        kinds = range(len(needs.TRIGGERS))
        num = np.stack([(came[kind == k] < times[:, None]).sum(axis=1) for k in kinds], axis=1)
        goals_per_day = num / days[:, None] * self._trigger_goal
        room_days = _room_ms(self._window_ms, TRIGGER_LAG_MS) / DAY_MS
        return np.asarray(goals_per_day @ self._serves * room_days)

    def _soon(self, user: int, mine: Exposures, times: IntArray) -> tuple[FloatArray, FloatArray]:
        """Goals of one exposure within the window by the needs of now, (D, I), and the pages that
        the visit is expected to go on for, (D, 1).
        """
        page_ms = np.unique(mine.time_ms)
        opens = np.diff(page_ms, prepend=-APART_MS) > SESSION_GAP_MS
        first = np.maximum.accumulate(np.where(opens, np.arange(len(page_ms)), 0))
        nth = np.arange(len(page_ms)) - first
        nth = np.minimum(nth[np.searchsorted(page_ms, times)], MAX_PAGES - 1)
        who = np.full(len(times), user)
        wants = self._log.people.levels(who, times) + fast_needs(self._mine(user), who, times)
        click = sigmoid(CLICK_INTERCEPT + NEED_WEIGHT * wants + _TYPICAL_EFFECT)
        ease = (click + (1 - click) * VIEW_GOAL_SHARE) * np.exp(GOAL_NEED_WEIGHT * wants)
        goal = ease[:, self._catalogue.need] * self._catalogue.goal_rate
        caused = goal * -np.expm1(-self._window_ms / self._lag_ms)
        return caused, REMAINING_PAGES[nth][:, None]

    def _mine(self, user: int) -> Triggers:
        some = slice(*self._trigger_bounds[user : user + 2])
        return Triggers(*(getattr(self._triggers, name)[some] for name in Triggers.__slots__))

    def _shows(self, user: int, mine: Exposures, times: IntArray) -> tuple[FloatArray, FloatArray]:
        """Expected number of each item on each page and on any page of the user, (D, I) both."""
        share = float(self._log.people.app_share[user])
        weights = share * place_shares("mobile_app") + (1 - share) * place_shares("web")
        who, owned_since = np.full(len(times), user), self._owned_since[[user] * len(times)]
        every = np.empty((len(surfaces.PLACES), len(times), len(self._catalogue.items)))
        for place, spot in enumerate(surfaces.PLACES):
            at = np.full(len(times), place)
            allowed = self._policy.eligible(owned_since, who, times, at)
            chance = slot_probabilities(self._policy.weights(who), allowed)
            every[place] = np.minimum(spot.slots * chance, 1.0)
        at = mine.place[np.searchsorted(mine.time_ms, times)]
        return every[at, np.arange(len(times))], np.tensordot(weights, every, 1)

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


def _room_ms(window_ms: FloatArray, lag_ms: FloatArray | float) -> FloatArray:
    """Integral over a window of the probability that a goal begun then is reached within it."""
    return np.asarray(window_ms + lag_ms * np.expm1(-window_ms / lag_ms))


def _reached(age_ms: FloatArray | IntArray, lag_ms: FloatArray | float) -> FloatArray:
    """Probability that a goal that will be reached is reached at an age (0 before it can be)."""
    return np.asarray(-np.expm1(-np.maximum(age_ms - GOAL_AFTER_MS, 0) / lag_ms))

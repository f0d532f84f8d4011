"""Which items each page showed, what was clicked or dismissed, and which goals were reached.

A page shows items drawn by the logging policy (Plackett-Luce over a crude score, some pages at
random). Clicks follow the user's needs at that instant, the item, the position and the place.
Pages are worked through in order, the k-th page of every user at once, since what was clicked,
dismissed and opened changes what comes next.

Shapes: U users, A users with a k-th page, I items, K slots of a page (MAX_SLOTS).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS, ENROLLMENTS, HOUR_MS
from fintrec.bank import needs, surfaces
from fintrec.bank.catalogue import NO_PRODUCT, Catalogue
from fintrec.bank.population import GRANTED, NEVER_MS, FloatArray, IntArray, Population
from fintrec.bank.visits import Pages, Triggers

BoolArray = npt.NDArray[np.bool_]

CLICK_INTERCEPT: Final = -3.1
NEED_WEIGHT: Final = 0.75
POSITION_EFFECT: Final = (0.0, -0.35, -0.6, -0.8, -0.95)
SEEN_TODAY: Final = -0.5
DISMISSED: Final = -2.0
DISMISS_RATE: Final = 0.006
DISMISS_MEMORY_MS: Final = 14 * DAY_MS
EXPLORE_SHARE: Final = 0.2  # pages drawn without any score
POLICY_NEED_WEIGHT: Final = 0.45
POLICY_NOISE: Final = 1.0
GOAL_NEED_WEIGHT: Final = 0.35
VIEW_GOAL_SHARE: Final = 0.015  # of the goal rate after a click, for an exposure without one
UNEXPOSED_GOALS_PER_DAY: Final = 0.006
MAX_GOAL_RATE: Final = 0.8


@dataclass(frozen=True, slots=True)
class Exposure:
    """What each page showed and what came of it, P pages in the pages' order."""

    shown_PK: IntArray  # item by position, -1 none
    clicked_PK: BoolArray
    dismissed_PK: BoolArray
    react_ms_PK: IntArray  # from the page to a click or dismissal


@dataclass(frozen=True, slots=True)
class Goals:
    """Conversions, n rows in no order."""

    user: IntArray
    time_ms: IntArray
    item: IntArray


class _Memory:
    """What users did so far, as far as it matters for what they do next."""

    def __init__(self, people: Population, num_items: int) -> None:
        shape = (people.num_users, num_items)
        self.seen_ms = np.full(shape, -NEVER_MS)
        self.dismissed_ms = np.full(shape, -NEVER_MS)
        self.clicked_need_ms = np.full((people.num_users, len(needs.NEEDS)), -NEVER_MS)
        self.owned_since_ms = np.concatenate(
            (people.owned_since_UE, np.full((people.num_users, 1), NEVER_MS)), axis=1
        )


def simulate_exposure(
    rng: np.random.Generator, people: Population, catalogue: Catalogue, pages: Pages
) -> tuple[Exposure, Goals, IntArray]:
    """Work through all pages; also returns since when each user owns each product, (U, E)."""
    num_pages, slots = len(pages.user), surfaces.MAX_SLOTS
    out = Exposure(
        np.full((num_pages, slots), -1),
        np.zeros((num_pages, slots), bool),
        np.zeros((num_pages, slots), bool),
        rng.integers(2_000, 14_000, (num_pages, slots)),
    )
    memory = _Memory(people, len(catalogue.items))
    segments = people.levels_UN + rng.normal(0, POLICY_NOISE, people.levels_UN.shape)
    counts = np.bincount(pages.user, minlength=people.num_users)
    first = np.cumsum(counts) - counts
    reached: list[tuple[IntArray, IntArray, IntArray]] = []
    for turn in range(int(counts.max(initial=0))):
        at = (first + turn)[counts > turn]
        _show(rng, people, catalogue, pages, segments, memory, at, out)
        _react(rng, catalogue, pages, memory, at, out)
        reached.append(_reach(rng, catalogue, pages, memory, at, out))
    user, time_ms, item = (np.concatenate(column) for column in zip(*reached, strict=True))
    return out, Goals(user, time_ms, item), memory.owned_since_ms[:, : len(ENROLLMENTS)]


def _eligible(
    people: Population, catalogue: Catalogue, pages: Pages, memory: _Memory, at: IntArray
) -> BoolArray:
    """Which items each page may show, (A, I): surface, consent, products owned, dates."""
    user, time_ms = pages.user[at], pages.time_ms[at]
    surface = np.array(
        [[place.product in item.products for item in catalogue.items] for place in surfaces.PLACES]
    )
    owned = memory.owned_since_ms[user] <= time_ms[:, None]
    has = owned[:, catalogue.requires] | (catalogue.requires == NO_PRODUCT)
    free = ~owned[:, catalogue.enrolls]
    starts = np.array([item.valid_from_ms for item in catalogue.items])
    ends = np.array([item.valid_until_ms or NEVER_MS for item in catalogue.items])
    dated = (starts <= time_ms[:, None]) & (time_ms[:, None] < ends)
    servicing = np.array([item.content_type == "servicing" for item in catalogue.items])
    granted = people.consent_at(user, time_ms) == GRANTED
    tenure = np.array([item.eligibility.min_tenure_days for item in catalogue.items]) * DAY_MS
    bank_since = people.owned_since_UE[user].min(axis=1)
    old_enough = (time_ms - bank_since)[:, None] >= tenure
    allowed = servicing | granted[:, None]
    return surface[pages.place[at]] & has & free & dated & allowed & old_enough


def _show(
    rng: np.random.Generator,
    people: Population,
    catalogue: Catalogue,
    pages: Pages,
    segments: FloatArray,
    memory: _Memory,
    at: IntArray,
    out: Exposure,
) -> None:
    allowed = _eligible(people, catalogue, pages, memory, at)
    user = pages.user[at]
    score = catalogue.prior + POLICY_NEED_WEIGHT * segments[user][:, catalogue.need]
    score[rng.random(len(at)) < EXPLORE_SHARE] = 0.0
    # Adding Gumbel noise and taking the largest draws without replacement by exp(score).
    keys = np.where(allowed, score + rng.gumbel(size=score.shape), -np.inf)
    for place, item in enumerate(catalogue.items):
        if item.pinned_position is not None:
            keys[allowed[:, place], place] = np.inf
    best = np.argpartition(-keys, surfaces.MAX_SLOTS, axis=1)[:, : surfaces.MAX_SLOTS]
    order = np.argsort(-np.take_along_axis(keys, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    slots = np.array([place.slots for place in surfaces.PLACES])[pages.place[at]]
    fits = np.arange(surfaces.MAX_SLOTS) < slots[:, None]
    fits &= np.take_along_axis(allowed, best, axis=1)
    out.shown_PK[at] = np.where(fits, best, -1)


def _react(
    rng: np.random.Generator,
    catalogue: Catalogue,
    pages: Pages,
    memory: _Memory,
    at: IntArray,
    out: Exposure,
) -> None:
    shown, user, time_ms = out.shown_PK[at], pages.user[at], pages.time_ms[at]
    some = shown >= 0
    row, who = np.arange(len(at))[:, None], user[:, None]
    need = catalogue.need[shown]
    since = time_ms[:, None] - memory.clicked_need_ms[user]
    recent = np.where(since < DAY_MS, np.exp2(-since / needs.CLICK_HALF_LIFE_MS), 0.0)
    wants = pages.needs_PN[at] + needs.CLICK_LIFT / NEED_WEIGHT * recent
    logit = (
        CLICK_INTERCEPT
        + NEED_WEIGHT * wants[row, need]
        + catalogue.quality[shown]
        + np.array(POSITION_EFFECT)
        + np.array([place.attention for place in surfaces.PLACES])[pages.place[at]][:, None]
        + SEEN_TODAY * (time_ms[:, None] - memory.seen_ms[who, shown] < 24 * HOUR_MS)
        + DISMISSED * (time_ms[:, None] - memory.dismissed_ms[who, shown] < DISMISS_MEMORY_MS)
    )
    draw = rng.random(logit.shape)
    clicked = some & (draw < 1 / (1 + np.exp(-logit)))
    dismissed = some & (draw > 1 - DISMISS_RATE)
    out.clicked_PK[at], out.dismissed_PK[at] = clicked, dismissed & ~clicked
    page, slot = np.nonzero(some)
    memory.seen_ms[user[page], shown[page, slot]] = time_ms[page]
    page, slot = np.nonzero(out.dismissed_PK[at])
    memory.dismissed_ms[user[page], shown[page, slot]] = time_ms[page]
    page, slot = np.nonzero(clicked)
    memory.clicked_need_ms[user[page], need[page, slot]] = time_ms[page]


def _reach(
    rng: np.random.Generator,
    catalogue: Catalogue,
    pages: Pages,
    memory: _Memory,
    at: IntArray,
    out: Exposure,
) -> tuple[IntArray, IntArray, IntArray]:
    """Goals that this page's exposures lead to, some days later; opens the products they open."""
    shown = out.shown_PK[at]
    wants = pages.needs_PN[at][np.arange(len(at))[:, None], catalogue.need[shown]]
    rate = catalogue.goal_rate[shown] * np.exp(GOAL_NEED_WEIGHT * wants)
    rate *= np.where(out.clicked_PK[at], 1.0, VIEW_GOAL_SHARE)
    happens = (shown >= 0) & (rng.random(rate.shape) < np.minimum(rate, MAX_GOAL_RATE))
    page, slot = np.nonzero(happens)
    item, user = shown[page, slot], pages.user[at][page]
    lag = rng.exponential(catalogue.lag_days[item]) * DAY_MS
    time_ms = pages.time_ms[at][page] + 60_000 + lag.astype(np.int64)
    opens = catalogue.enrolls[item]
    real = opens != NO_PRODUCT
    # A product is opened once: a later goal of an open product never happens.
    already = memory.owned_since_ms[user, opens] <= time_ms
    kept = ~(real & already)
    fresh = real & kept
    np.minimum.at(memory.owned_since_ms, (user[fresh], opens[fresh]), time_ms[fresh])
    return user[kept], time_ms[kept], item[kept]


def unexposed_goals(
    rng: np.random.Generator,
    people: Population,
    catalogue: Catalogue,
    triggers: Triggers,
    owned_since: IntArray,
    start_ms: int,
    end_ms: int,
) -> Goals:
    """Goals reached without any exposure: by habit of need, and after triggers.

    Only items that open no product, so that ownership stays as the exposures left it.
    """
    open_to_all = np.flatnonzero(
        (catalogue.enrolls == NO_PRODUCT)
        & (catalogue.requires == NO_PRODUCT)
        & np.array([item.valid_until_ms is None for item in catalogue.items])
        & np.array([item.valid_from_ms == 0 for item in catalogue.items])
    )
    days = (end_ms - start_ms) / DAY_MS
    user = np.repeat(
        np.arange(people.num_users),
        rng.poisson(UNEXPOSED_GOALS_PER_DAY * days, people.num_users),
    )
    time_ms = rng.integers(start_ms, end_ms, len(user))
    keys = people.levels(user, time_ms)[:, catalogue.need[open_to_all]]
    item = open_to_all[np.argmax(keys + rng.gumbel(size=keys.shape), axis=1)] if len(user) else user
    chance = np.array([trigger.goal for trigger in needs.TRIGGERS])[triggers.which]
    acts = np.flatnonzero(rng.random(len(chance)) < chance)
    wanted = needs.trigger_lifts().argmax(axis=1)[triggers.which[acts]]
    serves = catalogue.need[open_to_all] == wanted[:, None]
    keys = np.where(serves, rng.gumbel(size=serves.shape), -np.inf)
    after = triggers.time_ms[acts] + rng.exponential(DAY_MS, len(acts)).astype(np.int64) + 60_000
    return Goals(
        np.concatenate((user, triggers.user[acts])),
        np.concatenate((time_ms, after)),
        np.concatenate((item, open_to_all[keys.argmax(axis=1)] if len(acts) else acts)),
    )

"""Goals (conversions): their causes, those that no exposure caused, and which of them happen."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from features.spec import DAY_MS
from fintrec.bank import needs
from fintrec.bank.catalogue import NO_PRODUCT, Catalogue
from fintrec.bank.mechanism import GOAL_AFTER_MS
from fintrec.bank.population import BoolArray, FloatArray, IntArray, Population
from fintrec.bank.visits import Triggers

EXTERNAL_PER_DAY: Final = 0.006  # goals without any exposure, by need
TRIGGER_LAG_MS: Final = DAY_MS  # mean time from a trigger to a goal it causes
CAUSES: Final = ("click", "exposure", "external", "trigger")
CLICK, EXPOSURE, EXTERNAL, TRIGGER = range(len(CAUSES))


@dataclass(frozen=True, slots=True)
class Goals:
    """Conversions, n rows; `page` is the place of the page that caused one, -1 for none."""

    user: IntArray
    time_ms: IntArray
    item: IntArray
    cause: IntArray  # place in CAUSES
    page: IntArray

    def of(self, rows: Any) -> "Goals":
        """Some rows, by place or flag."""
        return Goals(*(getattr(self, name)[rows] for name in self.__slots__))


def without_exposure(catalogue: Catalogue) -> BoolArray:
    """Items whose goal is reached without any exposure, too, (I,).

    Only items that open no product, so that ownership stays as the exposures left it.
    """
    always = [i.valid_until_ms is None and i.valid_from_ms == 0 for i in catalogue.items]
    is_free = (catalogue.enrolls == NO_PRODUCT) & (catalogue.requires == NO_PRODUCT)
    return np.asarray(is_free & np.array(always))


def external_shares(catalogue: Catalogue, levels_AN: FloatArray) -> FloatArray:
    """How a user's external goals fall on the items, (A, I): in proportion to exp(need)."""
    weight = np.exp(levels_AN[:, catalogue.need]) * without_exposure(catalogue)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def wanted_needs() -> IntArray:
    """The need that each trigger's goals serve: the one it lifts most."""
    return np.asarray(needs.trigger_lifts().argmax(axis=1))


def unexposed_goals(
    rng: np.random.Generator,
    people: Population,
    catalogue: Catalogue,
    triggers: Triggers,
    start_ms: int,
    end_ms: int,
) -> Goals:
    """Goals reached without any exposure: by habit of need, and after triggers."""
    open_to_all = np.flatnonzero(without_exposure(catalogue))
    counts = rng.poisson(EXTERNAL_PER_DAY * (end_ms - start_ms) / DAY_MS, people.num_users)
    user = np.repeat(np.arange(people.num_users), counts)
    time_ms = rng.integers(start_ms, end_ms, len(user))
    keys = people.levels(user, time_ms)[:, catalogue.need[open_to_all]]
    item = open_to_all[np.argmax(keys + rng.gumbel(size=keys.shape), axis=1)]
    chance = np.array([trigger.goal for trigger in needs.TRIGGERS])[triggers.which]
    acts = np.flatnonzero(rng.random(len(chance)) < chance)
    serves = catalogue.need[open_to_all] == wanted_needs()[triggers.which[acts]][:, None]
    keys = np.where(serves, rng.gumbel(size=serves.shape), -np.inf)
    lag = rng.exponential(TRIGGER_LAG_MS, len(acts)).astype(np.int64)
    after = triggers.time_ms[acts] + GOAL_AFTER_MS + lag
    none = np.full(len(user) + len(acts), -1)
    return Goals(
        np.concatenate((user, triggers.user[acts])),
        np.concatenate((time_ms, after)),
        np.concatenate((item, open_to_all[keys.argmax(axis=1)])),
        np.concatenate((np.full(len(user), EXTERNAL), np.full(len(acts), TRIGGER))),
        none,
    )


def happening(parts: list[Goals], catalogue: Catalogue, start_ms: int, end_ms: int) -> Goals:
    """The goals within [start, end) by time; a product is opened by the first of its goals only."""
    every = Goals(*(np.concatenate([getattr(p, n) for p in parts]) for n in Goals.__slots__))
    every = every.of(np.lexsort((every.page, every.item, every.user, every.time_ms)))
    opens = catalogue.enrolls[every.item]
    _, firsts = np.unique(every.user * (NO_PRODUCT + 1) + opens, return_index=True)
    is_first = np.zeros(len(opens), bool)
    is_first[firsts] = True
    inside = (every.time_ms >= start_ms) & (every.time_ms < end_ms)
    return every.of(((opens == NO_PRODUCT) | is_first) & inside)

"""The logging policy: which items a page showed, each with its exactly known propensity.

Slot by slot, with probability EXPLORE an item is drawn evenly out of the eligible ones that are
left, else in proportion to a weight (Plackett-Luce). An item's propensity is the probability that
this rule shows it in this slot given the items above it; a pinned item stands in its slot for sure.

Shapes: A pages, I items, K slots (surfaces.MAX_SLOTS), N needs, U users.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS
from fintrec.bank import surfaces
from fintrec.bank.catalogue import NO_PRODUCT, Catalogue
from fintrec.bank.mechanism import Memory
from fintrec.bank.population import GRANTED, NEVER_MS, BoolArray, FloatArray, IntArray, Population

Float32Array = npt.NDArray[np.float32]

EXPLORE: Final = 0.2
NEED_WEIGHT: Final = 0.45


class LoggingPolicy:
    """The policy for one catalogue and some users."""

    def __init__(self, catalogue: Catalogue, people: Population) -> None:
        items = catalogue.items
        self._catalogue, self._people = catalogue, people
        self._on_surface = np.array(
            [[place.product in item.products for item in items] for place in surfaces.PLACES]
        )
        self._slots = np.array([place.slots for place in surfaces.PLACES])
        self._is_servicing = catalogue.of_type("servicing")
        self._from_ms = np.array([item.valid_from_ms for item in items])
        self._until_ms = np.array([item.valid_until_ms or NEVER_MS for item in items])
        self._tenure_ms = np.array([i.eligibility.min_tenure_days for i in items]) * DAY_MS
        self._pinned = {
            place: item.pinned_position - 1
            for place, item in enumerate(items)
            if item.pinned_position is not None
        }
        self._bank_since = people.owned_since_UE.min(axis=1)
        self._prior = np.exp(catalogue.prior).astype(np.float32)
        self._belief = np.exp(NEED_WEIGHT * people.policy_UN).astype(np.float32)

    def weights(self, user: IntArray) -> Float32Array:
        """Plackett-Luce weights of all items, (A, I)."""
        return np.asarray(self._belief[user][:, self._catalogue.need] * self._prior)

    def eligible(
        self, owned_since_ms: IntArray, user: IntArray, time_ms: IntArray, place: IntArray
    ) -> BoolArray:
        """Which items each page may show, (A, I): surface, consent, products owned, dates.

        `owned_since_ms` (A, E + 1) are rows of `Memory.owned_since_ms`.
        """
        catalogue, when = self._catalogue, time_ms[:, None]
        owned = owned_since_ms <= when
        lacks = ~owned
        owned[:, NO_PRODUCT] = True
        allowed = self._on_surface[place] & owned[:, catalogue.requires]
        allowed &= lacks[:, catalogue.enrolls]
        allowed &= (self._from_ms <= when) & (when < self._until_ms)
        granted = self._people.consent_at(user, time_ms) == GRANTED
        allowed &= self._is_servicing | granted[:, None]
        return allowed & ((time_ms - self._bank_since[user])[:, None] >= self._tenure_ms)

    def show(
        self,
        rng: np.random.Generator,
        memory: Memory,
        user: IntArray,
        time_ms: IntArray,
        place: IntArray,
    ) -> tuple[IntArray, FloatArray]:
        """Items by slot, -1 for none, and their propensities, both (A, K)."""
        allowed = self.eligible(memory.owned_since_ms[user], user, time_ms, place)
        return draw_slates(rng, self.weights(user), allowed, self._slots[place], self._pinned)


def draw_slates(
    rng: np.random.Generator,
    weight_AI: Float32Array,
    allowed_AI: BoolArray,
    num_slots: IntArray,
    pinned: dict[int, int],
) -> tuple[IntArray, FloatArray]:
    """Draw pages by the rule above; `pinned` maps items to their slots (from 0)."""
    left = allowed_AI.copy()
    left[:, list(pinned)] = False
    # The item whose exponential arrives first at rate w is a draw by weight; whoever is taken out,
    # the order of the others stays one (Plackett-Luce is consistent under removal).
    arrival = rng.standard_exponential(weight_AI.shape, np.float32) / weight_AI
    arrival[~left] = np.inf
    total = np.where(left, weight_AI, 0).sum(axis=1, dtype=np.float64)
    count = left.sum(axis=1)
    rows = np.arange(len(weight_AI))
    shown = np.full((len(rows), surfaces.MAX_SLOTS), -1)
    propensity = np.zeros(shown.shape)
    for slot in range(int(num_slots.max(initial=0))):
        chosen = arrival.argmin(axis=1)
        explores = np.flatnonzero((rng.random(len(rows)) < EXPLORE) & (count > 0))
        nth = (rng.random(len(explores)) * count[explores]).astype(np.int64)
        chosen[explores] = (np.cumsum(left[explores], axis=1) > nth[:, None]).argmax(axis=1)
        weight = weight_AI[rows, chosen].astype(np.float64)
        chance = EXPLORE / np.maximum(count, 1)
        chance = chance + (1 - EXPLORE) * weight / np.maximum(total, weight)
        fits = (slot < num_slots) & (count > 0)
        for item, at in pinned.items():
            if at == slot:
                stands = allowed_AI[:, item]
                chosen, chance = np.where(stands, item, chosen), np.where(stands, 1.0, chance)
                fits |= stands & (slot < num_slots)
        shown[fits, slot] = chosen[fits]
        propensity[fits, slot] = np.minimum(chance[fits], 1.0)
        taken = np.flatnonzero(fits & left[rows, chosen])
        arrival[taken, chosen[taken]] = np.inf
        left[taken, chosen[taken]] = False
        total[taken] -= weight[taken]
        count[taken] -= 1
    return shown, propensity


def slot_probabilities(weight_I: npt.NDArray[np.floating[Any]], left_I: BoolArray) -> FloatArray:
    """Propensities of all items in the next slot given which are left, (..., I)."""
    weight = np.where(left_I, weight_I, 0.0).astype(np.float64)
    even = left_I / np.maximum(left_I.sum(axis=-1, keepdims=True), 1)
    return np.asarray(
        EXPLORE * even + (1 - EXPLORE) * weight / np.maximum(weight.sum(-1, keepdims=True), 1e-300)
    )

"""What the true log odds of a click are made of, impression by impression.

    log odds = intercept + item + position + place + slow + fast + history

- item, position, place: constants of the mechanism (docs/simulated_bank.md, "What is clicked")
- slow: what the item's need is to the user; no event of a log says it, it can only be guessed
- fast: the same of triggers, each an event of the log before the page
- history: interest and order of earlier clicks, seen today, dismissed; the rest of the log odds

All but the slow part follow from the log before the page and the bank's tables.

Shapes: N impressions, P parts, B pages, K items
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from fintrec.bank import surfaces
from fintrec.bank.mechanism import CLICK_INTERCEPT, NEED_WEIGHT, POSITION_EFFECT
from fintrec.bank.visits import fast_needs
from fintrec.datasets import Decisions
from fintrec.experiments.hidden_truth import BoolArray, FloatArray, IntArray, Truth
from fintrec.logistic import WEAK, corrections, logit, regression, sigmoid

PARTS: Final = ("item", "position", "place", "slow", "fast", "history")
_FREE: Final = 100.0  # the prior of an item's offset: none to speak of


@dataclass(frozen=True, slots=True)
class Impressions:
    """Shown items with the truth of their clicks, N rows in the order asked for."""

    page: IntArray  # place in the decisions
    slot: IntArray  # position from 0
    item: IntArray  # place in the training set's items
    user: IntArray
    clicked: BoolArray
    chance: FloatArray  # true probability
    parts_PN: FloatArray  # rows as in PARTS; with the intercept they add up to the log odds

    def of(self, rows: IntArray) -> "Impressions":
        """Some rows, in the order given."""
        whole = {name: getattr(self, name)[rows] for name in self.__slots__[:-1]}
        return Impressions(**whole, parts_PN=self.parts_PN[:, rows])

    def known(self, *names: str) -> FloatArray:
        """Sum of some parts, without the intercept, (N,)."""
        return np.asarray(self.parts_PN[[PARTS.index(name) for name in names]].sum(axis=0))


def impressions(known: Truth, decisions: Decisions, page: IntArray, slot: IntArray) -> Impressions:
    """The truth of what slots of pages showed; ValueError where the log never showed it."""
    shown = known.exposures(decisions, page, slot)
    catalogue, people = known.log.catalogue, known.log.people
    need, line = catalogue.need[shown.item], np.arange(len(page))
    fast = fast_needs(known.log.triggers, shown.user, shown.time_ms)[line, need]
    parts = np.stack(
        (
            catalogue.quality[shown.item],
            np.array(POSITION_EFFECT)[slot],
            np.array([place.attention for place in surfaces.PLACES])[shown.place],
            NEED_WEIGHT * people.levels(shown.user, shown.time_ms)[line, need],
            NEED_WEIGHT * fast,
            np.zeros(len(page)),
        )
    )
    parts[-1] = logit(shown.click) - CLICK_INTERCEPT - parts.sum(axis=0)
    return Impressions(
        page=page,
        slot=slot.astype(np.int64),
        item=decisions.shown[page, slot].astype(np.int64),
        user=decisions.user[page].astype(np.int64),
        clicked=decisions.clicked[page, slot],
        chance=shown.click,
        parts_PN=parts,
    )


def knowing(
    fitted_on: Impressions, asked: Impressions, parts: tuple[str, ...], num_items: int
) -> FloatArray:
    """Probabilities of a predictor that knows the item and some parts of the log odds exactly, (N,).

    Each item's level and one slope for the known sum, fitted on true probabilities of other
    impressions: what is not known is averaged over as it comes with the item.
    """
    value, target = fitted_on.known(*parts), fitted_on.chance
    centre = value.mean()
    start = float(logit(target.mean()))
    inputs = np.stack((value - centre, np.ones_like(value)))
    slope, level = regression(inputs, target, (1.0, start), (1.0, WEAK), (None, None))
    base = slope * (value - centre) + level
    offset, _ = corrections(base, target, fitted_on.item, num_items, _FREE, 0.0, 1e-3)
    return sigmoid(slope * (asked.known(*parts) - centre) + level + offset[asked.item])


@dataclass(frozen=True, slots=True)
class Tendency:
    """What is a page's own in the needs' part of the log odds, of all items by their exposure.

    `level_B` is its mean over the items of the page's place: a click on anything is likelier. The
    variances are of item, of page and of what is left, which tells the items of a page apart.
    """

    level_B: FloatArray
    variance: dict[str, float]


def tendency(known: Truth, decisions: Decisions, pages: IntArray, share_BK: FloatArray) -> Tendency:
    """The tendency of users at pages to click; `share_BK` is how often each item is shown there."""
    user, time_ms = known.person(decisions.user[pages]), decisions.time_ms[pages]
    catalogue = known.log.catalogue
    needs_BN = known.log.people.levels(user, time_ms)
    needs_BN = needs_BN + fast_needs(known.log.triggers, user, time_ms)
    wants_BK = NEED_WEIGHT * needs_BN[:, catalogue.need[known.column]]
    weight_BK = share_BK / share_BK.sum()
    value_BK = wants_BK + catalogue.quality[known.column]
    weight_K = weight_BK.sum(axis=0)
    item_K = (value_BK * weight_BK).sum(axis=0) / weight_K
    rest_BK = value_BK - item_K
    level_B = (rest_BK * share_BK).sum(axis=1) / share_BK.sum(axis=1)
    middle = float((item_K * weight_K).sum())
    variance = {
        "item": float((weight_K * (item_K - middle) ** 2).sum()),
        "page": float((weight_BK.sum(axis=1) * level_B**2).sum()),
        "item and page": float((weight_BK * (rest_BK - level_B[:, None]) ** 2).sum()),
    }
    return Tendency(level_B, variance)

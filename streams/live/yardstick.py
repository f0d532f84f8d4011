"""How good a served page is by the truth, beside two others that the same user might have seen.

- the logging policy's: one page of the allowed items, drawn as the simulator draws
- the best: the allowed items that this user is most likely to click, the likeliest on top

Both in expected clicks, at the same instant and with the same memory of earlier pages. Allowed is
what the rules of `fintrec/eligibility.py` give for the user's true consent, products and tenure.
(The simulator's own pages are stricter: nothing of third parties without consent either.)
"""

from dataclasses import fields, replace
from typing import Final, NamedTuple

import numpy as np

from fintrec.bank.catalogue import Catalogue
from fintrec.bank.mechanism import POSITION_EFFECT, Mechanism, Memory, Moment, sigmoid
from fintrec.bank.policy import LoggingPolicy, draw_slates
from fintrec.bank.population import (
    GRANTED,
    NEVER_MS,
    BoolArray,
    FloatArray,
    IntArray,
    Population,
)

_POSITION_EFFECT: Final = np.array(POSITION_EFFECT)


class Judged(NamedTuple):
    """Expected clicks of pages of one size, and which items the user may be shown, (I,)."""

    logging_clicks: float
    best_clicks: float
    allowed: BoolArray


class Yardstick:
    """Judges the pages of some users; ask before a page is remembered."""

    def __init__(self, mechanism: Mechanism, catalogue: Catalogue, people: Population) -> None:
        self._mechanism = mechanism
        self._people, self._is_marketing = people, catalogue.of_type("marketing")
        never = np.full(people.num_users, NEVER_MS)
        willing = np.full(people.num_users, GRANTED)
        self._policy = LoggingPolicy(
            catalogue, replace(people, consent=willing, consent_change_ms=never)
        )
        self._pinned = {
            place: item.pinned_position - 1
            for place, item in enumerate(catalogue.items)
            if item.pinned_position is not None
        }

    def judge(
        self, rng: np.random.Generator, memory: Memory, moment: Moment, num_items: int
    ) -> Judged:
        """What a page of `num_items` items could have been at one user's moment."""
        self._mechanism.judge_sequences(memory, moment)
        wants = self._mechanism.needs_now(memory, moment)
        user, when = moment.user, moment.time_ms
        owned = memory.owned_since_ms[user]
        allowed = self._policy.eligible(owned, user, when, moment.place)
        has_consent = self._people.consent_at(user, when) == GRANTED
        allowed &= ~self._is_marketing | has_consent[:, None]
        weights, size = self._policy.weights(user), np.array([num_items])
        drawn, _ = draw_slates(rng, weights, allowed, size, self._pinned)
        chance = sigmoid(self._mechanism.click_logits(memory, moment, wants, drawn))
        allowed = allowed[0]
        logits = self._one_by_one(memory, moment, wants, np.flatnonzero(allowed))
        top = np.sort(logits)[::-1][:num_items]
        best = sigmoid(top + _POSITION_EFFECT[: len(top)])
        return Judged(float((chance * (drawn >= 0)).sum()), float(best.sum()), allowed)

    def _one_by_one(
        self, memory: Memory, moment: Moment, wants: FloatArray, items: IntArray
    ) -> FloatArray:
        """Log odds of each item alone, on top of the page."""
        num = len(items)
        many = Moment(*(np.repeat(getattr(moment, f.name), num, axis=0) for f in fields(Moment)))
        wants = np.repeat(wants, num, axis=0)
        return self._mechanism.click_logits(memory, many, wants, items[:, None])[:, 0]

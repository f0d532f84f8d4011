"""Payments of card statements, decided after what was shown: reminders make fewer of them late."""

import numpy as np

from features.spec import DAY_MS
from fintrec.bank import needs
from fintrec.bank.mechanism import late_probability
from fintrec.bank.money import DUE_AFTER_MS, Money, filled
from fintrec.bank.population import IntArray, Population
from fintrec.bank.visits import AXIS_MS

LATE_BY_DAYS = 4.0  # mean


def simulate_payments(
    rng: np.random.Generator,
    people: Population,
    money: Money,
    reminded: tuple[IntArray, IntArray],
    clicked: tuple[IntArray, IntArray],
    end_ms: int,
) -> Money:
    """Payments before the end of the statements in `money`.

    `reminded` and `clicked` are (user, instant) of payment items shown and clicked, in any order.
    """
    sent = money.of(money.is_kind("statement"))
    user = sent.user.astype(np.int64)
    debt = people.levels(user, sent.time_ms)[:, needs.NEED_INDEX["debt"]]
    num_shown = _num_between(reminded, user, sent.time_ms)
    num_clicked = _num_between(clicked, user, sent.time_ms)
    chance = late_probability(people.late_logit[user], debt, num_shown, num_clicked > 0)
    is_late = rng.random(len(user)) < chance
    before = rng.beta(2, 1.5, len(user)) * DUE_AFTER_MS
    after = DUE_AFTER_MS + rng.exponential(LATE_BY_DAYS, len(user)) * DAY_MS
    time_ms = sent.time_ms + np.where(is_late, after, before).astype(np.int64)
    paid = filled(user, time_ms, "payment", sent.amount_usd, "credit_card", "mobile_app")
    return paid.of(time_ms < end_ms)


def _num_between(events: tuple[IntArray, IntArray], user: IntArray, sent_ms: IntArray) -> IntArray:
    """How many of a user's events lie after each statement and up to its due date."""
    axis = np.sort(events[0].astype(np.int64) * AXIS_MS + events[1])
    low = np.searchsorted(axis, user * AXIS_MS + sent_ms, side="right")
    return np.searchsorted(axis, user * AXIS_MS + sent_ms + DUE_AFTER_MS, side="right") - low

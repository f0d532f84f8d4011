"""Transactions of the simulated bank: purchases by need, salary, statements, payments, fees, cash.

Every stage draws from its own generator, so a change of one leaves the draws of the others alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.categories import CATEGORIES
from features.spec import DAY_MS, ENROLLMENTS, HOUR_MS, MINUTE_MS
from fintrec.bank import needs
from fintrec.bank.population import FloatArray, IntArray, Population

Names = npt.NDArray[np.str_]

LOCAL_OFFSET_MS: Final = -5 * HOUR_MS  # the users' wall clock against UTC
WEEKEND_FACTOR: Final = {"dining": 1.4, "entertainment": 1.5, "retail": 1.3, "home": 1.3}
MERCHANTS_PER_CATEGORY: Final = 12
STATEMENT_EVERY_DAYS: Final = 30
DUE_AFTER_DAYS: Final = 25
LATE_SHARE: Final = 0.08
FEES_PER_DAY: Final = 0.006
CASH_PER_DAY: Final = 0.04
SAVES_SHARE: Final = 0.35  # of paydays of a savings owner, followed by a transfer
_CARD, _SAVINGS = ENROLLMENTS.index("credit_card"), ENROLLMENTS.index("savings")


@dataclass(frozen=True, slots=True)
class Money:
    """Transactions as columns, n rows in no order; due date -1 and minimum NaN where none."""

    user: IntArray
    time_ms: IntArray
    kind: Names
    amount_usd: FloatArray
    mcc: Names
    merchant: Names
    account: Names
    channel: Names
    due_date_ms: IntArray
    minimum_due_usd: FloatArray


def simulate_money(
    rng: np.random.Generator, people: Population, start_ms: int, end_ms: int
) -> Money:
    """All transactions of the log within [start_ms, end_ms)."""
    parts = [
        _purchases(rng, people, start_ms, end_ms),
        *_paydays(rng, people, start_ms, end_ms),
        *_statements(rng, people, start_ms, end_ms),
        _fees(rng, people, start_ms, end_ms),
        _cash(rng, people, start_ms, end_ms),
    ]
    whole = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Money.__dataclass_fields__
    }
    inside = (whole["time_ms"] >= start_ms) & (whole["time_ms"] < end_ms)
    return Money(**{name: column[inside] for name, column in whole.items()})


def day_starts(start_ms: int, end_ms: int) -> IntArray:
    """Local midnights of every day that touches [start_ms, end_ms)."""
    first = (start_ms + LOCAL_OFFSET_MS) // DAY_MS * DAY_MS - LOCAL_OFFSET_MS
    return np.arange(first, end_ms, DAY_MS, dtype=np.int64)


def daytime(rng: np.random.Generator, size: int) -> IntArray:
    """Instants within a local day: most around 14:00, few at night; whole milliseconds."""
    hours = np.clip(rng.normal(14.0, 3.8, size), 0.05, 23.9)
    return (hours * HOUR_MS).astype(np.int64)


def _filled(
    user: IntArray,
    time_ms: IntArray,
    kind: str,
    amount_usd: FloatArray,
    account: Names | str,
    channel: Names | str,
    **columns: npt.NDArray[Any],
) -> Money:
    size = len(user)
    blank = np.full(size, "")
    return Money(
        user=user,
        time_ms=time_ms,
        kind=np.full(size, kind),
        amount_usd=np.round(amount_usd, 2),
        mcc=columns.get("mcc", blank),
        merchant=columns.get("merchant", blank),
        account=np.full(size, account) if isinstance(account, str) else account,
        channel=np.full(size, channel) if isinstance(channel, str) else channel,
        due_date_ms=columns.get("due_date_ms", np.full(size, -1, np.int64)),
        minimum_due_usd=columns.get("minimum_due_usd", np.full(size, np.nan)),
    )


def _purchases(rng: np.random.Generator, people: Population, start_ms: int, end_ms: int) -> Money:
    users, moments, places = [], [], []
    loadings = needs.spend_loadings()
    base = np.array([needs.PURCHASES_PER_DAY.get(name, 0.0) for name in CATEGORIES])
    everyone = np.arange(people.num_users)
    for midnight in day_starts(start_ms, end_ms):
        levels = people.levels(everyone, np.full(people.num_users, midnight))
        rates = base * np.exp(levels @ loadings) * people.spend_activity[:, None]
        weekday = (midnight + LOCAL_OFFSET_MS) // DAY_MS % 7  # the epoch began on a Thursday
        if weekday in (2, 3):
            rates *= np.array([WEEKEND_FACTOR.get(name, 1.0) for name in CATEGORIES])
        counts = rng.poisson(rates)
        user, category = (np.repeat(index, counts.ravel()) for index in _grid(counts.shape))
        users.append(user)
        places.append(category)
        moments.append(midnight + daytime(rng, len(user)))
    user, category, time_ms = (np.concatenate(column) for column in (users, places, moments))
    # A trip is booked in several purchases of one day: flight, then hotel or car.
    again = np.flatnonzero((category == CATEGORIES.index("travel")) & (rng.random(len(user)) < 0.5))
    later = (rng.uniform(3, 60, len(again)) * MINUTE_MS).astype(np.int64)
    user = np.concatenate((user, user[again]))
    time_ms = np.concatenate((time_ms, time_ms[again] + later))
    category = np.concatenate((category, category[again]))
    return _priced(rng, people, user, time_ms, category)


def _grid(shape: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    rows, columns = np.indices(shape)
    return rows.ravel(), columns.ravel()


def _priced(
    rng: np.random.Generator,
    people: Population,
    user: IntArray,
    time_ms: IntArray,
    category: IntArray,
) -> Money:
    middles = np.array([needs.AMOUNTS.get(name, (1.0, 0.0))[0] for name in CATEGORIES])
    spreads = np.array([needs.AMOUNTS.get(name, (1.0, 0.0))[1] for name in CATEGORIES])
    size = len(user)
    amount = np.exp(rng.normal(np.log(middles[category]), spreads[category]))
    has_card = people.owned_since_UE[user, _CARD] <= time_ms
    pays_by_card = has_card & (rng.random(size) < 0.7)
    return _filled(
        user,
        time_ms,
        "purchase",
        np.clip(amount, 1.0, 9_999.0),
        np.where(pays_by_card, "credit_card", "checking"),
        np.where(rng.random(size) < 0.75, "card", "web"),
        mcc=_pick(rng, category, [needs.MCCS.get(name, ("",)) for name in CATEGORIES]),
        merchant=_pick(rng, category, [_merchants(name) for name in CATEGORIES]),
    )


def _merchants(category: str) -> tuple[str, ...]:
    return tuple(f"{category}_merchant_{n:02d}" for n in range(MERCHANTS_PER_CATEGORY))


def _pick(rng: np.random.Generator, which: IntArray, choices: Sequence[tuple[str, ...]]) -> Names:
    """For each entry a random one of `choices[which]`."""
    widest = max(len(names) for names in choices)
    table = np.array([[names[i % len(names)] for i in range(widest)] for names in choices])
    sizes = np.array([len(names) for names in choices])
    return table[which, (rng.random(len(which)) * sizes[which]).astype(np.int64)]


def _paydays(
    rng: np.random.Generator, people: Population, start_ms: int, end_ms: int
) -> list[Money]:
    midnights = day_starts(start_ms, end_ms)
    number = (midnights + LOCAL_OFFSET_MS) // DAY_MS % 14
    user, day = np.nonzero(people.payday_offset[:, None] == number[None, :])
    time_ms = midnights[day] + 8 * HOUR_MS + rng.integers(0, 2 * HOUR_MS, len(user))
    salary = people.salary_usd[user]
    paid = _filled(
        user,
        time_ms,
        "transfer",
        salary,
        "checking",
        "external",
        merchant=np.full(len(user), "employer"),
    )
    levels = people.levels(user, time_ms)
    wants = levels[:, needs.NEED_INDEX["saving"]] + levels[:, needs.NEED_INDEX["investing"]]
    chance = SAVES_SHARE * np.exp(np.clip(0.5 * wants, -1, 1))
    saves = (people.owned_since_UE[user, _SAVINGS] <= time_ms) & (rng.random(len(user)) < chance)
    put = np.flatnonzero(saves)
    later = (rng.exponential(6.0, len(put)) * HOUR_MS).astype(np.int64) + MINUTE_MS
    share = rng.uniform(0.05, 0.25, len(put))
    saved = _filled(
        user[put], time_ms[put] + later, "transfer", salary[put] * share, "savings", "mobile_app"
    )
    return [paid, saved]


def _statements(
    rng: np.random.Generator, people: Population, start_ms: int, end_ms: int
) -> list[Money]:
    midnights = day_starts(start_ms, end_ms)
    closing = rng.integers(0, STATEMENT_EVERY_DAYS, people.num_users)
    number = (midnights + LOCAL_OFFSET_MS) // DAY_MS % STATEMENT_EVERY_DAYS
    user, day = np.nonzero(closing[:, None] == number[None, :])
    time_ms = midnights[day] + 6 * HOUR_MS + rng.integers(0, HOUR_MS, len(user))
    has_card = people.owned_since_UE[user, _CARD] <= time_ms
    user, time_ms = user[has_card], time_ms[has_card]
    balance = np.exp(rng.normal(np.log(650), 0.8, len(user))) * people.spend_activity[user]
    due = time_ms + DUE_AFTER_DAYS * DAY_MS
    sent = _filled(
        user,
        time_ms,
        "statement",
        balance,
        "credit_card",
        "web",
        due_date_ms=due,
        minimum_due_usd=np.round(np.clip(balance * 0.03, 25, None), 2),
    )
    is_late = rng.random(len(user)) < LATE_SHARE
    before = rng.beta(2, 1.5, len(user)) * DUE_AFTER_DAYS * DAY_MS
    after = DUE_AFTER_DAYS * DAY_MS + rng.exponential(4.0, len(user)) * DAY_MS
    waits = np.where(is_late, after, before).astype(np.int64)
    paid = _filled(user, time_ms + waits, "payment", balance, "credit_card", "mobile_app")
    return [sent, paid]


def _fees(rng: np.random.Generator, people: Population, start_ms: int, end_ms: int) -> Money:
    debt = people.levels_UN[:, needs.NEED_INDEX["debt"]]
    user, time_ms = spread(rng, FEES_PER_DAY * np.exp(0.4 * debt), start_ms, end_ms)
    return _filled(
        user, time_ms, "fee", rng.choice([5.0, 12.0, 29.0, 35.0], len(user)), "checking", ""
    )


def _cash(rng: np.random.Generator, people: Population, start_ms: int, end_ms: int) -> Money:
    user, time_ms = spread(rng, CASH_PER_DAY * people.spend_activity, start_ms, end_ms)
    size = len(user)
    amount = rng.integers(1, 16, size) * np.float64(20)
    return _filled(user, time_ms, "atm", amount, "checking", "atm", mcc=np.full(size, "6011"))


def spread(
    rng: np.random.Generator, rate_per_day: FloatArray, start_ms: int, end_ms: int
) -> tuple[IntArray, IntArray]:
    """(user, instant) of events that come at a rate per user and day, in daytime."""
    midnights = day_starts(start_ms, end_ms)
    counts = rng.poisson(rate_per_day * len(midnights))
    user = np.repeat(np.arange(len(rate_per_day)), counts)
    return user, rng.choice(midnights, len(user)) + daytime(rng, len(user))

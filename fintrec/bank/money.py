"""Transactions of the simulated bank: purchases by need, salary, statements, payments, fees, cash.

Card payments are not here: whether they are late depends on what was shown (`payments.py`).
Columns are codes into the tables of names below, so that years of history stay small.
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

Codes = npt.NDArray[np.int16]

LOCAL_OFFSET_MS: Final = -5 * HOUR_MS  # the users' wall clock against UTC
WEEKEND_FACTOR: Final = {"dining": 1.4, "entertainment": 1.5, "retail": 1.3, "home": 1.3}
MERCHANTS_PER_CATEGORY: Final = 12
STATEMENT_EVERY_DAYS: Final = 30
DUE_AFTER_MS: Final = 25 * DAY_MS
MINIMUM_SHARE, MINIMUM_USD = 0.03, 25.0
MAX_LEVEL: Final = 3.0  # of a need, as far as it raises the rates of fees and contacts
FEES_PER_DAY: Final = 0.006
CASH_PER_DAY: Final = 0.04
SAVES_SHARE: Final = 0.35  # of paydays of a savings owner, followed by a transfer
INVESTS_SHARE: Final = 0.30
LOAN_EVERY_DAYS: Final = 30
LOAN_SHARE_OF_SALARY: Final = {"mortgage": 0.70, "auto_loan": 0.20, "personal_loan": 0.12}
_BLOCK_DAYS: Final = 7
_SAVINGS, _CARD, _INVESTING = (
    ENROLLMENTS.index(name) for name in ("savings", "credit_card", "investing")
)

KINDS: Final = ("purchase", "transfer", "statement", "payment", "fee", "atm")
ACCOUNTS: Final = ("checking", *(name for name in ENROLLMENTS if name != "checking"))
CHANNELS: Final = ("", "card", "web", "mobile_app", "external", "atm")
MCC_NAMES: Final = ("", *(mcc for name in CATEGORIES for mcc in needs.MCCS.get(name, ())))
MERCHANTS: Final = (
    "",
    "employer",
    *(f"{name}_merchant_{n:02d}" for name in CATEGORIES for n in range(MERCHANTS_PER_CATEGORY)),
)


@dataclass(frozen=True, slots=True)
class Money:
    """Transactions as columns, n rows in no order; names as places in the tables above."""

    user: npt.NDArray[np.int32]
    time_ms: IntArray
    kind: Codes
    amount_usd: FloatArray
    mcc: Codes
    merchant: Codes
    account: Codes
    channel: Codes

    def of(self, rows: npt.NDArray[Any]) -> "Money":
        """Some rows, by place or flag."""
        return Money(*(getattr(self, name)[rows] for name in self.__slots__))

    def is_kind(self, kind: str) -> npt.NDArray[np.bool_]:
        """Which rows are of a kind."""
        return np.asarray(self.kind == KINDS.index(kind))


def joined(parts: Sequence[Money]) -> Money:
    """All rows of some parts."""
    return Money(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Money.__slots__)
    )


def filled(
    user: npt.NDArray[Any],
    time_ms: IntArray,
    kind: str,
    amount_usd: FloatArray,
    account: str | npt.NDArray[Any],
    channel: str | npt.NDArray[Any],
    mcc: str | npt.NDArray[Any] = "",
    merchant: str | npt.NDArray[Any] = "",
) -> Money:
    """Rows of one kind; a column is one name for all of them or codes."""

    def coded(column: str | npt.NDArray[Any], names: Sequence[str]) -> Codes:
        if isinstance(column, str):
            return np.full(len(user), names.index(column), np.int16)
        return column.astype(np.int16)

    return Money(
        user=user.astype(np.int32),
        time_ms=time_ms,
        kind=coded(kind, KINDS),
        amount_usd=np.round(amount_usd, 2),
        mcc=coded(mcc, MCC_NAMES),
        merchant=coded(merchant, MERCHANTS),
        account=coded(account, ACCOUNTS),
        channel=coded(channel, CHANNELS),
    )


def simulate_money(
    rng: np.random.Generator, people: Population, start_ms: int, end_ms: int
) -> Money:
    """All transactions within [start_ms, end_ms) but the payments of card statements."""
    whole = joined(
        [
            _purchases(rng, people, start_ms, end_ms),
            *_paydays(rng, people, start_ms, end_ms),
            _statements(rng, people, start_ms, end_ms),
            _loan_payments(rng, people, start_ms, end_ms),
            _fees(rng, people, start_ms, end_ms),
            _cash(rng, people, start_ms, end_ms),
        ]
    )
    return whole.of((whole.time_ms >= start_ms) & (whole.time_ms < end_ms))


def day_starts(start_ms: int, end_ms: int) -> IntArray:
    """Local midnights of every day that touches [start_ms, end_ms)."""
    first = (start_ms + LOCAL_OFFSET_MS) // DAY_MS * DAY_MS - LOCAL_OFFSET_MS
    return np.arange(first, end_ms, DAY_MS, dtype=np.int64)


def daytime(rng: np.random.Generator, size: int) -> IntArray:
    """Instants within a local day: most around 14:00, few at night; whole milliseconds."""
    hours = np.clip(rng.normal(14.0, 3.8, size), 0.05, 23.9)
    return (hours * HOUR_MS).astype(np.int64)


def _local_day(midnight: IntArray) -> IntArray:
    return (midnight + LOCAL_OFFSET_MS) // DAY_MS


def _purchases(rng: np.random.Generator, people: Population, start_ms: int, end_ms: int) -> Money:
    base = np.array([needs.PURCHASES_PER_DAY.get(name, 0.0) for name in CATEGORIES])
    loadings = needs.spend_loadings()
    everyone = np.arange(people.num_users)
    midnights = day_starts(start_ms, end_ms)
    users, moments, places = [], [], []
    for block in np.split(midnights, np.arange(_BLOCK_DAYS, len(midnights), _BLOCK_DAYS)):
        middle = np.full(people.num_users, block[len(block) // 2])
        rates = base * np.exp(people.levels(everyone, middle) @ loadings)
        weights = np.cumsum(_day_weights(block), axis=1)
        counts = rng.poisson(rates * people.spend_activity[:, None] * weights[:, -1])
        user, category = (np.repeat(index, counts.ravel()) for index in _grid(counts.shape))
        # Which day of the block: in proportion to the days' weights.
        aim = rng.random(len(user)) * weights[category, -1]
        day = (aim[:, None] >= weights[category, :-1]).sum(axis=1)
        users.append(user.astype(np.int32))
        places.append(category.astype(np.int8))
        moments.append(block[day] + daytime(rng, len(user)))
    user, category, time_ms = (np.concatenate(column) for column in (users, places, moments))
    # A trip is booked in several purchases of one day: flight, then hotel or car.
    again = np.flatnonzero((category == CATEGORIES.index("travel")) & (rng.random(len(user)) < 0.5))
    later = (rng.uniform(3, 60, len(again)) * MINUTE_MS).astype(np.int64)
    user = np.concatenate((user, user[again]))
    time_ms = np.concatenate((time_ms, time_ms[again] + later))
    category = np.concatenate((category, category[again]))
    return _priced(rng, people, user, time_ms, category)


def _day_weights(midnights: IntArray) -> FloatArray:
    """(categories, days): how much more often people buy at weekends."""
    is_weekend = np.isin(_local_day(midnights) % 7, (2, 3))  # the epoch began on a Thursday
    factors = np.array([WEEKEND_FACTOR.get(name, 1.0) for name in CATEGORIES])
    return np.where(is_weekend, factors[:, None], 1.0)


def _grid(shape: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    rows, columns = np.indices(shape)
    return rows.ravel(), columns.ravel()


def _priced(
    rng: np.random.Generator,
    people: Population,
    user: npt.NDArray[Any],
    time_ms: IntArray,
    category: npt.NDArray[Any],
) -> Money:
    middles = np.array([needs.AMOUNTS.get(name, (1.0, 0.0))[0] for name in CATEGORIES])
    spreads = np.array([needs.AMOUNTS.get(name, (1.0, 0.0))[1] for name in CATEGORIES])
    size = len(user)
    amount = middles[category] * np.exp(spreads[category] * rng.standard_normal(size))
    has_card = people.owned_since_UE[user, _CARD] <= time_ms
    pays_by_card = has_card & (rng.random(size) < 0.7)
    num_codes = np.array([len(needs.MCCS.get(name, ("",))) for name in CATEGORIES])
    first_code = np.array([MCC_NAMES.index(needs.MCCS.get(n, ("",))[0]) for n in CATEGORIES])
    nth_code = (rng.random(size) * num_codes[category]).astype(np.int64)
    nth_merchant = rng.integers(0, MERCHANTS_PER_CATEGORY, size)
    by_card = rng.random(size) < 0.75
    return filled(
        user,
        time_ms,
        "purchase",
        np.clip(amount, 1.0, 9_999.0),
        np.where(pays_by_card, ACCOUNTS.index("credit_card"), ACCOUNTS.index("checking")),
        np.where(by_card, CHANNELS.index("card"), CHANNELS.index("web")),
        mcc=first_code[category] + nth_code,
        merchant=2 + category.astype(np.int64) * MERCHANTS_PER_CATEGORY + nth_merchant,
    )


def _paydays(
    rng: np.random.Generator, people: Population, start_ms: int, end_ms: int
) -> list[Money]:
    """Salaries, and what is put aside of them into savings and investments."""
    midnights = day_starts(start_ms, end_ms)
    user, day = np.nonzero(people.payday_offset[:, None] == _local_day(midnights) % 14)
    time_ms = midnights[day] + 8 * HOUR_MS + rng.integers(0, 2 * HOUR_MS, len(user))
    salary = people.salary_usd[user]
    parts = [filled(user, time_ms, "transfer", salary, "checking", "external", merchant="employer")]
    levels = people.levels(user, time_ms)
    for need, owned, share in (
        ("saving", _SAVINGS, SAVES_SHARE),
        ("investing", _INVESTING, INVESTS_SHARE),
    ):
        chance = share * np.exp(np.clip(0.5 * levels[:, needs.NEED_INDEX[need]], -1.0, 1.0))
        has = people.owned_since_UE[user, owned] <= time_ms
        put = np.flatnonzero(has & (rng.random(len(user)) < chance))
        later = (rng.exponential(6.0, len(put)) * HOUR_MS).astype(np.int64) + MINUTE_MS
        amount = salary[put] * rng.uniform(0.05, 0.25, len(put))
        account = ENROLLMENTS[owned]
        parts.append(
            filled(user[put], time_ms[put] + later, "transfer", amount, account, "mobile_app")
        )
    return parts


def _statements(rng: np.random.Generator, people: Population, start_ms: int, end_ms: int) -> Money:
    midnights = day_starts(start_ms, end_ms)
    closing = rng.integers(0, STATEMENT_EVERY_DAYS, people.num_users)
    user, day = np.nonzero(closing[:, None] == _local_day(midnights) % STATEMENT_EVERY_DAYS)
    time_ms = midnights[day] + 6 * HOUR_MS + rng.integers(0, HOUR_MS, len(user))
    has_card = people.owned_since_UE[user, _CARD] <= time_ms
    user, time_ms = user[has_card], time_ms[has_card]
    balance = np.exp(rng.normal(np.log(650), 0.8, len(user))) * people.spend_activity[user]
    return filled(user, time_ms, "statement", balance, "credit_card", "web")


def _loan_payments(
    rng: np.random.Generator, people: Population, start_ms: int, end_ms: int
) -> Money:
    midnights = day_starts(start_ms, end_ms)
    parts = []
    for name, share in LOAN_SHARE_OF_SALARY.items():
        day_of_month = rng.integers(0, LOAN_EVERY_DAYS, people.num_users)
        user, day = np.nonzero(day_of_month[:, None] == _local_day(midnights) % LOAN_EVERY_DAYS)
        time_ms = midnights[day] + 9 * HOUR_MS + rng.integers(0, HOUR_MS, len(user))
        owns = people.owned_since_UE[user, ENROLLMENTS.index(name)] <= time_ms
        amount = share * people.salary_usd[user]
        parts.append(filled(user, time_ms, "payment", amount, name, "web").of(owns))
    return joined(parts)


def _fees(rng: np.random.Generator, people: Population, start_ms: int, end_ms: int) -> Money:
    debt = needs.NEED_INDEX["debt"]
    rate = FEES_PER_DAY * people.contact_activity
    user, time_ms = spread_by_level(rng, people, rate, debt, 0.4, start_ms, end_ms)
    amount = rng.choice([5.0, 12.0, 29.0, 35.0], len(user))
    return filled(user, time_ms, "fee", amount, "checking", "")


def _cash(rng: np.random.Generator, people: Population, start_ms: int, end_ms: int) -> Money:
    user, time_ms = spread(rng, CASH_PER_DAY * people.spend_activity, start_ms, end_ms)
    amount = rng.integers(1, 16, len(user)) * np.float64(20)
    return filled(user, time_ms, "atm", amount, "checking", "atm", mcc="6011")


def spread(
    rng: np.random.Generator, rate_per_day: FloatArray, start_ms: int, end_ms: int
) -> tuple[IntArray, IntArray]:
    """(user, instant) of events that come at a rate per user and day, in daytime."""
    midnights = day_starts(start_ms, end_ms)
    counts = rng.poisson(rate_per_day * len(midnights))
    user = np.repeat(np.arange(len(rate_per_day)), counts)
    return user, rng.choice(midnights, len(user)) + daytime(rng, len(user))


def spread_by_level(
    rng: np.random.Generator,
    people: Population,
    rate_per_day: FloatArray,
    need: int,
    loading: float,
    start_ms: int,
    end_ms: int,
) -> tuple[IntArray, IntArray]:
    """`spread` at a rate that is exp(loading * level of a need, at most 3) times as high."""
    ceiling = float(np.exp(loading * MAX_LEVEL))
    user, time_ms = spread(rng, rate_per_day * ceiling, start_ms, end_ms)
    level = np.minimum(people.levels(user, time_ms)[:, need], MAX_LEVEL)
    kept = rng.random(len(user)) * ceiling < np.exp(loading * level)
    return user[kept], time_ms[kept]

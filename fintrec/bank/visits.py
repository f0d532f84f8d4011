"""What brings users in: contacts, triggers, sessions, and the pages of each session.

Shapes: P pages, N needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.categories import category_of
from features.spec import HOUR_MS, MINUTE_MS
from fintrec.bank import needs, surfaces
from fintrec.bank.money import Money, day_starts, daytime, spread
from fintrec.bank.population import MEAN_SESSIONS_PER_DAY, FloatArray, IntArray, Population

BoolArray = npt.NDArray[np.bool_]

_AXIS_MS: Final = 1 << 43  # one user's share of a common time axis, more than any event time
CONTACTS_PER_DAY: Final = {"call": 0.006, "branch": 0.003, "complaint": 0.001}
FRAUD_PER_DAY: Final = 0.004
CALL_AFTER_FEE: Final = 0.15
VISIT_DELAY_MS: Final = 90 * MINUTE_MS  # mean time from a trigger to the session it causes
APART_MS: Final = 45 * MINUTE_MS  # least distance of two sessions' starts
MEAN_MORE_PAGES: Final = 1.7
MAX_PAGES: Final = 8


@dataclass(frozen=True, slots=True)
class Contacts:
    """Calls, branch visits, complaints and fraud reports, n rows in no order."""

    user: IntArray
    time_ms: IntArray
    action: npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Triggers:
    """Everything that lifts needs, by `needs.TRIGGERS`, n rows in no order."""

    user: IntArray
    time_ms: IntArray
    which: IntArray


@dataclass(frozen=True, slots=True)
class Sessions:
    """Digital sessions, ordered by user and start; `channel` and `device` are names."""

    user: IntArray
    start_ms: IntArray
    channel: npt.NDArray[np.str_]
    device: npt.NDArray[np.str_]
    end_ms: IntArray


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages with items, ordered by user and time; `place` indexes `surfaces.PLACES`."""

    user: IntArray
    session: IntArray
    time_ms: IntArray
    place: IntArray
    needs_PN: FloatArray  # slow and fast needs before any click of the session


def simulate_contacts(
    rng: np.random.Generator, people: Population, money: Money, start_ms: int, end_ms: int
) -> Contacts:
    """Contacts that come by themselves, fraud reports, and calls about fees."""
    users, times, names = [], [], []
    security = people.levels_UN[:, needs.NEED_INDEX["security"]]
    support = people.levels_UN[:, needs.NEED_INDEX["support"]]
    rates = {name: rate * np.exp(support) for name, rate in CONTACTS_PER_DAY.items()}
    rates["fraud_report"] = FRAUD_PER_DAY * np.exp(security)
    for action, rate in rates.items():
        user, time_ms = spread(rng, rate, start_ms, end_ms)
        users.append(user)
        times.append(time_ms)
        names.append(np.full(len(user), action))
    fees = np.flatnonzero((money.kind == "fee") & (rng.random(len(money.user)) < CALL_AFTER_FEE))
    users.append(money.user[fees])
    times.append(money.time_ms[fees] + (rng.exponential(5.0, len(fees)) * HOUR_MS).astype(np.int64))
    names.append(np.full(len(fees), "call"))
    user, time_ms, actions = (np.concatenate(column) for column in (users, times, names))
    inside = (time_ms >= start_ms) & (time_ms < end_ms)
    return Contacts(user[inside], time_ms[inside], actions[inside])


def find_triggers(money: Money, contacts: Contacts) -> Triggers:
    """The triggers among transactions and contacts."""
    category = _categories(money.mcc)
    buys = money.kind == "purchase"
    flags: Mapping[str, BoolArray] = {
        "travel_purchase": buys & (category == "travel"),
        "home_purchase": buys & (category == "home"),
        "family_purchase": buys & ((category == "health") | (category == "education")),
        "large_purchase": buys & (money.amount_usd >= needs.LARGE_PURCHASE_USD),
        "payday": (money.kind == "transfer") & (money.merchant == "employer"),
        "statement": money.kind == "statement",
        "fee": money.kind == "fee",
    }
    found = [(needs.TRIGGER_INDEX[name], money, flag) for name, flag in flags.items()]
    told = [
        (needs.TRIGGER_INDEX[name], contacts, contacts.action == name)
        for name in ("fraud_report", "call", "complaint")
    ]
    every: list[tuple[int, Money | Contacts, BoolArray]] = [*found, *told]
    return Triggers(
        np.concatenate([source.user[flag] for _, source, flag in every]),
        np.concatenate([source.time_ms[flag] for _, source, flag in every]),
        np.concatenate([np.full(int(flag.sum()), which) for which, _, flag in every]),
    )


def _categories(mcc: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    codes, place = np.unique(mcc, return_inverse=True)
    return np.array([category_of(str(code)) for code in codes])[place]


def simulate_sessions(
    rng: np.random.Generator, people: Population, triggers: Triggers, start_ms: int, end_ms: int
) -> Sessions:
    """Sessions of habit and sessions that a trigger caused; `end_ms` is filled by the pages."""
    user, time_ms = [], []
    for midnight in day_starts(start_ms, end_ms):
        visitor = np.repeat(np.arange(people.num_users), rng.poisson(people.sessions_per_day))
        user.append(visitor)
        time_ms.append(midnight + daytime(rng, len(visitor)))
    chance = np.array([trigger.visit for trigger in needs.TRIGGERS])[triggers.which]
    # Who visits often also comes more readily after an event.
    habit = np.sqrt(people.sessions_per_day[triggers.user] / MEAN_SESSIONS_PER_DAY)
    comes = np.flatnonzero(rng.random(len(chance)) < np.minimum(chance * habit, 0.95))
    delay = rng.exponential(VISIT_DELAY_MS, len(comes)).astype(np.int64) + MINUTE_MS
    user.append(triggers.user[comes])
    time_ms.append(triggers.time_ms[comes] + delay)
    users, starts = np.concatenate(user), np.concatenate(time_ms)
    inside = (starts >= start_ms) & (starts < end_ms)
    users, starts = users[inside], starts[inside]
    order = np.lexsort((starts, users))
    users, starts = users[order], starts[order]
    crowded = (users[1:] == users[:-1]) & (starts[1:] - starts[:-1] < APART_MS)
    alone = np.concatenate((np.ones(min(len(users), 1), bool), ~crowded))
    users, starts = users[alone], starts[alone]
    channel = np.where(rng.random(len(users)) < people.app_share[users], "mobile_app", "web")
    tablet = rng.random(len(users)) < surfaces.DEVICE_SHARES["web"]["tablet"]
    device = np.where(
        channel == "mobile_app",
        np.where(people.is_apple[users], "ios", "android"),
        np.where(tablet, "tablet", "desktop"),
    )
    return Sessions(users, starts, channel, device, starts)


def simulate_pages(
    rng: np.random.Generator, people: Population, triggers: Triggers, sessions: Sessions
) -> Pages:
    """The pages of each session, and the needs that the user brings to each."""
    counts = 1 + np.minimum(rng.poisson(MEAN_MORE_PAGES, len(sessions.user)), MAX_PAGES - 1)
    session = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    gaps = np.clip(15_000 + rng.exponential(40_000, len(session)), None, 180_000).astype(np.int64)
    gaps[first] = rng.integers(2_000, 8_000, len(first))
    elapsed = np.cumsum(gaps)
    before = elapsed[first] - gaps[first]
    time_ms = sessions.start_ms[session] + elapsed - np.repeat(before, counts)
    user = sessions.user[session]
    place = np.empty(len(session), np.int64)
    for channel in surfaces.PRODUCT_SHARES:
        here = np.flatnonzero(sessions.channel[session] == channel)
        place[here] = rng.choice(len(surfaces.PLACES), len(here), p=_place_shares(channel))
    found = people.levels(user, time_ms) + fast_needs(triggers, user, time_ms)
    return Pages(user, session, time_ms, place, found)


def _place_shares(channel: str) -> FloatArray:
    shares = []
    for place in surfaces.PLACES:
        whole = sum(p.weight for p in surfaces.PLACES if p.product == place.product)
        shares.append(surfaces.PRODUCT_SHARES[channel][place.product] * place.weight / whole)
    return np.array(shares)


def fast_needs(triggers: Triggers, user: IntArray, time_ms: IntArray) -> FloatArray:
    """Lifts of needs at instants by the newest strictly earlier event of each trigger, (n, N)."""
    lifts = needs.trigger_lifts()
    at = user * _AXIS_MS + time_ms
    total = np.zeros((len(user), len(needs.NEEDS)))
    for which, trigger in enumerate(needs.TRIGGERS):
        mine = triggers.which == which
        events = np.sort(triggers.user[mine] * _AXIS_MS + triggers.time_ms[mine])
        if not len(events):
            continue
        last = np.searchsorted(events, at, side="left") - 1
        age = at - events[np.maximum(last, 0)]
        known = (last >= 0) & (age < _AXIS_MS // 2)
        strength = known * np.exp2(-np.where(known, age, 0) / trigger.half_life_ms)
        total += strength[:, None] * lifts[which]
    return total

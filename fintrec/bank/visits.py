"""What brings users in: contacts, triggers, sessions, and the pages of each session.

Shapes: P pages, N needs, O outcomes (`needs.OUTCOMES`), S sequences (`needs.SEQUENCES`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.categories import category_of
from features.spec import HOUR_MS, MINUTE_MS
from fintrec.bank import needs, surfaces
from fintrec.bank.money import MCC_NAMES, MERCHANTS, Money, day_starts, spread_by_level
from fintrec.bank.population import (
    MEAN_SESSIONS_PER_DAY,
    NEVER_MS,
    FloatArray,
    IntArray,
    Population,
)

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]

AXIS_MS: Final = 1 << 43  # one user's share of a common time axis, more than any event time
CONTACTS: Final = ("call", "complaint", "fraud_report", "branch")  # `needs.OUTCOMES` first
CONTACTS_PER_DAY: Final = {"call": 0.006, "branch": 0.003, "complaint": 0.001}
FRAUD_PER_DAY: Final = 0.0015
CALL_AFTER_FEE: Final = 0.15
VISIT_DELAY_MS: Final = 90 * MINUTE_MS  # mean time from a trigger to the session it causes
APART_MS: Final = 45 * MINUTE_MS  # least distance of two sessions' starts
MEAN_MORE_PAGES: Final = 1.7
MAX_PAGES: Final = 8
NOON_SHARE: Final = 0.45  # of sessions around 12:30, the others around 19:30, local


@dataclass(frozen=True, slots=True)
class Contacts:
    """Calls, branch visits, complaints and fraud reports by place in CONTACTS, n rows in no order."""

    user: IntArray
    time_ms: IntArray
    which: IntArray


@dataclass(frozen=True, slots=True)
class Triggers:
    """Everything that lifts needs, by `needs.TRIGGERS`, n rows in no order."""

    user: IntArray
    time_ms: IntArray
    which: IntArray

    def newest_before(self, which: int, user: IntArray, time_ms: IntArray) -> IntArray:
        """Time of each user's newest trigger of a kind strictly before an instant, else -NEVER_MS.

        Triggers older than TRIGGER_MEMORY_MS are forgotten.
        """
        mine = self.which == which
        events = np.sort(self.user[mine] * AXIS_MS + self.time_ms[mine])
        if not len(events):
            return np.full(len(user), -NEVER_MS)
        at = user.astype(np.int64) * AXIS_MS + time_ms
        last = np.searchsorted(events, at, side="left") - 1
        age = at - events[np.maximum(last, 0)]
        known = (last >= 0) & (age < needs.TRIGGER_MEMORY_MS)
        return np.where(known, time_ms - age, -NEVER_MS)


@dataclass(frozen=True, slots=True)
class Sessions:
    """Digital sessions, ordered by user and start; `is_app` tells the channels apart."""

    user: IntArray
    start_ms: IntArray
    is_app: BoolArray
    device: IntArray  # place in DEVICES


DEVICES: Final = ("desktop", "tablet", "ios", "android", "phone", "terminal")


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages with items, ordered by user and time; `place` indexes `surfaces.PLACES`.

    Needs are those before any click and any outcome of what was shown; `outcome_ms_PO` and
    `sequence_ms_PS` are the newest earlier triggers of those kinds.
    """

    user: IntArray
    session: IntArray
    time_ms: IntArray
    place: IntArray
    slow_PN: Float32Array
    fast_PN: Float32Array
    outcome_ms_PO: IntArray
    sequence_ms_PS: IntArray


def simulate_contacts(
    rng: np.random.Generator, people: Population, money: Money, start_ms: int, end_ms: int
) -> Contacts:
    """Contacts that come by themselves, fraud reports, and calls about fees."""
    rates = {**CONTACTS_PER_DAY, "fraud_report": FRAUD_PER_DAY}
    users, times, places = [], [], []
    for action, rate in rates.items():
        need = needs.NEED_INDEX["security" if action == "fraud_report" else "support"]
        daily = rate * people.contact_activity
        user, time_ms = spread_by_level(rng, people, daily, need, 1.0, start_ms, end_ms)
        users.append(user)
        times.append(time_ms)
        places.append(np.full(len(user), CONTACTS.index(action)))
    fees = np.flatnonzero(money.is_kind("fee"))
    fees = fees[rng.random(len(fees)) < CALL_AFTER_FEE]
    users.append(money.user[fees].astype(np.int64))
    times.append(money.time_ms[fees] + (rng.exponential(5.0, len(fees)) * HOUR_MS).astype(np.int64))
    places.append(np.full(len(fees), CONTACTS.index("call")))
    user, time_ms, which = (np.concatenate(column) for column in (users, times, places))
    inside = (time_ms >= start_ms) & (time_ms < end_ms)
    return Contacts(user[inside], time_ms[inside], which[inside])


def find_triggers(money: Money, contacts: Contacts, since_ms: int = 0) -> Triggers:
    """The triggers among transactions and contacts from an instant on."""
    money = money.of(money.time_ms >= since_ms)
    category = np.array([category_of(mcc) for mcc in MCC_NAMES])[money.mcc]
    buys = money.is_kind("purchase")
    flags: Mapping[str, BoolArray] = {
        "travel_purchase": buys & (category == "travel"),
        "home_purchase": buys & (category == "home"),
        "family_purchase": buys & ((category == "health") | (category == "education")),
        "large_purchase": buys & (money.amount_usd >= needs.LARGE_PURCHASE_USD),
        "payday": money.is_kind("transfer") & (money.merchant == MERCHANTS.index("employer")),
        "statement": money.is_kind("statement"),
        "fee": money.is_kind("fee"),
    }
    found: list[tuple[str, Money | Contacts, npt.NDArray[Any]]] = [
        (name, money, flag) for name, flag in flags.items()
    ]
    for place, name in enumerate(needs.OUTCOMES):
        found.append((name, contacts, (contacts.which == place) & (contacts.time_ms >= since_ms)))
    return Triggers(
        np.concatenate([source.user[flag].astype(np.int64) for _, source, flag in found]),
        np.concatenate([source.time_ms[flag] for _, source, flag in found]),
        np.concatenate(
            [np.full(int(flag.sum()), needs.TRIGGER_INDEX[name]) for name, _, flag in found]
        ),
    )


def visiting_hours(rng: np.random.Generator, people: Population, user: IntArray) -> IntArray:
    """Instants within a local day at which users come to a surface, by their own habit."""
    noon = rng.random(len(user)) < NOON_SHARE
    hours = np.where(noon, 12.5, 19.5) + people.hour_shift[user]
    hours = (hours + rng.normal(0, 1.8, len(user))) % 24  # who comes after midnight comes that day
    return (hours * HOUR_MS).astype(np.int64)


def simulate_sessions(
    rng: np.random.Generator, people: Population, triggers: Triggers, start_ms: int, end_ms: int
) -> Sessions:
    """Sessions of habit and sessions that a trigger caused."""
    midnights = day_starts(start_ms, end_ms)
    counts = rng.poisson(people.sessions_per_day[:, None], (people.num_users, len(midnights)))
    rows, days = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    chance = np.array([trigger.visit for trigger in needs.TRIGGERS])[triggers.which]
    # Who visits often also comes more readily after an event.
    habit = np.sqrt(people.sessions_per_day[triggers.user] / MEAN_SESSIONS_PER_DAY)
    comes = np.flatnonzero(rng.random(len(chance)) < np.minimum(chance * habit, 0.95))
    delay = rng.exponential(VISIT_DELAY_MS, len(comes)).astype(np.int64) + MINUTE_MS
    users = np.concatenate((rows, triggers.user[comes]))
    starts = np.concatenate(
        (midnights[days] + visiting_hours(rng, people, rows), triggers.time_ms[comes] + delay)
    )
    inside = (starts >= start_ms) & (starts < end_ms)
    users, starts = users[inside], starts[inside]
    order = np.lexsort((starts, users))
    users, starts = users[order], starts[order]
    crowded = (users[1:] == users[:-1]) & (starts[1:] - starts[:-1] < APART_MS)
    alone = np.concatenate((np.ones(min(len(users), 1), bool), ~crowded))
    users, starts = users[alone], starts[alone]
    is_app = rng.random(len(users)) < people.app_share[users]
    return Sessions(users, starts, is_app, _devices(rng, people, users, is_app))


def _devices(
    rng: np.random.Generator, people: Population, user: IntArray, is_app: BoolArray
) -> IntArray:
    is_tablet = rng.random(len(user)) < surfaces.DEVICE_SHARES["web"]["tablet"]
    web = np.where(is_tablet, DEVICES.index("tablet"), DEVICES.index("desktop"))
    app = np.where(people.is_apple[user], DEVICES.index("ios"), DEVICES.index("android"))
    return np.where(is_app, app, web)


def simulate_pages(
    rng: np.random.Generator, people: Population, triggers: Triggers, sessions: Sessions
) -> Pages:
    """The pages of each session, and the needs that the user brings to each."""
    session, after_ms, place = plan_pages(rng, sessions.is_app)
    time_ms = sessions.start_ms[session] + after_ms
    user = sessions.user[session]
    return Pages(
        user=user,
        session=session,
        time_ms=time_ms,
        place=place,
        slow_PN=people.levels(user, time_ms).astype(np.float32),
        fast_PN=fast_needs(triggers, user, time_ms).astype(np.float32),
        outcome_ms_PO=newest_outcomes(triggers, user, time_ms),
        sequence_ms_PS=newest_of_sequences(triggers, user, time_ms),
    )


def plan_pages(rng: np.random.Generator, is_app: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """The pages of some sessions: (session, ms after its start, place), P rows in order."""
    counts = 1 + np.minimum(rng.poisson(MEAN_MORE_PAGES, len(is_app)), MAX_PAGES - 1)
    session = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    gaps = np.clip(15_000 + rng.exponential(40_000, len(session)), None, 180_000).astype(np.int64)
    gaps[first] = rng.integers(2_000, 8_000, len(first))
    elapsed = np.cumsum(gaps)
    before = elapsed[first] - gaps[first]
    place = np.empty(len(session), np.int64)
    for channel in surfaces.PRODUCT_SHARES:
        here = np.flatnonzero(is_app[session] == (channel == "mobile_app"))
        place[here] = rng.choice(len(surfaces.PLACES), len(here), p=place_shares(channel))
    return session, elapsed - np.repeat(before, counts), place


def newest_outcomes(triggers: Triggers, user: IntArray, time_ms: IntArray) -> IntArray:
    """When the newest earlier outcome of each kind came, -NEVER_MS for none, (n, O)."""
    kinds = [needs.TRIGGER_INDEX[name] for name in needs.OUTCOMES]
    return np.column_stack([triggers.newest_before(kind, user, time_ms) for kind in kinds])


def newest_of_sequences(triggers: Triggers, user: IntArray, time_ms: IntArray) -> IntArray:
    """When the newest earlier trigger of each sequence came, -NEVER_MS for none, (n, S)."""
    kinds = [needs.TRIGGER_INDEX[sequence.then_trigger] for sequence in needs.SEQUENCES]
    return np.column_stack([triggers.newest_before(kind, user, time_ms) for kind in kinds])


def place_shares(channel: str) -> FloatArray:
    """How a channel's pages fall on `surfaces.PLACES`; sums to 1."""
    shares = []
    for place in surfaces.PLACES:
        whole = sum(p.weight for p in surfaces.PLACES if p.product == place.product)
        shares.append(surfaces.PRODUCT_SHARES[channel][place.product] * place.weight / whole)
    return np.array(shares)


def fast_needs(triggers: Triggers, user: IntArray, time_ms: IntArray) -> FloatArray:
    """Lifts of needs at instants by the newest strictly earlier event of each trigger, (n, N)."""
    total = np.zeros((len(user), len(needs.NEEDS)))
    for which, trigger in enumerate(needs.TRIGGERS):
        newest = triggers.newest_before(which, user, time_ms)
        some = np.flatnonzero(newest > -NEVER_MS)
        strength = np.exp2((newest[some] - time_ms[some]) / trigger.half_life_ms)
        for need, lift in trigger.lifts:
            total[some, needs.NEED_INDEX[need]] += lift * strength
    return total

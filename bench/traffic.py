"""The load of a run: who acts and who asks at which instant, fixed before the clock starts.

Everything follows from a `Load` and its seed, so the generator that sends it, the collector that
counts it and the report that judges freshness agree without exchanging a word.

- requests and events are evenly spaced, their users uniform
- a share of the events is followed by a request of the same user 20 to 500 ms later, as the page
  after a click asks for a slate: such a request takes the next free place on the requests' grid
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from fintrec.bank.surfaces import DEVICE_SHARES, PLACES

FOLLOWED: Final = 0.3
MOST_FOLLOWING: Final = 0.5  # of the requests, where events outnumber them
FOLLOW_S: Final = (0.02, 0.5)
PURCHASES: Final = 0.2  # of the events; the others are clicks and impressions
MERCHANT_CODES: Final = ("5411", "5812", "5541", "3000", "5311", "5732")

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Rates a second, length in seconds, and the population that they fall on."""

    name: str  # begins every id of the run
    requests_per_s: float
    events_per_s: float
    seconds: float
    num_users: int
    seed: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Instants in seconds from the start, users as numbers; ascending in time."""

    request_s: FloatArray
    request_user: IntArray
    event_s: FloatArray
    event_user: IntArray


def user_id(number: int) -> str:
    """Id of a user of the bench."""
    return f"bench-user-{number:06d}"


def user_number(name: str) -> int:
    """Inverse of `user_id`."""
    return int(name.rpartition("-")[2])


def schedule(load: Load) -> Schedule:
    """Who acts and asks when."""
    rng = np.random.default_rng(load.seed)
    request_s = np.arange(int(load.requests_per_s * load.seconds)) / load.requests_per_s
    event_s = (
        np.arange(int(load.events_per_s * load.seconds)) / load.events_per_s
        if load.events_per_s
        else np.empty(0)
    )
    request_user = rng.integers(0, load.num_users, len(request_s))
    event_user = rng.integers(0, load.num_users, len(event_s))
    share = FOLLOWED
    if len(event_s):
        share = min(share, MOST_FOLLOWING * len(request_s) / len(event_s))
    followed = np.flatnonzero(rng.random(len(event_s)) < share)
    due_s = event_s[followed] + rng.uniform(*FOLLOW_S, len(followed))
    places = np.searchsorted(request_s, np.sort(due_s))
    free = 0
    for place, event in zip(places.tolist(), followed[np.argsort(due_s)].tolist(), strict=True):
        free = max(free, place)
        if free >= len(request_s):
            break
        request_user[free] = event_user[event]
        free += 1
    return Schedule(request_s, request_user, event_s, event_user)


def request_records(load: Load, plan: Schedule, start_s: float) -> list[tuple[bytes, bytes]]:
    """(key, value) of each request, the clock having started at `start_s` (epoch seconds)."""
    rng = np.random.default_rng(load.seed + 1)
    weights = np.array([place.weight for place in PLACES])
    places = rng.choice(len(PLACES), len(plan.request_s), p=weights / weights.sum())
    times_ms = ((start_s + plan.request_s) * 1000).astype(np.int64)
    found = []
    for number, (user, place, time_ms) in enumerate(
        zip(plan.request_user.tolist(), places.tolist(), times_ms.tolist(), strict=True)
    ):
        where = PLACES[place]
        record = {
            "request_id": f"{load.name}-{number}",
            "user_id": user_id(user),
            "event_time_ms": time_ms,
            "product": where.product,
            "page": where.page,
            "placement": where.placement,
            "layout": where.layout,
            "channel": "mobile_app",
            "device": "ios" if number % 2 else "android",
            "size": 5,
        }
        found.append((record["user_id"].encode(), orjson.dumps(record)))
    return found


def request_number(request_id: str) -> int:
    """Place of a request in its run's schedule."""
    return int(request_id.rpartition("-")[2])


def event_records(
    load: Load, plan: Schedule, start_s: float, items: Sequence[str]
) -> list[tuple[bool, bytes, bytes]]:
    """(is a purchase, key, value) of each event."""
    rng = np.random.default_rng(load.seed + 2)
    is_purchase = rng.random(len(plan.event_s)) < PURCHASES
    places = rng.integers(0, len(PLACES), len(plan.event_s)).tolist()
    chosen = rng.integers(0, len(items), len(plan.event_s)).tolist()
    times_ms = ((start_s + plan.event_s) * 1000).astype(np.int64).tolist()
    found = []
    for number, user in enumerate(plan.event_user.tolist()):
        record: dict[str, Any] = {
            "event_id": f"{load.name}-e{number}",
            "user_id": user_id(user),
            "event_time_ms": times_ms[number],
        }
        if is_purchase[number]:
            record |= {
                "kind": "purchase",
                "amount_usd": 1.25 * (1 + number % 400),
                "mcc": MERCHANT_CODES[number % len(MERCHANT_CODES)],
                "merchant": "Corner Shop",
                "account": "credit_card",
                "channel": "card",
            }
        else:
            where = PLACES[places[number]]
            record |= {
                "action": "impression" if number % 3 else "click",
                "item_id": items[chosen[number]],
                "position": 1 + number % 5,
                "product": where.product,
                "page": where.page,
                "placement": where.placement,
                "layout": where.layout,
                "channel": "mobile_app",
                "device": next(iter(DEVICE_SHARES["mobile_app"])),
                "session_id": f"{load.name}-s{user}",
            }
        found.append((bool(is_purchase[number]), record["user_id"].encode(), orjson.dumps(record)))
    return found

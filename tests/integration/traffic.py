"""Events by chance, as a bank's systems send them: untidy, twice, late, and some of them broken."""

import json
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fintrec.bank.surfaces import PLACES
from streams.topics import CLICKSTREAM, CONSENTS, CONVERSIONS, TRANSACTIONS
from tests.integration.referee import DAY, MERCHANTS, MINUTE


@dataclass(frozen=True)
class Event:
    """One record to publish, and whether the border must refuse it."""

    topic: str
    user_id: str
    value: bytes
    is_refused: bool = False


def event(topic: str, user_id: str, **fields: Any) -> Event:
    """An event of a user with an id of its own."""
    record = {"event_id": uuid.uuid4().hex, "user_id": user_id} | fields
    if topic == CONSENTS:
        del record["event_id"]
    return Event(topic, user_id, json.dumps(record).encode())


def interaction(rng: random.Random, user_id: str, time_ms: int, items: Sequence[str]) -> Event:
    """Something a user did or was shown, digital or not."""
    if rng.random() < 0.15:
        action, channel = rng.choice(
            (("call", "call_center"), ("branch", "branch"), ("atm", "atm"))
        )
        return event(CLICKSTREAM, user_id, event_time_ms=time_ms, action=action, channel=channel)
    place = rng.choice(PLACES)
    action = rng.choices(
        ("impression", "click", "dismiss", "page_view", "login", "logout", "made_up_later"),
        (40, 20, 5, 10, 6, 4, 1),
    )[0]
    shows = action in ("impression", "click", "dismiss")
    return event(
        CLICKSTREAM,
        user_id,
        event_time_ms=time_ms,
        action=action,
        channel=rng.choice(("web", "mobile_app", "mobile_app", "email")),
        device=rng.choice(("ios", "android", "desktop", "toaster")),
        product=place.product,
        page=place.page,
        placement=place.placement,
        layout=place.layout,
        position=rng.randint(1, 5) if shows else 0,
        item_id=rng.choice((*items, "item_nobody_knows")) if shows else "",
        a_field_of_later_days={"is": "let through"},
    )


def transaction(rng: random.Random, user_id: str, time_ms: int) -> Event:
    """Money that moved."""
    return event(
        TRANSACTIONS,
        user_id,
        event_time_ms=time_ms,
        kind=rng.choices(("purchase", "payment", "transfer", "fee"), (8, 1, 1, 1))[0],
        amount_usd=rng.choice((rng.randint(-500, 90_000) / 100, 0.125, 2.675, 1.005)),
        mcc=rng.choice(tuple(MERCHANTS)),
        account=rng.choice(("credit_card", "checking")),
        channel="card",
    )


def consent(user_id: str, time_ms: int, marketing: str, effective_ms: int) -> Event:
    """A decision on marketing."""
    return event(
        CONSENTS,
        user_id,
        event_time_ms=time_ms,
        marketing=marketing,
        effective_from_ms=effective_ms,
    )


def broken(rng: random.Random, user_id: str, time_ms: int) -> Event:
    """A record that must not reach the state."""
    good = transaction(rng, user_id, time_ms).value
    value = rng.choice(
        (
            b"{" + good,
            good.replace(b'"kind"', b'"kindness"'),
            good[:-1] + b', "schema_version": 9}',
            b"[]",
            json.dumps(json.loads(good) | {"event_time_ms": time_ms + 40 * DAY}).encode(),
        )
    )
    return Event(TRANSACTIONS, user_id, value, is_refused=True)


def life(
    rng: random.Random,
    user_id: str,
    now_ms: int,
    num_interactions: int,
    num_transactions: int,
    items: Sequence[str],
) -> list[Event]:
    """A user's last days: ties, bursts, late and repeated events, broken ones in between."""
    start = now_ms - 3 * DAY
    times = [start + rng.randint(0, 3 * DAY - MINUTE) for _ in range(max(1, num_interactions // 4))]
    spread = [
        rng.choice(times) + rng.choice((0, 0, 1, 5_000, 3 * MINUTE, 29 * MINUTE, 31 * MINUTE))
        for _ in range(num_interactions + num_transactions)
    ]
    clipped = [min(time_ms, now_ms - 1) for time_ms in spread]
    found = [interaction(rng, user_id, t, items) for t in clipped[:num_interactions]]
    found += [transaction(rng, user_id, t) for t in clipped[num_interactions:]]
    if num_interactions:
        found.append(
            event(
                CONVERSIONS,
                user_id,
                event_time_ms=rng.choice(clipped),
                item_id=rng.choice(items),
                value_usd=12.5,
            )
        )
    found += [
        broken(rng, user_id, rng.choice(clipped or [now_ms])) for _ in range(len(found) // 20)
    ]
    found.sort(key=lambda e: json.loads(e.value)["event_time_ms"] if not e.is_refused else now_ms)
    for at in range(0, len(found), 7):  # late: moved behind events that are younger
        found.insert(rng.randint(at, len(found)), found.pop(at))
    again = [e for e in rng.sample(found, len(found) // 10) if not e.is_refused]
    for e in again:
        found.insert(rng.randint(0, len(found)), e)
    return found


def request(user_id: str, now_ms: int, **fields: Any) -> Mapping[str, Any]:
    """A slate request on the demo's surface."""
    return {
        "request_id": uuid.uuid4().hex,
        "user_id": user_id,
        "event_time_ms": now_ms,
        "product": "mobile_home",
        "page": "home",
        "placement": "feed",
        "layout": "carousel",
        "channel": "mobile_app",
        "device": "ios",
        "size": 10,
    } | fields

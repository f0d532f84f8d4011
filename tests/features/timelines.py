"""Histories out of a few readable marks, and strategies that draw them at random."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from features.categories import CATEGORIES
from features.history import INTERACTION, ROW, TRANSACTION, Rows, ordered
from features.spec import DAY_MS, HOUR_MS, MINUTE_MS
from features.vocabulary import code

NOON_MS = 20_400 * DAY_MS + 12 * HOUR_MS

# (source, action, channel) of a mark in a timeline
MARKS = {
    "i": (INTERACTION, "impression", "web"),
    "c": (INTERACTION, "click", "mobile_app"),
    "L": (INTERACTION, "login", "web"),
    "O": (INTERACTION, "logout", "web"),
    "v": (INTERACTION, "page_view", "web"),
    "b": (INTERACTION, "branch", "branch"),
    "t": (INTERACTION, "call", "call_center"),
    "k": (INTERACTION, "conversion", ""),
    "$": (TRANSACTION, "purchase", "card"),
    "w": (TRANSACTION, "purchase", "web"),
    "p": (TRANSACTION, "payment", "external"),
}


def timeline(events: Sequence[tuple[str, int]], cents: int = 100, category: str = "fuel") -> Rows:
    """Ordered rows of (mark, event time in ms); the place in the list is the event's fingerprint."""
    rows = np.zeros(len(events), ROW)
    for place, (mark, time_ms) in enumerate(events):
        source, action, channel = MARKS[mark]
        row = rows[place]
        row["time_ms"], row["event"], row["source"] = time_ms, place + 1, source
        row["action"], row["channel"] = code("action", action), code("channel", channel)
        row["item"] = place + 100
        if source == TRANSACTION:
            row["cents"], row["category"] = cents, CATEGORIES.index(category)
    return ordered(rows)


def minutes(text: str, start_ms: int = NOON_MS) -> Rows:
    """A timeline of space-separated marks with minutes, such as "L0 i5 $12"."""
    return timeline([(mark[0], start_ms + int(mark[1:]) * MINUTE_MS) for mark in text.split()])


def random_rows(rng: np.random.Generator, length: int, spread_ms: int, ties: bool = True) -> Rows:
    """Ordered rows of every kind over a span of time, some of them at one instant."""
    rows = np.zeros(length, ROW)
    instants = NOON_MS + rng.integers(0, spread_ms + 1, max(1, length * 2 // 3))
    rows["time_ms"] = rng.choice(instants, length) if ties else NOON_MS + np.arange(length) * 1000
    rows["event"] = rng.permutation(length * 3)[:length] + 1
    kinds = list(MARKS.values())
    for place in range(length):
        source, action, channel = kinds[rng.integers(len(kinds))]
        rows[place]["source"] = source
        rows[place]["action"], rows[place]["channel"] = (
            code("action", action),
            code("channel", channel),
        )
    is_money = rows["source"] == TRANSACTION
    rows["cents"] = np.where(is_money, rng.integers(-500, 5_000_000, length), 0)
    rows["category"] = np.where(is_money, rng.integers(0, len(CATEGORIES), length), 0)
    for field in ("item", "product", "page", "placement", "layout"):
        rows[field] = rng.integers(0, 1 << 31, length)
    rows["device"], rows["position"] = rng.integers(0, 8, length), rng.integers(0, 256, length)
    return ordered(rows)


@st.composite
def histories(draw: st.DrawFn, max_rows: int = 25) -> Rows:
    """Random rows; spans from one instant to a week, so that windows and sessions begin and end."""
    spread_ms = draw(
        st.sampled_from([0, 10 * MINUTE_MS, 3 * HOUR_MS, 30 * HOUR_MS, 7 * DAY_MS]), "spread"
    )
    length = draw(st.integers(0, max_rows), "length")
    return random_rows(
        np.random.default_rng(draw(st.integers(0, 1 << 32), "seed")), length, spread_ms
    )

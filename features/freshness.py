"""Is a feature row still good? Feast does not enforce the time to live on online reads; we do.

A row is as old as its event timestamp, never as its write.
"""

from enum import Enum


class Freshness(Enum):
    """Verdict on one view's row of one entity."""

    PRESENT = "present"
    STALE = "stale"
    MISSING = "missing"


def freshness(event_time_ms: int | None, now_ms: int, ttl_ms: int) -> Freshness:
    """`PRESENT` up to and including `ttl_ms` of age, then `STALE`; no timestamp is `MISSING`.

    A timestamp ahead of `now_ms` is clock skew between machines and counts as new.
    """
    if event_time_ms is None:
        return Freshness.MISSING
    return Freshness.PRESENT if now_ms - event_time_ms <= ttl_ms else Freshness.STALE

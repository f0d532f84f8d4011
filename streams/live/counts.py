"""What a live run counts, and what it comes to."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class Counts:
    """Everything that happened, by number; nothing is left out of these.

    Every page is asked for, or not reached. Every request is answered or unanswered; a slate that
    comes after its user gave up is late as well. `expected_clicks` sums the true probabilities of
    what was shown, `click_variance` p (1 - p), `predicted_clicks` the slates' own pCTR;
    `logging_clicks` and `best_clicks` are what other pages would have brought by truth
    (streams/live/yardstick.py). `not_allowed` items were shown against the user's true rights.
    """

    events: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    answered: int = 0
    unanswered: int = 0
    late: int = 0
    repeated: int = 0
    empty: int = 0
    pages_not_reached: int = 0
    tiers: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[int] = field(default_factory=list)
    shown: int = 0
    unknown_items: int = 0
    clicks: int = 0
    dismissals: int = 0
    expected_clicks: float = 0.0
    click_variance: float = 0.0
    predicted_clicks: float = 0.0
    logging_clicks: float = 0.0
    best_clicks: float = 0.0
    not_allowed: int = 0
    conversions: Counter[str] = field(default_factory=Counter)
    after_the_end: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """The counts and what follows from them, as JSON."""
        return {
            "events": dict(self.events),
            "num_events": self.events.total(),
            "requests": self.requests,
            "answered": self.answered,
            "unanswered": self.unanswered,
            "late_slates": self.late,
            "repeated_slates": self.repeated,
            "empty_slates": self.empty,
            "pages_not_reached": self.pages_not_reached,
            "tiers": dict(self.tiers),
            "latency_ms": self.latency_ms(),
            "shown": self.shown,
            "unknown_items": self.unknown_items,
            "not_allowed_items": self.not_allowed,
            "clicks": self.clicks,
            "dismissals": self.dismissals,
            "ctr": self.rate(self.clicks),
            "ctr_by_truth": self.rate(self.expected_clicks),
            "ctr_by_model": self.rate(self.predicted_clicks),
            "ctr_of_logging_policy": self.rate(self.logging_clicks),
            "ctr_of_best": self.rate(self.best_clicks),
            "clicks_z": self.clicks_z(),
            "conversions": dict(self.conversions),
            "after_the_end": dict(self.after_the_end),
        }

    def rate(self, clicks: float) -> float | None:
        """Clicks of a kind as a share of the items shown, None before the first."""
        return clicks / self.shown if self.shown else None

    def clicks_z(self) -> float | None:
        """Clicks seen less those expected by truth, in standard deviations."""
        if not self.click_variance:
            return None
        return (self.clicks - self.expected_clicks) / math.sqrt(self.click_variance)

    def latency_ms(self) -> dict[str, float]:
        """Median and 99th percentile from request to slate, as the client sees it; {} before any."""
        if not self.latencies_ms:
            return {}
        p50, p99 = np.percentile(self.latencies_ms, [50, 99])
        return {"p50": float(p50), "p99": float(p99)}

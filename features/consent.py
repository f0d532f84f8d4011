"""Marketing consent as of an instant; it fails closed (FinTRec section 3.1, opt-out notices).

A state keeps the newest few decisions, ordered by when they take effect, so that an opt-out with
a notice period changes nothing before its day and a late record changes nothing at all.
"""

from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt

from features.packed import CONSENT
from features.records import MARKETING, Consent

MAX_CONSENTS: Final = 4


class Verdict(Enum):
    """May marketing be shown?"""

    GRANTED = "granted"
    OPTED_OUT = "opted_out"
    UNKNOWN = "unknown"
    STALE = "stale"


def with_consent(consents: npt.NDArray[np.void], record: Consent) -> npt.NDArray[np.void]:
    """The decisions with one more: ordered by (effect, event time, decision), newest kept."""
    new = np.zeros(1, CONSENT)
    new["effective_from_ms"] = record.effective_from_ms
    new["event_time_ms"] = record.event_time_ms
    new["marketing"] = MARKETING.index(record.marketing)
    every = np.unique(np.concatenate((consents, new)))
    order = np.lexsort((every["marketing"], every["event_time_ms"], every["effective_from_ms"]))
    return every[order][-MAX_CONSENTS:]


def verdict(consents: npt.NDArray[np.void], now_ms: int, ttl_ms: int) -> Verdict:
    """The decision in force at `now_ms`: none is UNKNOWN, one older than `ttl_ms` is STALE."""
    for decision in consents[::-1]:
        if decision["effective_from_ms"] > now_ms:
            continue
        if now_ms - int(decision["event_time_ms"]) > ttl_ms:
            return Verdict.STALE
        return Verdict(MARKETING[int(decision["marketing"])])
    return Verdict.UNKNOWN

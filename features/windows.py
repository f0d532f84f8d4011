"""The forest's engineered features: counts, sums and rates over 7 / 14 / 30 days (FinTRec section 2).

Point in time: a decision at t sees what lies in (t - window, t), strictly before its page. These
are batch features of a user's whole log. The states of the online store hold too little history
for them (`features/history.py` bounds it), so a worker cannot compute them and no Feast view has
them; F_d (`features/dynamic.py`) is what is served.

Shapes: R rows of concatenated logs, U users, M decisions.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from features.categories import CATEGORIES
from features.history import Rows
from features.records import CONTENT_TYPES
from features.spec import DAY_MS, Feature
from features.vocabulary import code

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

FOREST_WINDOWS_MS: Final = {"7d": 7 * DAY_MS, "14d": 14 * DAY_MS, "30d": 30 * DAY_MS}
_SHIFT_MS: Final = 1 << 43  # more than any event time

# what is counted -> (actions, words of the document)
_COUNTED: Final = {
    "impressions": (("impression",), "items shown"),
    "clicks": (("click",), "items clicked"),
    "dismissals": (("dismiss",), "items dismissed"),
    "conversions": (("conversion",), "goals reached"),
    "page_views": (("page_view",), "pages viewed"),
    "logins": (("login",), "logins"),
    "contacts": (("call", "branch"), "calls and branch visits"),
    "complaints": (("complaint",), "complaints"),
    "fraud_reports": (("fraud_report",), "fraud reports"),
    "cash_withdrawals": (("atm",), "withdrawals at an ATM"),
    "purchases": (("purchase",), "purchases"),
    "payments": (("payment",), "payments"),
    "transfers": (("transfer",), "transfers"),
    "fees": (("fee",), "fees charged"),
}
_BY_CONTENT_TYPE: Final = ("impressions", "clicks", "conversions")
_RATES: Final = {"click_rate": "clicks", "conversion_rate": "conversions"}  # each / impressions


def _declared() -> Iterator[Feature]:
    for window in FOREST_WINDOWS_MS:
        span = f"in the {window} before the page"
        for what, (_, words) in _COUNTED.items():
            yield Feature(f"{what}_count_{window}", "int64", f"{words} {span}")
        for what in _BY_CONTENT_TYPE:
            for kind in CONTENT_TYPES:
                words = _COUNTED[what][1]
                yield Feature(
                    f"{what}_{kind}_count_{window}",
                    "int64",
                    f"{words} {span}, content type {kind}",
                )
        yield Feature(f"spend_sum_{window}", "int64", f"money spent on purchases {span}", "cents")
        for category in CATEGORIES[1:]:
            yield Feature(
                f"spend_{category}_sum_{window}",
                "int64",
                f"money spent on purchases of category {category} {span}",
                "cents",
            )
        for rate, what in _RATES.items():
            yield Feature(
                f"{rate}_{window}", "float32", f"{what} per item shown {span}; 0 where none was"
            )


FOREST_FEATURES: Final = tuple(_declared())
FOREST_NAMES: Final = tuple(feature.name for feature in FOREST_FEATURES)


def forest_fingerprint() -> str:
    """SHA-256 of what the features mean, descriptions left out; data sets carry it."""
    shape = [[f.name, f.dtype, f.unit] for f in FOREST_FEATURES]
    constants = [FOREST_WINDOWS_MS, {k: a for k, (a, _) in _COUNTED.items()}, CATEGORIES]
    return hashlib.sha256(json.dumps([shape, constants]).encode()).hexdigest()


def forest_features(
    rows: Rows, lengths: IntArray, content_type: IntArray, user: IntArray, time_ms: IntArray
) -> FloatArray:
    """Features of decisions, (M, len(FOREST_FEATURES)) in registry order; whole numbers but rates.

    `rows` are the users' ordered logs one behind the other, `lengths` (U,) their lengths,
    `content_type` (R,) a row's item's place in CONTENT_TYPES, -1 for none. A decision is a place
    in the users and an instant.
    """
    owner = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    axis = owner * _SHIFT_MS + rows["time_ms"].astype(np.int64)
    first = (np.cumsum(lengths) - lengths)[user]
    now = user * _SHIFT_MS + time_ms
    end = np.searchsorted(axis, now, side="left")
    since = {
        window: np.maximum(np.searchsorted(axis, now - span, side="right"), first)
        for window, span in FOREST_WINDOWS_MS.items()
    }
    place = {name: column for column, name in enumerate(FOREST_NAMES)}
    out = np.zeros((len(FOREST_FEATURES), len(user)), np.float64)
    running = np.zeros(len(rows) + 1, np.int64)
    for name, weights in _weights(rows, content_type):
        np.cumsum(weights, out=running[1:])
        for window, start in since.items():
            out[place[f"{name}_{window}"]] = running[end] - running[start]
    for window in FOREST_WINDOWS_MS:
        shown = out[place[f"impressions_count_{window}"]]
        for rate, what in _RATES.items():
            happened = out[place[f"{what}_count_{window}"]]
            out[place[f"{rate}_{window}"]] = np.divide(
                happened, shown, out=np.zeros_like(shown), where=shown > 0
            )
    return out.T


def _weights(rows: Rows, content_type: IntArray) -> Iterator[tuple[str, IntArray]]:
    """What each row adds to each count and sum, by the feature's name without its window."""
    action = np.ascontiguousarray(rows["action"])
    for what, (actions, _) in _COUNTED.items():
        happened = np.isin(action, [code("action", name) for name in actions])
        yield f"{what}_count", happened.astype(np.int64)
        if what in _BY_CONTENT_TYPE:
            for index, kind in enumerate(CONTENT_TYPES):
                own = happened & (content_type == index)
                yield f"{what}_{kind}_count", own.astype(np.int64)
    bought = action == code("action", "purchase")
    cents = np.where(bought, rows["cents"], 0).astype(np.int64)
    yield "spend_sum", cents
    for index, category in enumerate(CATEGORIES[1:], start=1):
        yield f"spend_{category}_sum", np.where(rows["category"] == index, cents, 0)

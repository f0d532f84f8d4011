"""The feature registry: every feature's name, type, time to live and meaning, declared once.

Feast views (`feature_repo/`), the model's input order (`features/encoding.py`) and
`docs/features.md` are derived from it. Source: FinTRec section 3.1, context vectors F_s, F_d, F_fm.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Final, Literal

from features.categories import CATEGORIES

Dtype = Literal["int64", "float32", "bytes", "string", "string_list", "float32_list"]

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
SESSION_IDLE_MS: Final = 30 * MINUTE_MS

WINDOWS_MS: Final = {"15m": 15 * MINUTE_MS, "1h": HOUR_MS, "24h": DAY_MS}
CUTOFF_HOUR_UTC: Final = 4  # the nightly batch covers everything before this hour
FM_WIDTH: Final = 768
ENROLLMENTS: Final = (
    "checking",
    "savings",
    "credit_card",
    "auto_loan",
    "mortgage",
    "personal_loan",
    "investing",
    "credit_monitoring",
)


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a view."""

    name: str
    dtype: Dtype
    description: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """One Feast feature view: features of an entity that are written together."""

    name: str
    entity: Literal["user", "item"]
    ttl_ms: int
    features: tuple[Feature, ...]
    written_by: Literal["nightly batch", "ingest worker"]
    description: str

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names in declaration order."""
        return tuple(feature.name for feature in self.features)


def _windowed() -> list[Feature]:
    found = []
    for window in (*WINDOWS_MS, "day"):
        span = "since the nightly cut-off" if window == "day" else f"in the last {window}"
        found += [
            Feature(f"impressions_count_{window}", "int64", f"items shown {span}"),
            Feature(f"clicks_count_{window}", "int64", f"items clicked {span}"),
            Feature(f"purchases_count_{window}", "int64", f"purchases {span}"),
            Feature(f"spend_sum_{window}", "int64", f"money spent on purchases {span}", "cents"),
        ]
    return found


def _by_category() -> list[Feature]:
    return [
        Feature(
            f"spend_{category}_sum_day",
            "int64",
            f"money spent on purchases of category {category} since the nightly cut-off",
            "cents",
        )
        for category in CATEGORIES[1:]
    ]


def _since_session() -> list[Feature]:
    since = "since the user's previous digital session"
    return [
        Feature("purchases_count_since_session", "int64", f"purchases {since}"),
        Feature("spend_sum_since_session", "int64", f"money spent on purchases {since}", "cents"),
        Feature("contacts_count_since_session", "int64", f"calls and branch visits {since}"),
    ]


def _recency() -> list[Feature]:
    never = "-1 = never in the retained history"
    return [
        Feature(f"{what}_recency", "int64", f"time since the last {noun}; {never}", "ms")
        for what, noun in (
            ("click", "click"),
            ("purchase", "purchase"),
            ("login", "login"),
            ("contact", "call or branch visit"),
            ("touch", "interaction before this one"),
        )
    ]


def _session() -> list[Feature]:
    return [
        Feature("session_interactions_count", "int64", "interactions of the visit so far"),
        Feature("session_age", "int64", "time since the visit began", "ms"),
    ]


DYNAMIC_FEATURES: Final = tuple(
    _windowed() + _by_category() + _since_session() + _recency() + _session()
)
NUM_DYNAMIC: Final = len(DYNAMIC_FEATURES)

USER_STATIC: Final = View(
    "user_static",
    "user",
    3 * DAY_MS,
    (
        Feature("enrollments", "string_list", "bank products the user owns"),
        *(
            Feature(
                f"tenure_{name}",
                "int64",
                f"time since the user opened {name}; 0 = not owned",
                "days",
            )
            for name in ENROLLMENTS
        ),
        Feature("tenure_bank", "int64", "time since the user's first bank product", "days"),
    ),
    "nightly batch",
    "F_s: product enrollment and tenure, as of the nightly cut-off",
)
USER_FM: Final = View(
    "user_fm",
    "user",
    7 * DAY_MS,
    (
        Feature("fm_embedding", "float32_list", f"foundation model's embedding, width {FM_WIDTH}"),
        Feature("fm_version", "string", "foundation model version that wrote the embedding"),
        Feature("fm_night", "int64", "cut-off of the embedded history", "ms since the epoch"),
    ),
    "nightly batch",
    "F_fm: the user's years of transactions as one vector",
)
USER_INTRADAY: Final = View(
    "user_intraday",
    "user",
    DAY_MS,
    (
        *DYNAMIC_FEATURES,
        Feature("events_count", "int64", "events and refreshes folded into the state so far"),
    ),
    "ingest worker",
    "F_d as of the user's last event",
)
USER_STATE: Final = View(
    "user_state",
    "user",
    400 * DAY_MS,
    (
        Feature(
            "packed", "bytes", "history, hidden states, context and offsets (features/packed.py)"
        ),
    ),
    "ingest worker",
    "everything the hot path reads, as one value",
)
USER_CONSENT: Final = View(
    "user_consent",
    "user",
    400 * DAY_MS,
    (
        Feature(
            "marketing", "string", "granted, opted_out or unknown, as of the last consent event"
        ),
        Feature("effective_from", "int64", "when that decision takes effect", "ms since the epoch"),
    ),
    "ingest worker",
    "the user's last marketing decision",
)
ITEM_PROFILE: Final = View(
    "item_profile",
    "item",
    400 * DAY_MS,
    (
        Feature("content_type", "string", "marketing, servicing or third_party"),
        Feature("category", "string", "what the item is about"),
        Feature("value_usd", "float32", "v(i): dollars per conversion", "usd"),
        Feature("urgency", "float32", "us(i): strategic importance"),
        Feature("attribution_window_days", "int64", "look-back of a conversion", "days"),
    ),
    "nightly batch",
    "the catalogue as of the nightly cut-off",
)

VIEWS: Final = (USER_STATIC, USER_FM, USER_INTRADAY, USER_STATE, USER_CONSENT, ITEM_PROFILE)
NUM_STATIC: Final = 2 * len(ENROLLMENTS) + 2
CONTEXT_WIDTH: Final = NUM_STATIC + FM_WIDTH + 1


def registry_fingerprint(views: tuple[View, ...] = VIEWS) -> str:
    """SHA-256 of what the registry means; models, manifests and packed states carry it.

    Descriptions are left out: a better word must not make every model and state unreadable.
    """
    shape = [
        [view.name, view.entity, view.ttl_ms, [[f.name, f.dtype, f.unit] for f in view.features]]
        for view in views
    ]
    constants = [
        WINDOWS_MS,
        CUTOFF_HOUR_UTC,
        SESSION_IDLE_MS,
        CONTEXT_WIDTH,
        ENROLLMENTS,
        CATEGORIES,
    ]
    return hashlib.sha256(json.dumps([shape, constants], sort_keys=True).encode()).hexdigest()

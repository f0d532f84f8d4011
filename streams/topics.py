"""Every topic by name: what it carries, its key, retention and compaction. No other file names one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from features.records import (
    Consent,
    Conversion,
    Interaction,
    Item,
    RankingPolicy,
    Record,
    Slate,
    SlateRequest,
    Transaction,
)
from features.spec import DAY_MS

CLICKSTREAM: Final = "clickstream.v1"
TRANSACTIONS: Final = "transactions.v1"
CONVERSIONS: Final = "conversions.v1"
CONSENTS: Final = "consents.v1"
SLATE_REQUESTS: Final = "slate_requests.v1"
RANKING_POLICIES: Final = "ranking_policies.v1"
ITEMS: Final = "items.v1"
SLATES: Final = "slates.v1"
SLATE_AUDIT: Final = "slate_audit.v1"
STATE_REFRESH: Final = "state_refresh.v1"

# What the lake keeps: everything that happened and everything that was decided.
LAKE_TOPICS: Final = (
    CLICKSTREAM,
    TRANSACTIONS,
    CONVERSIONS,
    CONSENTS,
    ITEMS,
    SLATE_REQUESTS,
    SLATES,
    SLATE_AUDIT,
)

# Order is stored in packed states: append only.
EVENT_TOPICS: Final = (CLICKSTREAM, TRANSACTIONS, CONVERSIONS, CONSENTS, STATE_REFRESH)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as `fintrec topics create` makes it."""

    name: str
    description: str
    record: type[Record] | None
    key: str
    retention_ms: int
    compacted: bool = False
    partitions: int | None = None  # None = the configured number, equal for all of a user's topics
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def dead_letter(self) -> str:
        """Where refused records of this topic go."""
        return f"{self.name}.dead_letter"


INPUTS: Final = (
    Topic(CLICKSTREAM, "what users did and were shown", Interaction, "user_id", 7 * DAY_MS),
    Topic(TRANSACTIONS, "money that moved", Transaction, "user_id", 7 * DAY_MS),
    Topic(CONVERSIONS, "goals reached", Conversion, "user_id", 7 * DAY_MS),
    Topic(CONSENTS, "marketing decisions", Consent, "user_id", 365 * DAY_MS),
    Topic(SLATE_REQUESTS, "places that ask what to show", SlateRequest, "user_id", DAY_MS),
    Topic(RANKING_POLICIES, "coefficients of eq. 1", RankingPolicy, "scope@version", -1, True, 1),
    Topic(ITEMS, "the catalogue", Item, "item_id", -1, True, 1),
)
INTERNAL: Final = (
    Topic(STATE_REFRESH, "users whose state must be built anew", None, "user_id", DAY_MS),
)
OUTPUTS: Final = (
    Topic(SLATES, "ranked answers", Slate, "user_id", 7 * DAY_MS),
    Topic(SLATE_AUDIT, "what each slate was made of", None, "user_id", 30 * DAY_MS),
)
DEAD_LETTERS: Final = tuple(
    Topic(t.dead_letter, f"refused records of {t.name}", None, "as received", 30 * DAY_MS)
    for t in (*INPUTS, *INTERNAL)
)
TOPICS: Final = {t.name: t for t in (*INPUTS, *INTERNAL, *OUTPUTS, *DEAD_LETTERS)}

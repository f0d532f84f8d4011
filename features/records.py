"""Records on the wire, one frozen struct per topic (JSON with orjson, docs/wire_format.md).

A field is only ever added, with a default; a changed meaning is a new topic version. Unknown
fields pass. `features/border.py` decides which records are let in.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

Id = Annotated[str, Meta(min_length=1, max_length=128, description="identifier")]
Name = Annotated[str, Meta(max_length=64, description="name of an open vocabulary")]
TimeMs = Annotated[int, Meta(ge=0, le=1 << 42, description="milliseconds since the epoch, UTC")]
Usd = Annotated[float, Meta(ge=-20_000_000, le=20_000_000, description="US dollars")]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Weight = Annotated[float, Meta(ge=0, le=1e9)]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Root of the records; every topic has exactly one struct."""


def entity_of(record: Record) -> str:
    """Whose state a record belongs to, and so its Kafka key: the user, or before a login the
    anonymous visitor."""
    return str(getattr(record, "user_id", "") or getattr(record, "anonymous_id", ""))


class Interaction(Record, frozen=True, kw_only=True):
    """One thing a user did or was shown, digital or physical (clickstream.v1).

    Web clicks before a login carry only `anonymous_id`, a login carries both.
    """

    event_id: Id
    event_time_ms: TimeMs
    action: Annotated[str, Meta(min_length=1, max_length=32)]
    user_id: Annotated[str, Meta(max_length=128, description="empty before a login")] = ""
    session_id: Annotated[str, Meta(max_length=128)] = ""
    channel: Name = ""
    product: Name = ""
    page: Name = ""
    placement: Name = ""
    layout: Name = ""
    position: Annotated[int, Meta(ge=0, le=200)] = 0
    item_id: Annotated[str, Meta(max_length=128)] = ""
    device: Name = ""
    slate_id: Annotated[str, Meta(max_length=128)] = ""
    anonymous_id: Annotated[str, Meta(max_length=128)] = ""
    propensity: Annotated[float, Meta(ge=0, le=1)] | None = None

    def __post_init__(self) -> None:
        if not (self.user_id or self.anonymous_id):
            raise ValueError("neither user_id nor anonymous_id is given, expected one of them")


class Transaction(Record, frozen=True, kw_only=True):
    """Money that moved, or a statement about it (transactions.v1)."""

    event_id: Id
    user_id: Id
    event_time_ms: TimeMs
    kind: Annotated[str, Meta(min_length=1, max_length=32)]
    amount_usd: Usd
    mcc: Annotated[str, Meta(max_length=4, description="merchant category code, ISO 18245")] = ""
    merchant: Annotated[str, Meta(max_length=128)] = ""
    account: Name = ""
    channel: Name = ""
    due_date_ms: TimeMs | None = None
    minimum_due_usd: Usd | None = None


class Conversion(Record, frozen=True, kw_only=True):
    """An item's goal was reached, with or without a click (conversions.v1)."""

    event_id: Id
    user_id: Id
    event_time_ms: TimeMs
    item_id: Id
    value_usd: Usd = 0.0


MARKETING: Final = ("unknown", "granted", "opted_out")


class Consent(Record, frozen=True, kw_only=True):
    """A user's decision on marketing (consents.v1)."""

    user_id: Id
    event_time_ms: TimeMs
    marketing: Annotated[str, Meta(pattern="^(granted|opted_out|unknown)$")]
    effective_from_ms: TimeMs


CONTENT_TYPES: Final = ("marketing", "servicing", "third_party")


class Eligibility(msgspec.Struct, frozen=True, kw_only=True):
    """Who may be shown an item: enrollments (features/spec.py) owned, not owned, and tenure."""

    requires_enrollments: list[Name] = []
    excludes_enrollments: list[Name] = []
    min_tenure_days: Count = 0


class Item(Record, frozen=True, kw_only=True):
    """One piece of content (items.v1, compacted by item_id)."""

    item_id: Id
    version: Count
    content_type: Annotated[str, Meta(pattern="^(marketing|servicing|third_party)$")]
    category: Name = ""
    products: list[Name] = []
    value_usd: Usd = 0.0
    urgency: Weight = 0.0
    attribution_window_days: Annotated[int, Meta(ge=1, le=365)] = 30
    eligibility: Eligibility = msgspec.field(default_factory=Eligibility)
    explorable: bool = False
    pinned_position: Annotated[int, Meta(ge=1, le=50)] | None = None
    valid_from_ms: TimeMs = 0
    valid_until_ms: TimeMs | None = None


class SlateRequest(Record, frozen=True, kw_only=True):
    """A place on a surface asks what to show (slate_requests.v1)."""

    request_id: Id
    user_id: Id
    event_time_ms: TimeMs
    product: Name = ""
    page: Name = ""
    placement: Name = ""
    layout: Name = ""
    channel: Name = ""
    device: Name = ""
    size: Annotated[int, Meta(ge=1, le=50)] = 5
    candidates: Annotated[list[Id], Meta(max_length=2000)] | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=60_000)] | None = None


class RankingPolicy(Record, frozen=True, kw_only=True):
    """Coefficients, values and urgencies of eq. 1 (ranking_policies.v1, compacted by scope and version).

    `scope` is "" for every surface or a product's name; values and urgencies given here override
    the item's own. In force from `effective_from_ms` of the deciding clock until `expires_ms`.
    """

    scope: Name = ""
    version: Count
    base_version: Count = 0
    lambda_us: Weight = 1.0
    lambda_ctr: Weight = 1.0
    lambda_cvr: Weight = 1.0
    value_usd: dict[str, Usd] = {}
    urgency: dict[str, Weight] = {}
    effective_from_ms: TimeMs = 0
    expires_ms: TimeMs | None = None
    explore: dict[str, float] = {}


class SlateItem(msgspec.Struct, frozen=True, kw_only=True):
    """One ranked item of a slate; `position` starts at 1."""

    item_id: str
    position: int
    pctr: float
    pcvr: float
    value_usd: float
    urgency: float
    ranking_score: float
    propensity: float
    scored_by_prior: bool = False


class Suppressed(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was not admitted, and why (docs/operations.md lists the reasons)."""

    item_id: str
    reason: str


class SlatePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The policy a slate was ranked with."""

    version: int
    lambda_us: float
    lambda_ctr: float
    lambda_cvr: float


class SlateModels(msgspec.Struct, frozen=True, kw_only=True):
    """Model versions that scored a slate, "" where none did."""

    pctr: str
    pcvr: str


class Slate(Record, frozen=True, kw_only=True):
    """The answer to a slate request (slates.v1)."""

    slate_id: str
    request_id: str
    user_id: str
    event_time_ms: int
    tier: str
    items: list[SlateItem]
    suppressed: list[Suppressed]
    policy: SlatePolicy
    models: SlateModels
    feature_ages_ms: dict[str, int | None]
    latency_ms: dict[str, float]
    flags: list[str] = []


class DeadLetter(Record, frozen=True, kw_only=True):
    """A record that was refused, whole, with its place and the reason (<topic>.dead_letter)."""

    at: str
    reason: str
    message: str
    key_base64: str | None
    value_base64: str | None
    truncated: bool
    refused_at_ms: int

"""One example of each record on the wire, for the generated documents: one user, one morning."""

from typing import Final

from features.records import (
    Consent,
    Conversion,
    DeadLetter,
    Eligibility,
    Interaction,
    Item,
    RankingPolicy,
    Record,
    Slate,
    SlateItem,
    SlateModels,
    SlatePolicy,
    SlateRequest,
    Suppressed,
    Transaction,
)

_USER: Final = "u-000042"
_NOW_MS: Final = 1_767_261_600_000  # 2026-01-01T10:00:00Z

_SLATE: Final = "d5743f56ddecf894b673948ec3455289"

_EXAMPLES: Final[tuple[Record, ...]] = (
    Interaction(
        event_id="e-1001",
        user_id=_USER,
        event_time_ms=_NOW_MS,
        action="click",
        session_id="s-77",
        channel="mobile",
        product="mobile_home",
        page="home",
        placement="hero",
        layout="carousel",
        position=1,
        item_id="travel_card",
        device="phone",
        slate_id=_SLATE,
    ),
    Transaction(
        event_id="t-2001",
        user_id=_USER,
        event_time_ms=_NOW_MS - 60_000,
        kind="purchase",
        amount_usd=412.5,
        mcc="4511",
        merchant="airline-7",
        account="credit_card",
        channel="web",
    ),
    Conversion(
        event_id="c-3001",
        user_id=_USER,
        event_time_ms=_NOW_MS + 600_000,
        item_id="travel_card",
        value_usd=120.0,
    ),
    Consent(
        user_id=_USER,
        event_time_ms=_NOW_MS - 86_400_000,
        marketing="granted",
        effective_from_ms=_NOW_MS - 86_400_000,
    ),
    Item(
        item_id="travel_card",
        version=3,
        content_type="marketing",
        category="credit_card",
        products=["mobile_home"],
        value_usd=120.0,
        urgency=0.25,
        eligibility=Eligibility(requires_enrollments=["checking"], min_tenure_days=90),
    ),
    SlateRequest(
        request_id="r-4001",
        user_id=_USER,
        event_time_ms=_NOW_MS + 1_000,
        product="mobile_home",
        page="home",
        placement="hero",
        layout="carousel",
        channel="mobile",
        device="phone",
        size=3,
    ),
    RankingPolicy(
        scope="mobile_home",
        version=8,
        base_version=7,
        lambda_us=0.5,
        urgency={"confirm_address": 2.0},
        effective_from_ms=_NOW_MS - 3_600_000,
    ),
    Slate(
        slate_id=_SLATE,
        request_id="r-4001",
        user_id=_USER,
        event_time_ms=_NOW_MS + 1_000,
        tier="fresh",
        items=[
            SlateItem(
                item_id="travel_card",
                position=1,
                pctr=0.125,
                pcvr=0.03125,
                value_usd=120.0,
                urgency=0.25,
                ranking_score=4.0,
                propensity=1.0,
            )
        ],
        suppressed=[Suppressed(item_id="auto_loan", reason="already_enrolled")],
        policy=SlatePolicy(version=8, lambda_us=0.5, lambda_ctr=1.0, lambda_cvr=1.0),
        models=SlateModels(pctr="2", pcvr="2"),
        feature_ages_ms={"user_state": 840, "user_static": 21_600_000, "user_fm": None},
        latency_ms={"store": 0.5, "head": 2.25, "total": 12.5},
    ),
    DeadLetter(
        at="clickstream.v1[2]@8812",
        reason="invalid",
        message="Interaction: Object missing required field `event_id`",
        key_base64="dS0wMDAwNDI=",
        value_base64="eyJ1c2VyX2lkIjoidS0wMDAwNDIifQ==",
        truncated=False,
        refused_at_ms=_NOW_MS + 5,
    ),
)

EXAMPLES: Final = {type(example): example for example in _EXAMPLES}

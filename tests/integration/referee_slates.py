"""The referee's second half: who may be shown what, and in which order (eq. 1), in plain Python."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.integration.referee import DAY, Owned


def consent_verdict(consents: Sequence[tuple[int, int, int]], now: int, ttl_days: int) -> str:
    """The newest decision that has taken effect; without one it is unknown."""
    for effective, decided, mark in reversed(consents):
        if effective <= now:
            stale = now - decided > ttl_days * DAY
            return "stale" if stale else ("unknown", "granted", "opted_out")[mark]
    return "unknown"


def refusal(item: Mapping[str, Any], consent: str, owned: Owned | None, now: int) -> str:
    """Why an item may not be shown; empty when it may."""
    has = owned.tenure_days if owned else {}
    rules = item.get("eligibility", {})
    if item.get("valid_from_ms", 0) > now:
        return "not_yet_valid"
    if item.get("valid_until_ms") and item["valid_until_ms"] <= now:
        return "expired"
    if item["content_type"] == "marketing" and consent != "granted":
        return f"consent_{consent}"
    if any(name not in has for name in rules.get("requires_enrollments", [])):
        return "missing_enrollment"
    if any(name in has for name in rules.get("excludes_enrollments", [])):
        return "already_enrolled"
    if (owned.bank_days if owned else 0) < rules.get("min_tenure_days", 0):
        return "tenure_too_short"
    return ""


def candidates_of(
    catalogue: Mapping[str, Mapping[str, Any]], request: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], list[tuple[str, str]]]:
    """Items that the request's surface may show, by id, and asked-for ones that it may not."""
    product, wanted = request.get("product", ""), request.get("candidates")
    here = [
        item
        for item_id, item in sorted(catalogue.items())
        if (not item.get("products") or product in item["products"])
        and (wanted is None or item_id in wanted)
    ]
    known = {item["item_id"] for item in here}
    others = [
        (item_id, "other_product" if item_id in catalogue else "unknown_item")
        for item_id in dict.fromkeys(wanted or ())
        if item_id not in known
    ]
    return here, others


def policy_in_force(
    policies: Iterable[Mapping[str, Any]], product: str, now: int
) -> Mapping[str, Any]:
    """The newest policy in effect: the product's own before the one for all."""
    for scope in (product, ""):
        effective = [
            p
            for p in policies
            if p.get("scope", "") == scope
            and p.get("effective_from_ms", 0) <= now
            and (p.get("expires_ms") is None or now < p["expires_ms"])
        ]
        if effective:
            return max(effective, key=lambda p: (p.get("effective_from_ms", 0), p["version"]))
    return {"version": 0}


def ranked(
    items: Sequence[Mapping[str, Any]],
    rates: Mapping[str, tuple[float, float]],
    policy: Mapping[str, Any],
    size: int,
) -> list[tuple[str, float]]:
    """Eq. 1 of eligible items, best first with pinned ones in place: (item, ranking score)."""
    scores = {}
    for item in items:
        name = item["item_id"]
        pctr, pcvr = (round(rate, 8) for rate in rates[name])
        urgency = policy.get("urgency", {}).get(name, item.get("urgency", 0.0))
        value = policy.get("value_usd", {}).get(name, item.get("value_usd", 0.0))
        scores[name] = round(
            policy.get("lambda_us", 1.0) * urgency
            + policy.get("lambda_ctr", 1.0) * pctr
            + policy.get("lambda_cvr", 1.0) * pcvr * value,
            8,
        )
    pins = {i["item_id"]: i["pinned_position"] for i in items if i.get("pinned_position")}
    order = sorted((name for name in scores if name not in pins), key=lambda n: (-scores[n], n))
    for name, position in sorted(pins.items(), key=lambda pin: (pin[1], pin[0])):
        order.insert(min(position - 1, len(order)), name)
    return [(name, scores[name]) for name in order[:size]]

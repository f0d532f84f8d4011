"""The catalogue: 200 items of the three content types, each serving one need.

An item's goal takes some days to be reached (`lag_days`), succeeds after a click with some
probability (`goal_rate`), and may open a bank product (`enrolls`).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.records import Eligibility, Item
from features.spec import DAY_MS, ENROLLMENTS
from fintrec.bank.needs import LIFE_NEEDS, NEED_INDEX

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NO_PRODUCT: Final = len(ENROLLMENTS)  # index of "owns nothing in particular"


@dataclass(frozen=True, slots=True)
class Offer:
    """What several items have in common: what is offered, to whom, and what it is worth."""

    name: str
    value_usd: float
    window_days: int
    lag_days: float
    goal_rate: float
    enrolls: str = ""
    requires: str = ""

    @property
    def excludes(self) -> str:
        """Who owns the product already is not offered it again."""
        return self.enrolls


_MARKETING: Final = {
    "travel": (
        Offer("travel_card", 180, 30, 2.0, 0.06, enrolls="credit_card"),
        Offer("travel_insurance", 25, 15, 0.4, 0.16),
        Offer("trip_savings", 12, 30, 1.5, 0.12, requires="savings"),
        Offer("lounge_pass", 30, 15, 0.5, 0.10, requires="credit_card"),
        Offer("currency_account", 40, 30, 1.5, 0.08),
    ),
    "home": (
        Offer("mortgage", 900, 60, 14.0, 0.03, enrolls="mortgage"),
        Offer("home_equity", 500, 60, 12.0, 0.03, requires="mortgage"),
        Offer("home_insurance", 60, 30, 3.0, 0.08),
        Offer("moving_loan", 150, 30, 4.0, 0.05, enrolls="personal_loan"),
        Offer("renovation_loan", 220, 60, 7.0, 0.04),
    ),
    "debt": (
        Offer("balance_transfer", 90, 30, 2.0, 0.08, requires="credit_card"),
        Offer("consolidation_loan", 160, 60, 5.0, 0.05, enrolls="personal_loan"),
        Offer("credit_builder", 20, 30, 2.0, 0.10),
        Offer("payoff_planner", 5, 15, 0.3, 0.20),
        Offer("overdraft_line", 35, 30, 1.0, 0.10, requires="checking"),
    ),
    "saving": (
        Offer("savings_account", 80, 30, 1.5, 0.10, enrolls="savings"),
        Offer("term_deposit", 70, 30, 3.0, 0.07, requires="savings"),
        Offer("round_up", 8, 15, 0.3, 0.20, requires="checking"),
        Offer("bonus_rate", 15, 30, 1.0, 0.12, requires="savings"),
        Offer("youth_saver", 25, 30, 4.0, 0.06),
    ),
    "family": (
        Offer("education_plan", 120, 60, 9.0, 0.05),
        Offer("family_account", 45, 30, 2.0, 0.09),
        Offer("life_insurance", 140, 60, 8.0, 0.04),
        Offer("health_account", 50, 30, 3.0, 0.07),
        Offer("childcare_card", 30, 30, 2.0, 0.08, requires="checking"),
    ),
    "auto": (
        Offer("auto_loan", 250, 60, 8.0, 0.05, enrolls="auto_loan"),
        Offer("auto_refinance", 130, 60, 6.0, 0.06, requires="auto_loan"),
        Offer("auto_insurance", 55, 30, 3.0, 0.08),
        Offer("roadside_club", 15, 15, 0.5, 0.12),
        Offer("electric_loan", 260, 60, 10.0, 0.03),
    ),
    "investing": (
        Offer("brokerage", 200, 60, 5.0, 0.06, enrolls="investing"),
        Offer("retirement_plan", 180, 60, 9.0, 0.04),
        Offer("managed_portfolio", 160, 60, 6.0, 0.05, requires="investing"),
        Offer("index_fund", 60, 30, 2.0, 0.09, requires="investing"),
        Offer("advisor_meeting", 40, 30, 4.0, 0.08),
    ),
    "everyday": (
        Offer("cashback_card", 150, 30, 2.0, 0.07, enrolls="credit_card"),
        Offer("dining_rewards", 10, 15, 0.4, 0.18, requires="credit_card"),
        Offer("credit_watch", 30, 30, 1.0, 0.10, enrolls="credit_monitoring"),
        Offer("grocery_bonus", 8, 15, 0.4, 0.18),
        Offer("streaming_bundle", 12, 15, 0.5, 0.12),
    ),
}
_SERVICING: Final = {
    "payment": ("pay_bill", "autopay", "due_reminder", "payment_plan"),
    "security": ("lock_card", "dispute_charge", "review_alerts", "new_password"),
    "support": ("explain_fee", "contact_us", "update_profile", "paperless"),
}
_THIRD_PARTY: Final = {
    "travel": ("flight_deal", "hotel_deal"),
    "home": ("furniture_deal", "movers_deal"),
    "debt": ("tax_help", "budget_app"),
    "saving": ("energy_switch", "coupon_club"),
    "family": ("tutor_deal", "pharmacy_deal"),
    "auto": ("tire_deal", "car_market"),
    "investing": ("market_news", "tax_software"),
    "everyday": ("restaurant_deal", "cinema_deal"),
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items and, in the same order, the mechanism's columns; I items.

    `offers` names what several items have in common. `requires` and `enrolls` index ENROLLMENTS, NO_PRODUCT for none. `quality` is the item's own
    log odds of a click, `prior` its log weight in the logging policy.
    """

    items: tuple[Item, ...]
    offers: tuple[str, ...]
    need: IntArray
    requires: IntArray
    enrolls: IntArray
    lag_days: FloatArray
    goal_rate: FloatArray
    quality: FloatArray
    prior: FloatArray

    def of_offers(self, *names: str) -> BoolArray:
        """Which items are of one of these offers, (I,)."""
        return np.array([offer in names for offer in self.offers])

    def of_type(self, content_type: str) -> BoolArray:
        """Which items are of a content type, (I,)."""
        return np.array([item.content_type == content_type for item in self.items])

    @property
    def window_days(self) -> FloatArray:
        """Attribution windows, (I,)."""
        return np.array([float(item.attribution_window_days) for item in self.items])


def build_catalogue(rng: np.random.Generator, start_ms: int, end_ms: int) -> Catalogue:
    """The catalogue of a bank whose log covers [start_ms, end_ms)."""
    drafts = [*_marketing(rng), *_servicing(), *_third_party(rng)]
    items = [item for item, _, _ in drafts]
    offers = [offer for _, offer, _ in drafts]
    _set_examples(items, start_ms, end_ms)
    place = {name: number for number, name in enumerate(ENROLLMENTS)} | {"": NO_PRODUCT}
    return Catalogue(
        items=tuple(items),
        offers=tuple(offer.name for offer in offers),
        need=np.array([NEED_INDEX[need] for _, _, need in drafts]),
        requires=np.array([place[offer.requires] for offer in offers]),
        enrolls=np.array([place[offer.enrolls] for offer in offers]),
        lag_days=np.array([offer.lag_days for offer in offers]),
        goal_rate=np.array([offer.goal_rate for offer in offers]),
        quality=rng.normal(0, 0.35, len(items)),
        prior=rng.normal(0, 0.5, len(items)),
    )


def _marketing(rng: np.random.Generator) -> list[tuple[Item, Offer, str]]:
    return [
        (
            _item(
                f"{offer.name}_{variant}",
                "marketing",
                need,
                offer,
                ["pgc_marketing", "mobile_home"],
                urgency=round(float(rng.beta(1, 6)), 3),
            ),
            offer,
            need,
        )
        for need in LIFE_NEEDS
        for offer in _MARKETING[need]
        for variant in "abc"
    ]


def _servicing() -> list[tuple[Item, Offer, str]]:
    drafts = []
    for need, names in _SERVICING.items():
        for name in names:
            offer = Offer(name, 2.0, 15, 0.1, 0.45)
            for variant in "abcd":
                item = _item(
                    f"{name}_{variant}", "servicing", need, offer, ["pgc_servicing", "mobile_home"]
                )
                drafts.append((item, offer, need))
    return drafts


def _third_party(rng: np.random.Generator) -> list[tuple[Item, Offer, str]]:
    drafts = []
    for need, names in _THIRD_PARTY.items():
        for name in names:
            offer = Offer(name, round(float(rng.uniform(4, 12)), 2), 15, 0.6, 0.12)
            for variant in "ab":
                products = ["third_party"] + (["pgc_marketing"] if variant == "a" else [])
                item = _item(f"{name}_{variant}", "third_party", need, offer, products)
                drafts.append((item, offer, need))
    return drafts


def _item(
    item_id: str,
    content_type: str,
    category: str,
    offer: Offer,
    products: list[str],
    urgency: float = 0.0,
) -> Item:
    return Item(
        item_id=item_id,
        version=1,
        content_type=content_type,
        category=category,
        products=products,
        value_usd=float(offer.value_usd),
        urgency=urgency,
        attribution_window_days=offer.window_days,
        eligibility=Eligibility(
            requires_enrollments=[offer.requires] if offer.requires else [],
            excludes_enrollments=[offer.excludes] if offer.excludes else [],
            min_tenure_days=90 if offer.value_usd >= 200 else 0,
        ),
        explorable=content_type != "servicing",
    )


def _set_examples(items: list[Item], start_ms: int, end_ms: int) -> None:
    """One item pinned to the top of servicing pages, one that starts and one that ends in the log."""
    changed: dict[str, dict[str, Any]] = {
        "review_alerts_a": {
            "products": ["pgc_servicing"],
            "pinned_position": 1,
            "urgency": 1.0,
        },
        "grocery_bonus_c": {"valid_from_ms": start_ms + (end_ms - start_ms) // 2},
        "streaming_bundle_c": {"valid_until_ms": end_ms - 2 * DAY_MS},
    }
    for place, item in enumerate(items):
        if item.item_id in changed:
            fields = {name: getattr(item, name) for name in item.__struct_fields__}
            items[place] = Item(**(fields | changed[item.item_id]))

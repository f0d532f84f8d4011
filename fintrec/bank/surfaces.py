"""The bank's four products (surfaces): their channels, pages, placements and layouts."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page shows items: the request's product, page, placement and layout.

    `slots` items are shown; `attention` is added to a click's log odds; `weight` is how often a
    visitor of the product comes here.
    """

    product: str
    page: str
    placement: str
    layout: str
    slots: int
    attention: float
    weight: float


PLACES: Final = (
    Place("pgc_marketing", "offers", "hero", "single", 1, 0.4, 1.0),
    Place("pgc_marketing", "offers", "feed", "grid", 5, 0.0, 2.0),
    Place("pgc_marketing", "account", "side", "list", 3, -0.2, 1.0),
    Place("pgc_servicing", "account", "tasks", "list", 4, 0.1, 2.0),
    Place("pgc_servicing", "help", "answers", "list", 5, 0.0, 1.0),
    Place("mobile_home", "home", "top", "single", 1, 0.3, 1.0),
    Place("mobile_home", "home", "feed", "carousel", 5, 0.0, 3.0),
    Place("mobile_home", "account", "tasks", "list", 3, 0.0, 1.0),
    Place("third_party", "marketplace", "feed", "grid", 5, -0.1, 1.0),
)
PRODUCTS: Final = tuple(dict.fromkeys(place.product for place in PLACES))
# Share of a visitor's pages by product, on each digital channel.
PRODUCT_SHARES: Final = {
    "web": {"pgc_marketing": 0.45, "pgc_servicing": 0.40, "mobile_home": 0.0, "third_party": 0.15},
    "mobile_app": {
        "pgc_marketing": 0.1,
        "pgc_servicing": 0.15,
        "mobile_home": 0.65,
        "third_party": 0.10,
    },
}
DEVICE_SHARES: Final = {
    "web": {"desktop": 0.8, "tablet": 0.2},
    "mobile_app": {"ios": 0.55, "android": 0.45},
}
MAX_SLOTS: Final = 5

# Public pages, read before a login; one for each need.
PUBLIC_PRODUCT: Final = "public_site"
PUBLIC_LAYOUT: Final = "article"


def public_page(need: str, is_service: bool) -> str:
    """Name of the public page about a need."""
    return f"{'help' if is_service else 'learn'}_{need}"

"""Merchant category codes (ISO 18245) to the few categories that spend is summed over."""

from typing import Final

# Append only: the position of a name is stored in user states.
CATEGORIES: Final = (
    "",
    "other",
    "groceries",
    "dining",
    "travel",
    "fuel",
    "health",
    "retail",
    "entertainment",
    "utilities",
    "home",
    "education",
    "cash",
)
CATEGORY_CODES: Final = {name: code for code, name in enumerate(CATEGORIES)}

_RANGES: Final = (
    (3000, 3999, "travel"),  # airlines, car rental, lodging
    (4111, 4112, "travel"),
    (4411, 4411, "travel"),
    (4511, 4511, "travel"),
    (4722, 4723, "travel"),
    (4812, 4900, "utilities"),
    (5200, 5271, "home"),
    (5411, 5499, "groceries"),
    (5541, 5542, "fuel"),
    (5712, 5722, "home"),
    (5811, 5814, "dining"),
    (5912, 5912, "health"),
    (5300, 5399, "retail"),
    (5600, 5699, "retail"),
    (5732, 5735, "retail"),
    (5940, 5999, "retail"),
    (6010, 6011, "cash"),
    (7011, 7012, "travel"),
    (7512, 7513, "travel"),
    (7800, 7999, "entertainment"),
    (8011, 8099, "health"),
    (8211, 8299, "education"),
)


def category_of(mcc: str) -> str:
    """Category of a merchant category code; "" without a code, "other" where no range fits."""
    if not mcc:
        return ""
    if not (mcc.isascii() and mcc.isdigit()):
        return "other"
    number = int(mcc)
    for first, last, category in _RANGES:
        if first <= number <= last:
            return category
    return "other"

"""Needs, and what makes them rise: the mechanism's tables (docs/simulated_bank.md has reasons).

A need is a latent number for a user and an instant. Its slow part is the user's own and moves
with life events; its fast part is lifted by something that happened in the last hours.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.categories import CATEGORIES
from features.spec import HOUR_MS

LIFE_NEEDS: Final = (
    "travel",
    "home",
    "debt",
    "saving",
    "family",
    "auto",
    "investing",
    "everyday",
)
SERVICE_NEEDS: Final = ("payment", "security", "support")
NEEDS: Final = LIFE_NEEDS + SERVICE_NEEDS
NEED_INDEX: Final = {name: place for place, name in enumerate(NEEDS)}

# How common a need is among users; a user has none to two that dominate for good.
NEED_WEIGHTS: Final = (0.16, 0.13, 0.13, 0.13, 0.12, 0.10, 0.09, 0.14)
DOMINANT_SHARES: Final = (0.2, 0.5, 0.3)  # of users with 0, 1, 2 dominant needs
DOMINANT_LEVEL: Final = 1.4
BASE_LEVEL: Final = -0.5
LEVEL_SPREAD: Final = 0.5
SERVICE_SPREAD: Final = 0.3
MONTH_MS: Final = 2_629_800_000  # a twelfth of 365.25 days
YEAR_MS: Final = 12 * MONTH_MS


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """Something that changes a life for months or years.

    At age a its strength rises evenly to 1 over the ramp, stays for the hold and then halves every
    half-life; each need of `lifts` is higher by `lift * strength`.
    """

    name: str
    lifts: tuple[tuple[str, float], ...]
    per_year: float
    ramp_months: float
    hold_months: float
    half_life_months: float

    def strength(self, age_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Strength, 0 to 1, at ages of any shape; 0 before the event."""
        months = age_ms / MONTH_MS
        fading = np.maximum(months - self.ramp_months - self.hold_months, 0)
        rising = np.clip(months / self.ramp_months, 0, 1)
        return np.asarray(rising * np.exp2(-fading / self.half_life_months))


LIFE_EVENTS: Final = (
    LifeEvent("moving_house", (("home", 2.0), ("everyday", 0.3)), 0.11, 4, 5, 8),
    LifeEvent(
        "child",
        (("family", 2.0), ("home", 0.5), ("saving", 0.4), ("travel", -0.8)),
        0.035,
        7,
        24,
        36,
    ),
    LifeEvent("travel_habit", (("travel", 1.6), ("everyday", 0.3)), 0.08, 3, 12, 12),
    LifeEvent("debt", (("debt", 1.8), ("payment", 0.5), ("saving", -0.8)), 0.07, 8, 9, 10),
    LifeEvent("saving", (("saving", 1.6), ("everyday", -0.3), ("debt", -0.4)), 0.10, 3, 12, 12),
    LifeEvent("car", (("auto", 1.8),), 0.12, 2, 4, 6),
    LifeEvent("investing", (("investing", 1.7), ("saving", 0.3)), 0.06, 6, 18, 24),
    LifeEvent("new_job", (("everyday", 0.9), ("investing", 0.3)), 0.10, 1, 6, 9),
)
LIFE_LOOKBACK_MS: Final = 6 * YEAR_MS  # events this long before the log still matter
LIFE_REPEATS: Final = 2  # of a kind of event, only a user's newest ones are kept

# Purchases per user and day by category at level 0, and how a need's level raises them.
PURCHASES_PER_DAY: Final = {
    "other": 0.10,
    "groceries": 0.25,
    "dining": 0.20,
    "travel": 0.012,
    "fuel": 0.10,
    "health": 0.025,
    "retail": 0.15,
    "entertainment": 0.06,
    "utilities": 0.04,
    "home": 0.020,
    "education": 0.008,
}
SPEND_LOADINGS: Final = {
    ("travel", "travel"): 0.8,
    ("travel", "dining"): 0.2,
    ("home", "home"): 0.9,
    ("home", "utilities"): 0.2,
    ("home", "retail"): 0.1,
    ("debt", "retail"): 0.2,
    ("debt", "dining"): 0.1,
    ("family", "groceries"): 0.25,
    ("family", "health"): 0.6,
    ("family", "education"): 0.9,
    ("family", "dining"): -0.15,
    ("auto", "fuel"): 0.6,
    ("auto", "other"): 0.2,
    ("everyday", "retail"): 0.3,
    ("everyday", "dining"): 0.3,
    ("everyday", "entertainment"): 0.4,
    ("saving", "entertainment"): -0.2,
    ("saving", "retail"): -0.2,
    ("saving", "dining"): -0.1,
    ("investing", "education"): 0.15,
}
MCCS: Final = {
    "other": ("7299", "8999"),
    "groceries": ("5411", "5499"),
    "dining": ("5812", "5814"),
    "travel": ("3000", "4511", "4722", "7011", "7512"),
    "fuel": ("5541", "5542"),
    "health": ("5912", "8011"),
    "retail": ("5311", "5651", "5732", "5942"),
    "entertainment": ("7832", "7922"),
    "utilities": ("4814", "4900"),
    "home": ("5200", "5712"),
    "education": ("8211", "8220"),
    "cash": ("6011",),
}
# Median and log-spread of an amount, in dollars.
AMOUNTS: Final = {
    "other": (25.0, 0.9),
    "groceries": (48.0, 0.7),
    "dining": (22.0, 0.6),
    "travel": (310.0, 0.8),
    "fuel": (42.0, 0.3),
    "health": (45.0, 0.9),
    "retail": (55.0, 0.9),
    "entertainment": (28.0, 0.6),
    "utilities": (95.0, 0.5),
    "home": (140.0, 1.0),
    "education": (220.0, 0.9),
}


@dataclass(frozen=True, slots=True)
class Trigger:
    """An event that lifts needs for some hours, and often brings the user to a surface.

    At age a, each need of `lifts` is higher by `lift * 2 ** (-a / half_life_ms)`; only the
    newest event of a trigger counts. `visit` is the probability of a session soon after, `goal`
    that of a conversion that no exposure caused.
    """

    name: str
    lifts: tuple[tuple[str, float], ...]
    half_life_ms: int
    visit: float
    goal: float


_NO_MARKETING: Final = tuple((need, -0.8) for need in LIFE_NEEDS)
TRIGGERS: Final = (
    Trigger("travel_purchase", (("travel", 3.0),), 8 * HOUR_MS, 0.45, 0.03),
    Trigger("home_purchase", (("home", 2.2),), 12 * HOUR_MS, 0.25, 0.02),
    Trigger("family_purchase", (("family", 1.5),), 12 * HOUR_MS, 0.15, 0.01),
    Trigger("large_purchase", (("debt", 1.5),), 24 * HOUR_MS, 0.25, 0.02),
    Trigger("payday", (("saving", 1.8), ("investing", 1.2)), 18 * HOUR_MS, 0.30, 0.02),
    Trigger("statement", (("payment", 2.0),), 48 * HOUR_MS, 0.35, 0.10),
    Trigger("fee", (("support", 2.0),), 24 * HOUR_MS, 0.30, 0.03),
    Trigger("fraud_report", (("security", 3.5), *_NO_MARKETING), 24 * HOUR_MS, 0.70, 0.15),
    Trigger("call", (("support", 1.5),), 12 * HOUR_MS, 0.20, 0.03),
    Trigger("complaint", (("support", 2.0),), 48 * HOUR_MS, 0.30, 0.05),
)
TRIGGER_INDEX: Final = {trigger.name: place for place, trigger in enumerate(TRIGGERS)}
LARGE_PURCHASE_USD: Final = 400.0

TRIGGER_MEMORY_MS: Final = 14 * 24 * HOUR_MS  # an older event lifts nothing
# Triggers that what was shown can cause, too.
OUTCOMES: Final = ("call", "complaint", "fraud_report")

# A click says: this interests me now.
CLICK_LIFT: Final = 1.0
CLICK_HALF_LIFE_MS: Final = 3 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Sequence:
    """Order matters: a click on a need, then a trigger, lifts some offers; the reverse does not.

    The newest trigger counts if its user's newest click on the need before it is at most
    `within_ms` older. The lift, in log odds of a click, halves every half-life after the trigger.
    """

    clicked_need: str
    then_trigger: str
    offers: tuple[str, ...]
    within_ms: int
    lift: float
    half_life_ms: int


SEQUENCES: Final = (
    Sequence(
        "travel",
        "travel_purchase",
        ("travel_insurance", "currency_account", "lounge_pass"),
        7 * 24 * HOUR_MS,
        2.0,
        24 * HOUR_MS,
    ),
    Sequence(
        "home",
        "home_purchase",
        ("home_insurance", "renovation_loan"),
        14 * 24 * HOUR_MS,
        1.5,
        48 * HOUR_MS,
    ),
    Sequence(
        "auto",
        "large_purchase",
        ("auto_insurance", "roadside_club"),
        14 * 24 * HOUR_MS,
        1.5,
        48 * HOUR_MS,
    ),
    Sequence(
        "saving", "payday", ("term_deposit", "bonus_rate"), 7 * 24 * HOUR_MS, 1.5, 24 * HOUR_MS
    ),
)


def spend_loadings() -> npt.NDArray[np.float64]:
    """(needs, categories): how a need's level raises the log rate of purchases."""
    table = np.zeros((len(NEEDS), len(CATEGORIES)))
    for (need, category), loading in SPEND_LOADINGS.items():
        table[NEED_INDEX[need], CATEGORIES.index(category)] = loading
    return table


def trigger_lifts() -> npt.NDArray[np.float64]:
    """(triggers, needs): lift of a need right after a trigger."""
    table = np.zeros((len(TRIGGERS), len(NEEDS)))
    for place, trigger in enumerate(TRIGGERS):
        for need, lift in trigger.lifts:
            table[place, NEED_INDEX[need]] = lift
    return table

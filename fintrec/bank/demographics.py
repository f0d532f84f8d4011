"""Ages of the simulated bank's users, as far as a fairness slice needs them: a band each.

Age follows from what a user already is, with noise, and decides nothing: the mechanism never reads
it. So products, tenure and needs differ by age as they do in a bank, models meet it through them,
and no other byte of a log depends on the draw.

Shapes: U users
"""

from typing import Final

import numpy as np

from features.spec import DAY_MS, ENROLLMENTS
from fintrec.bank import needs
from fintrec.bank.population import FloatArray, IntArray, Population

# Years of age beyond MEAN_AGE that a product or a dominant need makes likely.
MEAN_AGE: Final = 42.0
OF_PRODUCT: Final = {
    "mortgage": 5.0,
    "investing": 5.0,
    "savings": 2.0,
    "credit_card": 1.0,
    "personal_loan": -3.0,
    "credit_monitoring": -2.0,
}
OF_NEED: Final = {
    "travel": 1.5,
    "home": -1.0,
    "debt": -3.0,
    "saving": 2.0,
    "family": -3.0,
    "auto": -1.5,
    "investing": 3.0,
    "everyday": -2.0,
}
YEARS_OF_TENURE: Final = 1.0  # a year with the bank is a year of age
NOISE_YEARS: Final = 14.0
YOUNGEST: Final = 18.0
BOUNDS: Final = (25.0, 35.0, 50.0, 65.0)  # first ages of the second band and the later ones


def age_bands(rng: np.random.Generator, people: Population, start_ms: int) -> IntArray:
    """Age band of each user, (U,), places in `fintrec.demographics.AGE_BANDS`."""
    return np.searchsorted(BOUNDS, _ages(rng, people, start_ms), side="right")


def _ages(rng: np.random.Generator, people: Population, start_ms: int) -> FloatArray:
    owned = people.owned_since_UE <= start_ms
    tenure_ms = np.where(owned, start_ms - people.owned_since_UE, 0).max(axis=1)
    years = tenure_ms / (365.25 * DAY_MS)
    of_product = np.array([OF_PRODUCT.get(name, 0.0) for name in ENROLLMENTS])
    of_need = np.array([OF_NEED[name] for name in needs.LIFE_NEEDS])
    level = people.levels_UN[:, : len(needs.LIFE_NEEDS)] - needs.BASE_LEVEL
    ages = MEAN_AGE + YEARS_OF_TENURE * (years - 6.0) + owned @ of_product + level @ of_need
    ages += rng.normal(0, NOISE_YEARS, people.num_users)
    return np.maximum(ages, np.maximum(YOUNGEST, YOUNGEST - 8 + years))

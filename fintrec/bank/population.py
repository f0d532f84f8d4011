"""The users of the simulated bank: needs, products owned, consent, devices, activity.

Shapes: U users, N needs, E enrollments.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.records import MARKETING
from features.spec import DAY_MS, ENROLLMENTS
from fintrec.bank import needs

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NEVER_MS: Final = 1 << 60
UNKNOWN, GRANTED, OPTED_OUT = range(len(MARKETING))

OWNED_SHARE: Final = {
    "checking": 0.90,
    "savings": 0.45,
    "credit_card": 0.50,
    "auto_loan": 0.12,
    "mortgage": 0.15,
    "personal_loan": 0.08,
    "investing": 0.12,
    "credit_monitoring": 0.20,
}
MEAN_TENURE_DAYS: Final = 1_400
CONSENT_SHARES: Final = (0.10, 0.82, 0.08)  # unknown, granted, opted out at the start
CONSENT_CHANGE_SHARE: Final = 0.05  # users who decide anew within the log
MEAN_SESSIONS_PER_DAY: Final = 0.38
PAYDAY_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True)
class Population:
    """All users; instants are ms, `NEVER_MS` where something never happens."""

    levels_UN: FloatArray  # slow needs before the life event
    life_need: IntArray  # which need the life event raises
    life_ms: IntArray  # when
    owned_since_UE: IntArray  # when the product was opened
    consent: IntArray  # at the start, index into MARKETING
    consent_change: IntArray  # what the user decides later
    consent_change_ms: IntArray
    sessions_per_day: FloatArray
    spend_activity: FloatArray
    payday_offset: IntArray  # day of a fortnight, -1 without a salary
    salary_usd: FloatArray
    app_share: FloatArray  # share of sessions in the mobile app
    is_apple: BoolArray

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.life_ms)

    def levels(self, user: IntArray, time_ms: IntArray) -> FloatArray:
        """Slow needs of users at instants, (n, N)."""
        found = self.levels_UN[user]
        lifted = np.flatnonzero(time_ms >= self.life_ms[user])
        found[lifted, self.life_need[user[lifted]]] += needs.LIFE_EVENT_LIFT
        return found

    def consent_at(self, user: IntArray, time_ms: IntArray) -> IntArray:
        """Marketing consent of users at instants, index into MARKETING."""
        changed = time_ms >= self.consent_change_ms[user]
        return np.where(changed, self.consent_change[user], self.consent[user])


def user_ids(num_users: int) -> list[str]:
    """Ids of all users, by index."""
    return [f"u{number:06d}" for number in range(num_users)]


def build_population(
    rng: np.random.Generator, num_users: int, start_ms: int, end_ms: int
) -> Population:
    """Draw the users of a bank whose log covers [start_ms, end_ms)."""
    days = (end_ms - start_ms) / DAY_MS
    happens = rng.random(num_users) < needs.LIFE_EVENT_RATE_PER_DAY * days
    moment = rng.integers(start_ms, end_ms, num_users)
    consent = rng.choice(len(CONSENT_SHARES), num_users, p=CONSENT_SHARES)
    decides = rng.random(num_users) < CONSENT_CHANGE_SHARE
    return Population(
        levels_UN=_levels(rng, num_users),
        life_need=rng.integers(0, len(needs.LIFE_NEEDS), num_users),
        life_ms=np.where(happens, moment, NEVER_MS),
        owned_since_UE=_owned_since(rng, num_users, start_ms),
        consent=consent,
        consent_change=np.where(consent == GRANTED, OPTED_OUT, GRANTED),
        consent_change_ms=np.where(decides, rng.integers(start_ms, end_ms, num_users), NEVER_MS),
        sessions_per_day=rng.gamma(1.5, MEAN_SESSIONS_PER_DAY / 1.5, num_users),
        spend_activity=rng.gamma(4.0, 0.25, num_users),
        payday_offset=np.where(
            rng.random(num_users) < PAYDAY_SHARE, rng.integers(0, 14, num_users), -1
        ),
        salary_usd=np.exp(rng.normal(np.log(2100), 0.4, num_users)).round(2),
        app_share=rng.beta(2.0, 1.2, num_users),
        is_apple=rng.random(num_users) < 0.55,
    )


def _levels(rng: np.random.Generator, num_users: int) -> FloatArray:
    num_life = len(needs.LIFE_NEEDS)
    levels = np.empty((num_users, len(needs.NEEDS)))
    levels[:, :num_life] = rng.normal(needs.BASE_LEVEL, needs.LEVEL_SPREAD, (num_users, num_life))
    levels[:, num_life:] = rng.normal(
        0, needs.SERVICE_SPREAD, (num_users, len(needs.SERVICE_NEEDS))
    )
    # The largest of log weight + Gumbel noise is a draw without replacement by weight.
    keys = np.log(needs.NEED_WEIGHTS) + rng.gumbel(size=(num_users, num_life))
    ranks = np.argsort(np.argsort(-keys, axis=1), axis=1)
    num_dominant = rng.choice([1, 2, 3], num_users, p=[0.4, 0.4, 0.2])
    levels[:, :num_life] += needs.DOMINANT_LEVEL * (ranks < num_dominant[:, None])
    return levels


def _owned_since(rng: np.random.Generator, num_users: int, start_ms: int) -> IntArray:
    shares = np.array([OWNED_SHARE[name] for name in ENROLLMENTS])
    shape = (num_users, len(ENROLLMENTS))
    owns = rng.random(shape) < shares
    owns[~owns.any(axis=1), 0] = True  # a user of the bank owns something
    tenure_ms = (rng.exponential(MEAN_TENURE_DAYS, shape) * DAY_MS).astype(np.int64)
    return np.where(owns, start_ms - tenure_ms, NEVER_MS)

"""The users of the simulated bank: needs, life events, products owned, consent, devices, habits.

Shapes: U users, N needs, L kinds of life events, E enrollments.
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
CONSENT_CHANGE_SHARE: Final = 0.05  # users who decide anew within the digital days
MEAN_SESSIONS_PER_DAY: Final = 0.38
PAYDAY_SHARE: Final = 0.8
LATE_SPREAD: Final = 1.0  # of the disposition to pay late, in log odds
BROWSER_SHARE: Final = 0.35  # users who also read public pages without a login
SHARED_DEVICE_SHARE: Final = 0.08  # users whose device another user logs in from, too
HOUR_SPREAD: Final = 2.0  # of users' favourite hours
POLICY_NOISE: Final = 1.0  # of what the logging policy believes about a need


@dataclass(frozen=True, slots=True)
class Population:
    """All users; instants are ms, `NEVER_MS` where something never happens."""

    levels_UN: FloatArray  # needs without any life event
    life_ULR: IntArray  # starts of life events, the newest LIFE_REPEATS of each kind
    policy_UN: FloatArray  # what the logging policy believes the needs are
    owned_since_UE: IntArray  # when the product was opened
    consent: IntArray  # at the start, index into MARKETING
    consent_change: IntArray  # what the user decides later
    consent_change_ms: IntArray
    sessions_per_day: FloatArray
    spend_activity: FloatArray
    contact_activity: FloatArray
    payday_offset: IntArray  # day of a fortnight, -1 without a salary
    salary_usd: FloatArray
    app_share: FloatArray  # share of sessions in the mobile app
    is_apple: BoolArray
    hour_shift: FloatArray  # hours by which sessions come later than others'
    late_logit: FloatArray  # disposition to pay late
    is_browser: BoolArray
    device: IntArray  # number of the user's web device: the user's own or the one shared

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.consent)

    def levels(self, user: IntArray, time_ms: IntArray) -> FloatArray:
        """Slow needs of users at instants, (n, N)."""
        found = self.levels_UN[user]
        for kind, event in enumerate(needs.LIFE_EVENTS):
            # Of two events of one kind the stronger counts.
            some = np.flatnonzero(self.life_ULR[user, kind, 0] < NEVER_MS)
            age_ms = time_ms[some, None] - self.life_ULR[user[some], kind]
            strength = event.strength(age_ms).max(axis=1)
            for need, lift in event.lifts:
                found[some, needs.NEED_INDEX[need]] += lift * strength
        return found

    def consent_at(self, user: IntArray, time_ms: IntArray) -> IntArray:
        """Marketing consent of users at instants, index into MARKETING."""
        changed = time_ms >= self.consent_change_ms[user]
        return np.where(changed, self.consent_change[user], self.consent[user])


def user_ids(first: int, num_users: int) -> list[str]:
    """Ids of consecutive users, by number."""
    return [f"u{number:06d}" for number in range(first, first + num_users)]


def build_population(
    rng: np.random.Generator,
    num_users: int,
    history_start_ms: int,
    start_ms: int,
    end_ms: int,
    activity: float = 1.0,
) -> Population:
    """Draw the users of a bank whose log covers [history start, end), digital from `start_ms` on.

    `activity` scales the rates of sessions, purchases and contacts.
    """
    consent = rng.choice(len(CONSENT_SHARES), num_users, p=CONSENT_SHARES)
    decides = rng.random(num_users) < CONSENT_CHANGE_SHARE
    levels = _levels(rng, num_users)
    sessions = rng.gamma(1.5, MEAN_SESSIONS_PER_DAY / 1.5, num_users)
    has_salary = rng.random(num_users) < PAYDAY_SHARE
    shares = rng.random(num_users // 2) < SHARED_DEVICE_SHARE
    device = np.arange(num_users)
    device[1::2][: len(shares)] -= shares
    return Population(
        levels_UN=levels,
        life_ULR=_life_events(rng, num_users, history_start_ms, end_ms),
        policy_UN=levels + rng.normal(0, POLICY_NOISE, levels.shape),
        owned_since_UE=_owned_since(rng, num_users, start_ms),
        consent=consent,
        consent_change=np.where(consent == GRANTED, OPTED_OUT, GRANTED),
        consent_change_ms=np.where(decides, rng.integers(start_ms, end_ms, num_users), NEVER_MS),
        sessions_per_day=sessions * activity,
        spend_activity=rng.gamma(4.0, 0.25, num_users) * activity,
        contact_activity=np.full(num_users, activity),
        payday_offset=np.where(has_salary, rng.integers(0, 14, num_users), -1),
        salary_usd=np.exp(rng.normal(np.log(2100), 0.4, num_users)).round(2),
        app_share=rng.beta(2.0, 1.2, num_users),
        is_apple=rng.random(num_users) < 0.55,
        hour_shift=rng.normal(0, HOUR_SPREAD, num_users),
        late_logit=rng.normal(0, LATE_SPREAD, num_users),
        is_browser=rng.random(num_users) < BROWSER_SHARE,
        device=device,
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
    num_dominant = rng.choice(len(needs.DOMINANT_SHARES), num_users, p=needs.DOMINANT_SHARES)
    levels[:, :num_life] += needs.DOMINANT_LEVEL * (ranks < num_dominant[:, None])
    return levels


def _life_events(
    rng: np.random.Generator, num_users: int, history_start_ms: int, end_ms: int
) -> IntArray:
    """Starts of life events, (U, L, LIFE_REPEATS), the newest first."""
    first_ms = history_start_ms - needs.LIFE_LOOKBACK_MS
    years = (end_ms - first_ms) / needs.YEAR_MS
    shape = (num_users, len(needs.LIFE_EVENTS))
    rates = np.array([event.per_year for event in needs.LIFE_EVENTS])
    counts = rng.poisson(rates * years, shape)
    found = np.full((*shape, needs.LIFE_REPEATS), NEVER_MS)
    # The newest of n even draws lies at the largest of n uniforms, the next below it, and so on.
    newest = np.ones(shape)
    for place in range(needs.LIFE_REPEATS):
        left = counts - place
        newest *= rng.random(shape) ** (1 / np.maximum(left, 1))
        moment = first_ms + (newest * (end_ms - first_ms)).astype(np.int64)
        found[:, :, place] = np.where(left > 0, moment, NEVER_MS)
    return found


def _owned_since(rng: np.random.Generator, num_users: int, start_ms: int) -> IntArray:
    shares = np.array([OWNED_SHARE[name] for name in ENROLLMENTS])
    shape = (num_users, len(ENROLLMENTS))
    owns = rng.random(shape) < shares
    owns[~owns.any(axis=1), 0] = True  # a user of the bank owns something
    tenure_ms = (rng.exponential(MEAN_TENURE_DAYS, shape) * DAY_MS).astype(np.int64)
    return np.where(owns, start_ms - tenure_ms, NEVER_MS)

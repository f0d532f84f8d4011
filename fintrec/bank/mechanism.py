"""How a user reacts to a page: clicks, dismissals, goals, calls, complaints, fraud reports.

The simulator plays years of pages with it, and a live player the pages that were really served:
both give a `Moment` and what was shown, and keep a `Memory` of what came before. Parameters and
their reasons are in docs/simulated_bank.md.

Shapes: A users at one instant each (a user at most once), N needs, K slots of a page, I items,
E enrollments, O outcomes (`needs.OUTCOMES`), S sequences (`needs.SEQUENCES`), U users in memory.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS, HOUR_MS, MINUTE_MS
from fintrec.bank import needs, surfaces
from fintrec.bank.catalogue import NO_PRODUCT, Catalogue
from fintrec.bank.population import NEVER_MS, BoolArray, FloatArray, IntArray, Population
from fintrec.bank.visits import Triggers, fast_needs, newest_of_sequences, newest_outcomes

CLICK_INTERCEPT: Final = -3.1
NEED_WEIGHT: Final = 0.75
POSITION_EFFECT: Final = (0.0, -0.35, -0.6, -0.8, -0.95)
SEEN_TODAY: Final = -0.5
DISMISSED: Final = -2.0
DISMISS_RATE: Final = 0.006
DISMISS_MEMORY_MS: Final = 14 * DAY_MS
GOAL_NEED_WEIGHT: Final = 0.35
VIEW_GOAL_SHARE: Final = 0.015  # of the goal rate after a click, for an exposure without one
MAX_GOAL_RATE: Final = 0.8
GOAL_AFTER_MS: Final = MINUTE_MS  # no goal is reached faster

CALL_INTERCEPT: Final = -5.8
CALL_SUPPORT: Final = 0.6
CALL_DEAR_ITEM: Final = 0.35  # for each item of DEAR_USD or more on the page
CALL_AFTER_CONTACT_CLICK: Final = 3.0
CALL_AFTER_ANSWER_CLICK: Final = -1.2
CALL_WITHIN_MS: Final = 2 * HOUR_MS
DEAR_USD: Final = 200.0
COMPLAINT_INTERCEPT: Final = -7.6
COMPLAINT_SUPPORT: Final = 0.5
COMPLAINT_DISMISSED_AGAIN: Final = 1.5  # an item comes back that was dismissed
COMPLAINT_SEEN_TODAY: Final = 0.25  # for each item of the page seen in the last day
COMPLAINT_DELAY_MS: Final = 6 * HOUR_MS
FRAUD_AFTER_CLICK: Final = 0.02  # for each third-party item clicked
FRAUD_AFTER_VIEW: Final = 0.0003  # for each one shown
FRAUD_PROTECTED: Final = 0.4  # times, after a security item was clicked
FRAUD_WITHIN_MS: Final = 30 * DAY_MS
LATE_INTERCEPT: Final = -3.0
LATE_DEBT: Final = 0.4
LATE_REMINDED: Final = -0.25  # for each payment item shown after the statement, REMINDERS at most
LATE_REMINDERS: Final = 4
LATE_CLICKED: Final = -0.9  # a payment item was clicked after the statement
_PENDING: Final = 4  # outcomes of a kind that a user's memory holds


@dataclass(frozen=True, slots=True)
class Moment:
    """A users who look at a page.

    `user` numbers them in the memory; needs are without clicks and without outcomes of what was
    shown; `outcome_ms_AO` and `sequence_ms_AS` are when the newest trigger of those kinds came
    strictly before, -NEVER_MS for none.
    """

    user: IntArray
    time_ms: IntArray
    place: IntArray  # indexes surfaces.PLACES
    slow_AN: npt.NDArray[np.floating[Any]]
    fast_AN: npt.NDArray[np.floating[Any]]
    outcome_ms_AO: IntArray
    sequence_ms_AS: IntArray


def moment_at(
    people: Population, triggers: Triggers, user: IntArray, time_ms: IntArray, place: IntArray
) -> Moment:
    """The moment of users who look at places at instants, each a user at most once.

    `triggers` are those that nothing shown caused: what a memory holds is added by the mechanism.
    """
    return Moment(
        user,
        time_ms,
        place,
        people.levels(user, time_ms),
        fast_needs(triggers, user, time_ms),
        newest_outcomes(triggers, user, time_ms),
        newest_of_sequences(triggers, user, time_ms),
    )


@dataclass(frozen=True, slots=True)
class Reaction:
    """What A users did with a page, and how likely it was.

    Goal probabilities are those that this exposure leads to the item's goal at any time. `goal_*`
    and `outcome_*` are lists: row of the moment, (slot, item,) kind and instant.
    """

    clicked_AK: BoolArray
    dismissed_AK: BoolArray
    react_ms_AK: IntArray  # from the page to a click or dismissal
    click_probability_AK: FloatArray
    goal_if_clicked_AK: FloatArray
    goal_if_not_AK: FloatArray
    goal_row: IntArray
    goal_slot: IntArray
    goal_ms: IntArray
    outcome_row: IntArray
    outcome: IntArray  # place in needs.OUTCOMES
    outcome_ms: IntArray


class Memory:
    """What U users did so far, as far as it matters for what they do next."""

    def __init__(self, catalogue: Catalogue, owned_since_UE: IntArray) -> None:
        num_users = len(owned_since_UE)
        self.seen_ms = np.full((num_users, len(catalogue.items)), -NEVER_MS)
        self.dismissed_ms = np.full((num_users, len(catalogue.items)), -NEVER_MS)
        self.clicked_need_ms = np.full((num_users, len(needs.NEEDS)), -NEVER_MS)
        self.caused_ms = np.full((num_users, len(needs.OUTCOMES), _PENDING), NEVER_MS)
        # The newest trigger of each sequence that was looked at, and that came after a click.
        self.judged_ms = np.full((num_users, len(needs.SEQUENCES)), -NEVER_MS)
        self.armed_ms = np.full((num_users, len(needs.SEQUENCES)), -NEVER_MS)
        never = np.full((num_users, 1), NEVER_MS)
        self.owned_since_ms = np.concatenate((owned_since_UE, never), axis=1)


class Mechanism:
    """The mechanism for one catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._attention = np.array([place.attention for place in surfaces.PLACES])
        self._is_dear = np.array([item.value_usd >= DEAR_USD for item in catalogue.items])
        self._is_third_party = catalogue.of_type("third_party")
        self._is_contact = catalogue.of_offers("contact_us")
        self._is_answer = catalogue.of_offers("explain_fee", "update_profile")
        self._sequence_items = np.array([catalogue.of_offers(*s.offers) for s in needs.SEQUENCES])
        self._sequence_need = [needs.NEED_INDEX[s.clicked_need] for s in needs.SEQUENCES]
        self._within = np.array([s.within_ms for s in needs.SEQUENCES])
        self._half_life = np.array([s.half_life_ms for s in needs.SEQUENCES])
        self._lift = np.array([s.lift for s in needs.SEQUENCES])

    def needs_now(self, memory: Memory, moment: Moment) -> FloatArray:
        """Slow and fast needs, lifted by outcomes of what was shown before, (A, N)."""
        found = np.asarray(moment.slow_AN + moment.fast_AN, np.float64)
        for place, name in enumerate(needs.OUTCOMES):
            pending = memory.caused_ms[moment.user, place]
            some = np.flatnonzero((pending < moment.time_ms[:, None]).any(axis=1))
            if not len(some):
                continue
            trigger = needs.TRIGGERS[needs.TRIGGER_INDEX[name]]
            now = moment.time_ms[some]
            newest = np.where(pending[some] < now[:, None], pending[some], -NEVER_MS).max(axis=1)
            known = moment.outcome_ms_AO[some, place]
            is_newer = (newest > known) & (now - newest < needs.TRIGGER_MEMORY_MS)
            more = np.exp2((newest - now) / trigger.half_life_ms)
            more = is_newer * (more - np.exp2((known - now) / trigger.half_life_ms))
            for need, lift in trigger.lifts:
                found[some, needs.NEED_INDEX[need]] += lift * more
        return found

    def judge_sequences(self, memory: Memory, moment: Moment) -> None:
        """Note which new triggers came after a click on their need (`needs.SEQUENCES`)."""
        user, came = moment.user, moment.sequence_ms_AS
        is_new = came > memory.judged_ms[user]
        waited = came - memory.clicked_need_ms[user][:, self._sequence_need]
        in_order = (waited >= 0) & (waited <= self._within)
        armed = np.where(in_order, came, -NEVER_MS)
        memory.armed_ms[user] = np.where(is_new, armed, memory.armed_ms[user])
        memory.judged_ms[user] = np.maximum(came, memory.judged_ms[user])

    def click_logits(
        self, memory: Memory, moment: Moment, needs_AN: FloatArray, shown_AK: IntArray
    ) -> FloatArray:
        """Log odds that each shown item is clicked, (A, K); empty slots (-1) hold nonsense."""
        user, time_ms, who = moment.user, moment.time_ms[:, None], moment.user[:, None]
        row, need = np.arange(len(user))[:, None], self.catalogue.need[shown_AK]
        since = time_ms - memory.clicked_need_ms[who, need]
        interest = np.where(since < DAY_MS, np.exp2(-since / needs.CLICK_HALF_LIFE_MS), 0.0)
        fresh = self._lift * np.exp2((memory.armed_ms[user] - time_ms) / self._half_life)
        in_order = (fresh[:, :, None] * self._sequence_items[:, shown_AK].swapaxes(0, 1)).sum(
            axis=1
        )
        return np.asarray(
            CLICK_INTERCEPT
            + NEED_WEIGHT * needs_AN[row, need]
            + needs.CLICK_LIFT * interest
            + in_order
            + self.catalogue.quality[shown_AK]
            + np.array(POSITION_EFFECT)[: shown_AK.shape[1]]
            + self._attention[moment.place][:, None]
            + SEEN_TODAY * (time_ms - memory.seen_ms[who, shown_AK] < DAY_MS)
            + DISMISSED * (time_ms - memory.dismissed_ms[who, shown_AK] < DISMISS_MEMORY_MS)
        )

    def goal_probabilities(
        self, needs_AN: FloatArray, shown_AK: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Probabilities that an exposure leads to its goal, with and without a click, (A, K)."""
        row = np.arange(len(shown_AK))[:, None]
        wants = needs_AN[row, self.catalogue.need[shown_AK]]
        rate = self.catalogue.goal_rate[shown_AK] * np.exp(GOAL_NEED_WEIGHT * wants)
        return np.minimum(rate, MAX_GOAL_RATE), np.minimum(rate * VIEW_GOAL_SHARE, MAX_GOAL_RATE)

    def within_window(self, window_days: FloatArray | None = None) -> FloatArray:
        """Share of an exposure's goals that are reached within an attribution window, (I,)."""
        days = self.catalogue.window_days if window_days is None else window_days
        left = np.maximum(days - GOAL_AFTER_MS / DAY_MS, 0)
        return np.asarray(1 - np.exp(-left / self.catalogue.lag_days))

    def outcome_probabilities(
        self,
        memory: Memory,
        moment: Moment,
        needs_AN: FloatArray,
        shown_AK: IntArray,
        clicked_AK: BoolArray,
    ) -> FloatArray:
        """Probabilities of a call, a complaint and a fraud report caused by the page, (A, O).

        Ask before the page is remembered.
        """
        some, who, time_ms = shown_AK >= 0, moment.user[:, None], moment.time_ms[:, None]
        support = needs_AN[:, needs.NEED_INDEX["support"]]

        def num(flags: BoolArray, among: BoolArray) -> IntArray:
            return np.asarray((flags[shown_AK] & among).sum(axis=1))

        call = (
            CALL_INTERCEPT
            + CALL_SUPPORT * support
            + CALL_DEAR_ITEM * num(self._is_dear, some)
            + CALL_AFTER_CONTACT_CLICK * (num(self._is_contact, clicked_AK) > 0)
            + CALL_AFTER_ANSWER_CLICK * (num(self._is_answer, clicked_AK) > 0)
        )
        again = time_ms - memory.dismissed_ms[who, shown_AK] < DISMISS_MEMORY_MS
        seen = time_ms - memory.seen_ms[who, shown_AK] < DAY_MS
        complaint = (
            COMPLAINT_INTERCEPT
            + COMPLAINT_SUPPORT * support
            + COMPLAINT_DISMISSED_AGAIN * (again & some).any(axis=1)
            + COMPLAINT_SEEN_TODAY * (seen & some).sum(axis=1)
        )
        since = moment.time_ms - memory.clicked_need_ms[moment.user, needs.NEED_INDEX["security"]]
        fraud = np.where(since < FRAUD_WITHIN_MS, FRAUD_PROTECTED, 1.0) * (
            FRAUD_AFTER_CLICK * num(self._is_third_party, clicked_AK)
            + FRAUD_AFTER_VIEW * num(self._is_third_party, some)
        )
        return np.column_stack((sigmoid(call), sigmoid(complaint), fraud))

    def play(
        self, rng: np.random.Generator, memory: Memory, moment: Moment, shown_AK: IntArray
    ) -> Reaction:
        """Let the users react to what they are shown (-1: an empty slot), and remember it."""
        some = shown_AK >= 0
        self.judge_sequences(memory, moment)
        wants = self.needs_now(memory, moment)
        chance = sigmoid(self.click_logits(memory, moment, wants, shown_AK)) * some
        draw = rng.random(chance.shape)
        clicked = draw < chance
        dismissed = some & ~clicked & (draw > 1 - DISMISS_RATE)
        react_ms = rng.integers(2_000, 14_000, chance.shape)
        if_clicked, if_not = self.goal_probabilities(wants, shown_AK)
        outcomes = self.outcome_probabilities(memory, moment, wants, shown_AK, clicked)
        outcome_row, outcome = np.nonzero(rng.random(outcomes.shape) < outcomes)
        outcome_ms = moment.time_ms[outcome_row] + outcome_delay_ms(rng, outcome)
        self._remember(memory, moment, shown_AK, clicked, dismissed)
        _remember_outcomes(memory, moment.user[outcome_row], outcome, outcome_ms)
        goal_chance = np.where(clicked, if_clicked, if_not) * some
        row, slot, goal_ms = self._reach(rng, memory, moment, shown_AK, goal_chance)
        return Reaction(
            clicked,
            dismissed,
            react_ms,
            chance,
            if_clicked,
            if_not,
            row,
            slot,
            goal_ms,
            outcome_row,
            outcome,
            outcome_ms,
        )

    def _remember(
        self,
        memory: Memory,
        moment: Moment,
        shown_AK: IntArray,
        clicked: BoolArray,
        dismissed: BoolArray,
    ) -> None:
        user, time_ms = moment.user, moment.time_ms
        row, slot = np.nonzero(shown_AK >= 0)
        memory.seen_ms[user[row], shown_AK[row, slot]] = time_ms[row]
        row, slot = np.nonzero(dismissed)
        memory.dismissed_ms[user[row], shown_AK[row, slot]] = time_ms[row]
        row, slot = np.nonzero(clicked)
        memory.clicked_need_ms[user[row], self.catalogue.need[shown_AK[row, slot]]] = time_ms[row]

    def _reach(
        self,
        rng: np.random.Generator,
        memory: Memory,
        moment: Moment,
        shown_AK: IntArray,
        chance_AK: FloatArray,
    ) -> tuple[IntArray, IntArray, IntArray]:
        """(row, slot, instant) of goals that the page leads to; opens the products they open."""
        row, slot = np.nonzero(rng.random(chance_AK.shape) < chance_AK)
        item, user = shown_AK[row, slot], moment.user[row]
        lag = rng.exponential(self.catalogue.lag_days[item]) * DAY_MS
        time_ms = moment.time_ms[row] + GOAL_AFTER_MS + lag.astype(np.int64)
        opens = self.catalogue.enrolls[item]
        # A product is opened once: a later goal of an open product never happens.
        kept = (opens == NO_PRODUCT) | (memory.owned_since_ms[user, opens] > time_ms)
        fresh = kept & (opens != NO_PRODUCT)
        np.minimum.at(memory.owned_since_ms, (user[fresh], opens[fresh]), time_ms[fresh])
        return row[kept], slot[kept], time_ms[kept]


def outcome_delay_ms(rng: np.random.Generator, outcome: IntArray) -> IntArray:
    """How long after the page each outcome (place in needs.OUTCOMES) comes, (n,)."""
    call = rng.uniform(MINUTE_MS, CALL_WITHIN_MS, len(outcome))
    complaint = MINUTE_MS + rng.exponential(COMPLAINT_DELAY_MS, len(outcome))
    fraud = MINUTE_MS + rng.beta(1, 3, len(outcome)) * (FRAUD_WITHIN_MS - MINUTE_MS)
    return np.choose(outcome, (call, complaint, fraud)).astype(np.int64)


def _remember_outcomes(
    memory: Memory, user: IntArray, outcome: IntArray, time_ms: IntArray
) -> None:
    for who, which, when in zip(user.tolist(), outcome.tolist(), time_ms.tolist(), strict=True):
        pending = memory.caused_ms[who, which]
        # The one furthest in the past, or never, gives way.
        place = int(np.argmin(np.where(pending == NEVER_MS, -NEVER_MS, pending)))
        pending[place] = when


def late_probability(
    late_logit: FloatArray, debt: FloatArray, num_reminders: IntArray, has_clicked: BoolArray
) -> FloatArray:
    """Probability that a card statement is paid after its due date, (n,).

    `num_reminders` counts payment items shown between the statement and its due date.
    """
    return sigmoid(
        LATE_INTERCEPT
        + late_logit
        + LATE_DEBT * debt
        + LATE_REMINDED * np.minimum(num_reminders, LATE_REMINDERS)
        + LATE_CLICKED * has_clicked
    )


def sigmoid(logits: FloatArray) -> FloatArray:
    """Probability of log odds."""
    return np.asarray(1 / (1 + np.exp(-logits)))

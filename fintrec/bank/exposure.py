"""Which items each page showed, and what came of it, page after page.

Pages are worked through in order, the k-th page of every user at once, since what was clicked,
dismissed and opened changes what comes next (`mechanism.py`).

Shapes: P pages, K slots of a page (MAX_SLOTS), E enrollments.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.spec import ENROLLMENTS
from fintrec.bank import surfaces
from fintrec.bank.catalogue import Catalogue
from fintrec.bank.goals import CLICK, EXPOSURE, Goals
from fintrec.bank.mechanism import Mechanism, Memory, Moment
from fintrec.bank.policy import LoggingPolicy
from fintrec.bank.population import BoolArray, FloatArray, IntArray, Population
from fintrec.bank.visits import Contacts, Float32Array, Pages


@dataclass(frozen=True, slots=True)
class Exposure:
    """What each page showed and what came of it, P pages in the pages' order.

    Goal probabilities are those of ever reaching the goal because of this exposure.
    """

    shown_PK: npt.NDArray[np.int16]  # item by position, -1 none
    propensity_PK: FloatArray
    clicked_PK: BoolArray
    dismissed_PK: BoolArray
    react_ms_PK: npt.NDArray[np.int32]  # from the page to a click or dismissal
    click_probability_PK: Float32Array
    goal_if_clicked_PK: Float32Array
    goal_if_not_PK: Float32Array


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What followed from the pages: goals, contacts they caused, who owns what since when (U, E)."""

    goals: Goals
    contacts: Contacts
    owned_since_UE: IntArray


def simulate_exposure(
    rng: np.random.Generator, people: Population, catalogue: Catalogue, pages: Pages
) -> tuple[Exposure, Aftermath]:
    """Work through all pages."""
    out = _blank(len(pages.user))
    mechanism, policy = Mechanism(catalogue), LoggingPolicy(catalogue, people)
    memory = Memory(catalogue, people.owned_since_UE)
    counts = np.bincount(pages.user, minlength=people.num_users)
    first = np.cumsum(counts) - counts
    goals: list[tuple[IntArray, ...]] = []
    contacts: list[tuple[IntArray, ...]] = []
    for turn in range(int(counts.max(initial=0))):
        at = (first + turn)[counts > turn]
        moment = moment_of(pages, at)
        shown, chance = policy.show(rng, memory, moment.user, moment.time_ms, moment.place)
        found = mechanism.play(rng, memory, moment, shown)
        out.shown_PK[at], out.propensity_PK[at] = shown, chance
        out.clicked_PK[at], out.dismissed_PK[at] = found.clicked_AK, found.dismissed_AK
        out.react_ms_PK[at] = found.react_ms_AK
        out.click_probability_PK[at] = found.click_probability_AK
        out.goal_if_clicked_PK[at] = found.goal_if_clicked_AK
        out.goal_if_not_PK[at] = found.goal_if_not_AK
        row, slot = found.goal_row, found.goal_slot
        cause = np.where(found.clicked_AK[row, slot], CLICK, EXPOSURE)
        goals.append((moment.user[row], found.goal_ms, shown[row, slot], cause, at[row]))
        contacts.append((moment.user[found.outcome_row], found.outcome_ms, found.outcome))
    return out, Aftermath(
        Goals(*_columns(goals, 5)),
        Contacts(*_columns(contacts, 3)),
        memory.owned_since_ms[:, : len(ENROLLMENTS)],
    )


def moment_of(pages: Pages, at: IntArray) -> Moment:
    """Some pages, of different users, as a moment."""
    return Moment(
        pages.user[at],
        pages.time_ms[at],
        pages.place[at],
        pages.slow_PN[at],
        pages.fast_PN[at],
        pages.outcome_ms_PO[at],
        pages.sequence_ms_PS[at],
    )


def _blank(num_pages: int) -> Exposure:
    shape = (num_pages, surfaces.MAX_SLOTS)
    return Exposure(
        np.full(shape, -1, np.int16),
        np.zeros(shape),
        np.zeros(shape, bool),
        np.zeros(shape, bool),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
    )


def _columns(parts: list[tuple[IntArray, ...]], width: int) -> list[npt.NDArray[Any]]:
    if not parts:
        return [np.empty(0, np.int64)] * width
    return [np.concatenate(column) for column in zip(*parts, strict=True)]

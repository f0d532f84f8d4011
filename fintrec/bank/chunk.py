"""One chunk of users: everything that happens to them, as arrays. Chunks are independent."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from fintrec.bank import needs
from fintrec.bank.browsing import Browsing, simulate_browsing
from fintrec.bank.catalogue import Catalogue, build_catalogue
from fintrec.bank.exposure import Exposure, simulate_exposure
from fintrec.bank.goals import Goals, happening, unexposed_goals
from fintrec.bank.money import Money, joined, simulate_money
from fintrec.bank.payments import simulate_payments
from fintrec.bank.population import BoolArray, IntArray, Population, build_population
from fintrec.bank.visits import (
    Contacts,
    Pages,
    Sessions,
    find_triggers,
    simulate_contacts,
    simulate_pages,
    simulate_sessions,
)

_CATALOGUE, _CHUNKS = 0, 1  # branches of the seed's tree
_STAGES: Final = (
    "people",
    "money",
    "contacts",
    "sessions",
    "browsing",
    "pages",
    "exposure",
    "goals",
    "payments",
    "values",
    "demographics",
)


@dataclass(frozen=True, slots=True)
class Span:
    """The period of a log: [history start, end), digital sessions from `start_ms` on."""

    history_start_ms: int
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What happened to consecutive users; user numbers within arrays start at 0."""

    seed: int
    number: int
    first_user: int
    span: Span
    catalogue: Catalogue
    people: Population
    money: Money
    contacts: Contacts
    sessions: Sessions
    browsing: Browsing
    pages: Pages
    exposure: Exposure
    goals: Goals
    owned_since_UE: IntArray  # at the end of the log

    def name(self, kind: str) -> str:
        """Start of ids of a kind; no other chunk or seed has it."""
        return f"{kind}-{self.seed}-{self.number}-"


def catalogue_of(seed: int, span: Span) -> Catalogue:
    """The catalogue of a seed; all chunks share it."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_CATALOGUE,)))
    return build_catalogue(rng, span.start_ms, span.end_ms)


def stage_rng(seed: int, number: int, stage: str) -> np.random.Generator:
    """The generator of one stage of a chunk."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_CHUNKS, number))
    return np.random.default_rng(sequence.spawn(len(_STAGES))[_STAGES.index(stage)])


def simulate_chunk(
    seed: int, number: int, first_user: int, num_users: int, span: Span, activity: float = 1.0
) -> Chunk:
    """Simulate chunk `number`, whose users are numbered from `first_user` on.

    Every stage draws from its own generator, so a change of one leaves the others' draws alone.
    """
    rng = {stage: stage_rng(seed, number, stage) for stage in _STAGES}
    history, start, end = span.history_start_ms, span.start_ms, span.end_ms
    catalogue = catalogue_of(seed, span)
    people = build_population(rng["people"], num_users, history, start, end, activity)
    money = simulate_money(rng["money"], people, history, end)
    contacts = simulate_contacts(rng["contacts"], people, money, history, end)
    triggers = find_triggers(money, contacts, start - needs.TRIGGER_MEMORY_MS)
    sessions = simulate_sessions(rng["sessions"], people, triggers, start, end)
    browsing = simulate_browsing(rng["browsing"], people, triggers, sessions, start, end)
    pages = simulate_pages(rng["pages"], people, triggers, sessions)
    exposure, after = simulate_exposure(rng["exposure"], people, catalogue, pages)
    alone = unexposed_goals(rng["goals"], people, catalogue, triggers, start, end)
    serves = catalogue.need == needs.NEED_INDEX["payment"]
    paid = simulate_payments(
        rng["payments"],
        people,
        money,
        _of_items(pages, exposure, exposure.shown_PK >= 0, serves),
        _of_items(pages, exposure, exposure.clicked_PK, serves),
        end,
    )
    happened = after.contacts.time_ms < end
    return Chunk(
        seed=seed,
        number=number,
        first_user=first_user,
        span=span,
        catalogue=catalogue,
        people=people,
        money=joined([money, paid]),
        contacts=Contacts(
            np.concatenate((contacts.user, after.contacts.user[happened])),
            np.concatenate((contacts.time_ms, after.contacts.time_ms[happened])),
            np.concatenate((contacts.which, after.contacts.which[happened])),
        ),
        sessions=sessions,
        browsing=browsing,
        pages=pages,
        exposure=exposure,
        goals=happening([after.goals, alone], catalogue, start, end),
        owned_since_UE=after.owned_since_UE,
    )


def _of_items(
    pages: Pages, exposure: Exposure, flags_PK: BoolArray, items: BoolArray
) -> tuple[IntArray, IntArray]:
    """(user, instant) of the flagged slots that hold some of the items."""
    page, _ = np.nonzero(flags_PK & items[exposure.shown_PK])
    return pages.user[page], pages.time_ms[page]

"""What the users of a simulated log do after its end, all but how they react to slates.

The bank's own functions go on where the log stopped: purchases, salaries, fees, contacts, the
sessions that habits and triggers cause, and the pages of each session with the needs that the user
brings along. What a page shows, and so every reaction, is left to the player.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np

from fintrec import logs
from fintrec.bank import truth
from fintrec.bank.browsing import Browsing, simulate_browsing
from fintrec.bank.catalogue import Catalogue
from fintrec.bank.goals import Goals, unexposed_goals
from fintrec.bank.mechanism import Memory
from fintrec.bank.money import Money, simulate_money
from fintrec.bank.population import Population
from fintrec.bank.visits import (
    Contacts,
    Pages,
    Sessions,
    Triggers,
    find_triggers,
    simulate_contacts,
    simulate_pages,
    simulate_sessions,
)
from streams.live.past import recent_memory, recent_triggers

_STAGES: Final = ("users", "money", "contacts", "sessions", "browsing", "pages", "goals")
_LIVE: Final = 0x11FE  # keeps these draws apart from the simulator's of the same seed


@dataclass(frozen=True, slots=True)
class Future:
    """Events of [start_ms, end_ms) by the bank's clock; user numbers index `users`.

    `log_seed` is the log's own seed, which names its devices.
    """

    users: tuple[str, ...]
    log_seed: int
    start_ms: int
    end_ms: int
    people: Population
    catalogue: Catalogue
    money: Money
    contacts: Contacts
    goals: Goals
    sessions: Sessions
    browsing: Browsing
    pages: Pages

    def device_of(self, user: int) -> str:
        """Anonymous id of the device that a user browses with."""
        return f"dev-{self.log_seed}-{self.people.device[user]}"

    @property
    def entities(self) -> set[str]:
        """Everybody whose records a run may send: users, and the devices of anonymous visitors."""
        return {*self.users, *map(self.device_of, range(len(self.users)))}


class TooManyUsers(ValueError):
    """More users were asked for than the log has."""


def draw_future(
    log_dir: Path, num_users: int | None, seed: int, length_ms: int
) -> tuple[Future, Memory]:
    """The time after a log's end for some of its users (None: all), and what they remember.

    Raises LogError where the log has no hidden truth or no end, or either is broken, and
    TooManyUsers.
    """
    if not log_dir.is_dir():
        raise logs.LogError(f"{log_dir}: no such folder, expected a log of `fintrec simulate`")
    start_ms, log_seed = (_of_manifest(log_dir, name) for name in ("end_ms", "seed"))
    end_ms = start_ms + length_ms
    names, everyone = truth.read_users(log_dir, as_of_end=True)
    sequence = np.random.SeedSequence([seed, _LIVE])
    rng = {
        stage: np.random.default_rng(branch)
        for stage, branch in zip(_STAGES, sequence.spawn(len(_STAGES)), strict=True)
    }
    chosen = _chosen(rng["users"], len(names), num_users)
    users = tuple(names[number] for number in chosen.tolist())
    people = Population(**{f.name: getattr(everyone, f.name)[chosen] for f in fields(Population)})
    catalogue = truth.read_catalogue(log_dir)
    money = simulate_money(rng["money"], people, start_ms, end_ms)
    contacts = simulate_contacts(rng["contacts"], people, money, start_ms, end_ms)
    triggers = _both(recent_triggers(log_dir, users, start_ms), find_triggers(money, contacts))
    sessions = simulate_sessions(rng["sessions"], people, triggers, start_ms, end_ms)
    browsing = simulate_browsing(rng["browsing"], people, triggers, sessions, start_ms, end_ms)
    pages = simulate_pages(rng["pages"], people, triggers, sessions)
    alone = unexposed_goals(rng["goals"], people, catalogue, triggers, start_ms, end_ms)
    inside = (alone.time_ms >= start_ms) & (alone.time_ms < end_ms)
    future = Future(
        users=users,
        log_seed=log_seed,
        start_ms=start_ms,
        end_ms=end_ms,
        people=people,
        catalogue=catalogue,
        money=money,
        contacts=contacts,
        goals=alone.of(inside),
        sessions=sessions,
        browsing=browsing,
        pages=pages,
    )
    return future, recent_memory(log_dir, users, people, catalogue, start_ms)


def _of_manifest(log_dir: Path, name: str) -> int:
    found = logs.read_manifest(log_dir).get(name)
    if not isinstance(found, int):
        raise logs.LogError(
            f"{log_dir / logs.MANIFEST}: {name!r} is {found!r}, expected a whole number: "
            f"only a log of `fintrec simulate` has a bank behind it"
        )
    return found


def _chosen(
    rng: np.random.Generator, num_known: int, num_users: int | None
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if num_users is None:
        return np.arange(num_known)
    if not 0 < num_users <= num_known:
        raise TooManyUsers(f"{num_users} users asked for, the log has {num_known}")
    return np.sort(rng.permutation(num_known)[:num_users])


def _both(one: Triggers, other: Triggers) -> Triggers:
    return Triggers(
        *(np.concatenate((getattr(one, n), getattr(other, n))) for n in Triggers.__slots__)
    )

"""What the last days of a simulated log left behind in its users: triggers, and what they saw.

Only the last TRIGGER_MEMORY_MS count: older triggers lift nothing, older dismissals are forgotten.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fintrec import logs
from fintrec.bank import needs
from fintrec.bank.catalogue import Catalogue
from fintrec.bank.mechanism import Memory
from fintrec.bank.money import ACCOUNTS, CHANNELS, KINDS, MCC_NAMES, MERCHANTS, Money
from fintrec.bank.population import IntArray, Population
from fintrec.bank.visits import CONTACTS, Contacts, Triggers, find_triggers


def recent_triggers(log_dir: Path, users: Sequence[str], end_ms: int) -> Triggers:
    """Triggers of the users in the log's last days."""
    place = {user: number for number, user in enumerate(users)}
    since_ms = end_ms - needs.TRIGGER_MEMORY_MS
    return find_triggers(
        _money(log_dir, place, since_ms), _contacts(log_dir, place, since_ms), since_ms
    )


def recent_memory(
    log_dir: Path, users: Sequence[str], people: Population, catalogue: Catalogue, end_ms: int
) -> Memory:
    """What the users were shown, clicked and dismissed in the log's last days."""
    memory = Memory(catalogue, people.owned_since_UE)
    place = {user: number for number, user in enumerate(users)}
    item_place = {item.item_id: number for number, item in enumerate(catalogue.items)}
    for table in _days(log_dir, logs.CLICKSTREAM, end_ms - needs.TRIGGER_MEMORY_MS):
        user, item = _places(table, "user_id", place), _places(table, "item_id", item_place)
        time_ms, action = logs.integers(table, "event_time_ms"), logs.coded(table, "action")
        known = (user >= 0) & (item >= 0)
        for name, kept in (("impression", memory.seen_ms), ("dismiss", memory.dismissed_ms)):
            rows = np.flatnonzero(known & _is(action, name))
            np.maximum.at(kept, (user[rows], item[rows]), time_ms[rows])
        rows = np.flatnonzero(known & _is(action, "click"))
        need = catalogue.need[item[rows]]
        np.maximum.at(memory.clicked_need_ms, (user[rows], need), time_ms[rows])
    return memory


def _money(log_dir: Path, place: Mapping[str, int], since_ms: int) -> Money:
    names = {
        "kind": KINDS,
        "mcc": MCC_NAMES,
        "merchant": MERCHANTS,
        "account": ACCOUNTS,
        "channel": CHANNELS,
    }
    parts = []
    for table in _days(log_dir, logs.TRANSACTIONS, since_ms):
        user = _places(table, "user_id", place)
        codes = {
            column: _places(table, column, {name: code for code, name in enumerate(known)})
            for column, known in names.items()
        }
        # What the bank does not know by name is no trigger.
        known = np.flatnonzero((user >= 0) & (np.stack(list(codes.values())) >= 0).all(axis=0))
        parts.append(
            Money(
                user=user[known].astype(np.int32),
                time_ms=logs.integers(table, "event_time_ms")[known],
                amount_usd=table["amount_usd"].to_numpy()[known],
                **{column: code[known].astype(np.int16) for column, code in codes.items()},
            )
        )
    return Money(*(np.concatenate([getattr(p, n) for p in parts]) for n in Money.__slots__))


def _contacts(log_dir: Path, place: Mapping[str, int], since_ms: int) -> Contacts:
    kinds = {name: code for code, name in enumerate(CONTACTS)}
    users, times, which = [], [], []
    for table in _days(log_dir, logs.CLICKSTREAM, since_ms):
        user, kind = _places(table, "user_id", place), _places(table, "action", kinds)
        some = np.flatnonzero((user >= 0) & (kind >= 0))
        users.append(user[some])
        times.append(logs.integers(table, "event_time_ms")[some])
        which.append(kind[some])
    return Contacts(np.concatenate(users), np.concatenate(times), np.concatenate(which))


def _days(log_dir: Path, name: str, since_ms: int) -> list[Any]:
    """Tables of the days that touch what is at or after an instant, and an empty one."""
    days = [day for day in logs.days_of(log_dir, name) if logs.day_end_ms(day) > since_ms]
    return [logs.read_table(log_dir, name, [day]) for day in days] + [
        logs.read_table(log_dir, name, [])
    ]


def _places(table: Any, column: str, place: Mapping[str, int]) -> IntArray:
    return logs.coded(table, column).mapped(lambda name: place.get(name, -1))


def _is(action: Any, name: str) -> npt.NDArray[np.bool_]:
    return np.asarray(action.mapped(lambda found: int(found == name)) == 1)

"""One simulated bank from a size, a seed and the instant where its log ends, as a LOG_DIR."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.records import MARKETING
from features.spec import CUTOFF_HOUR_UTC, DAY_MS, ENROLLMENTS, HOUR_MS
from fintrec import logs
from fintrec.bank import surfaces
from fintrec.bank.catalogue import NO_PRODUCT, Catalogue, build_catalogue
from fintrec.bank.exposure import Exposure, Goals, simulate_exposure, unexposed_goals
from fintrec.bank.money import Money, simulate_money
from fintrec.bank.population import (
    NEVER_MS,
    UNKNOWN,
    IntArray,
    Population,
    build_population,
    user_ids,
)
from fintrec.bank.visits import (
    Contacts,
    Pages,
    Sessions,
    find_triggers,
    simulate_contacts,
    simulate_pages,
    simulate_sessions,
)


@dataclass(frozen=True, slots=True)
class BankSize:
    """How many users, and over how many days."""

    name: str
    num_users: int
    num_days: int


SIZES: Final = {
    size.name: size
    for size in (
        BankSize("tiny", 200, 24),
        BankSize("demo", 1_500, 40),
        BankSize("small", 5_000, 104),
    )
}
_READABLE_AFTER_MS: Final = 2 * HOUR_MS  # the nightly batch runs this long
_HUMAN: Final = {"call": "call_center", "branch": "branch"}


@dataclass(frozen=True, slots=True)
class SimulatedLog:
    """What was written: rows by table, and the seconds it took."""

    manifest: dict[str, Any]
    seconds: float

    @property
    def num_events(self) -> int:
        """Rows of the event topics."""
        rows = self.manifest["rows"]
        return sum(rows[name] for name in logs.EVENT_TABLES)


def simulate(size: BankSize, seed: int, end_ms: int, log_dir: Path) -> SimulatedLog:
    """Simulate a bank over [end - days, end) and write its LOG_DIR.

    The same arguments write the same bytes. Raises ValueError where LOG_DIR holds files already.
    """
    if log_dir.exists() and any(log_dir.iterdir()):
        raise ValueError(f"{log_dir} is not empty, expected a new or empty directory")
    began = time.perf_counter()
    start_ms = end_ms - size.num_days * DAY_MS
    tables = bank_tables(size.num_users, seed, start_ms, end_ms)
    rows = {name: logs.write_table(log_dir, name, table) for name, table in tables.items()}
    manifest = {
        "made_by": "fintrec simulate",
        "size": size.name,
        "seed": seed,
        "num_users": size.num_users,
        "start_ms": start_ms,
        "end_ms": end_ms,
        "rows": rows,
    }
    logs.write_manifest(log_dir, manifest)
    return SimulatedLog(manifest, time.perf_counter() - began)


def bank_tables(num_users: int, seed: int, start_ms: int, end_ms: int) -> dict[str, pa.Table]:
    """All tables of a LOG_DIR for a bank that lives over [start_ms, end_ms)."""
    streams = np.random.default_rng(seed).spawn(9)
    people = build_population(streams[0], num_users, start_ms, end_ms)
    catalogue = build_catalogue(streams[1], start_ms, end_ms)
    money = simulate_money(streams[2], people, start_ms, end_ms)
    contacts = simulate_contacts(streams[3], people, money, start_ms, end_ms)
    triggers = find_triggers(money, contacts)
    sessions = simulate_sessions(streams[4], people, triggers, start_ms, end_ms)
    pages = simulate_pages(streams[5], people, triggers, sessions)
    exposure, caused, owned_since = simulate_exposure(streams[6], people, catalogue, pages)
    alone = unexposed_goals(streams[7], people, catalogue, triggers, owned_since, start_ms, end_ms)
    goals = _goals(caused, alone, catalogue, end_ms)
    ids = pa.array(user_ids(num_users))
    return {
        logs.CLICKSTREAM: _clickstream(
            ids, seed, catalogue, sessions, pages, exposure, contacts, end_ms
        ),
        logs.TRANSACTIONS: _transactions(ids, seed, money),
        logs.CONVERSIONS: _conversions(streams[8], ids, seed, catalogue, goals),
        logs.CONSENTS: _consents(ids, people, start_ms),
        logs.ITEMS: pa.Table.from_pylist(
            [msgspec.to_builtins(item) for item in catalogue.items], logs.SCHEMAS[logs.ITEMS]
        ),
        logs.USER_STATIC_TABLE: _user_static(ids, owned_since, start_ms, end_ms),
    }


def _goals(caused: Goals, alone: Goals, catalogue: Catalogue, end_ms: int) -> Goals:
    """All goals before the end, by time; a product is opened by the first of its goals only."""
    user = np.concatenate((caused.user, alone.user))
    time_ms = np.concatenate((caused.time_ms, alone.time_ms))
    item = np.concatenate((caused.item, alone.item))
    order = np.lexsort((item, user, time_ms))
    user, time_ms, item = user[order], time_ms[order], item[order]
    opens = catalogue.enrolls[item]
    key = user * (NO_PRODUCT + 1) + opens
    _, firsts = np.unique(key, return_index=True)
    kept = (opens == NO_PRODUCT) | np.isin(np.arange(len(key)), firsts)
    kept &= time_ms < end_ms
    return Goals(user[kept], time_ms[kept], item[kept])


def _named(names: pa.Array, places: npt.NDArray[np.integer[Any]]) -> pa.Array:
    """Names by place, "" for place -1."""
    return pc.fill_null(names.take(pa.array(places, mask=places < 0)), "")


def _numbered(prefix: str, numbers: IntArray) -> pa.Array:
    """Ids `prefix` + number, "" for -1."""
    text = pc.cast(pa.array(numbers, mask=numbers < 0), pa.string())
    return pc.fill_null(pc.binary_join_element_wise(prefix, text, ""), "")


@dataclass(frozen=True, slots=True)
class _Part:
    """Some rows of the clickstream, by place in the simulation's arrays; -1 or "" for none."""

    user: IntArray
    time_ms: IntArray
    action: str | npt.NDArray[np.str_]
    session: IntArray
    page: IntArray
    position: IntArray
    item: IntArray


def _clickstream(
    ids: pa.Array,
    seed: int,
    catalogue: Catalogue,
    sessions: Sessions,
    pages: Pages,
    exposure: Exposure,
    contacts: Contacts,
    end_ms: int,
) -> pa.Table:
    parts = [
        *_session_parts(sessions, pages, exposure),
        *_page_parts(pages, exposure),
        _blank_part(contacts.user, contacts.time_ms, contacts.action),
    ]
    tables = []
    item_ids = pa.array([item.item_id for item in catalogue.items])
    for part in parts:
        tables.append(_interactions(part, ids, seed, item_ids, sessions, pages))
    table = pa.concat_tables(tables)
    table = table.filter(pc.less(table["event_time_ms"], end_ms))
    numbers = np.arange(table.num_rows)
    return table.append_column("event_id", _numbered(f"clk-{seed}-", numbers))


def _blank_part(
    user: IntArray,
    time_ms: IntArray,
    action: str | npt.NDArray[np.str_],
    session: IntArray | None = None,
) -> _Part:
    none = np.full(len(user), -1)
    return _Part(user, time_ms, action, none if session is None else session, none, none * 0, none)


def _session_parts(sessions: Sessions, pages: Pages, exposure: Exposure) -> list[_Part]:
    number = np.arange(len(sessions.user))
    last = sessions.start_ms.copy()
    acted = exposure.clicked_PK | exposure.dismissed_PK
    reacted = np.where(acted, exposure.react_ms_PK, 0).max(axis=1, initial=0)
    np.maximum.at(last, pages.session, pages.time_ms + reacted)
    # Two of three sessions end by a logout; the others just stop.
    leaves = np.flatnonzero(number % 3 != 0)
    return [
        _blank_part(sessions.user, sessions.start_ms, "login", number),
        _blank_part(sessions.user[leaves], last[leaves] + 5_000, "logout", leaves),
    ]


def _page_parts(pages: Pages, exposure: Exposure) -> list[_Part]:
    every = np.arange(len(pages.user))
    none = np.full(len(every), -1)
    parts = [_Part(pages.user, pages.time_ms, "page_view", pages.session, every, none * 0, none)]
    for action, flags, waits in (
        ("impression", exposure.shown_PK >= 0, False),
        ("click", exposure.clicked_PK, True),
        ("dismiss", exposure.dismissed_PK, True),
    ):
        page, slot = np.nonzero(flags)
        wait = exposure.react_ms_PK[page, slot] if waits else 0
        parts.append(
            _Part(
                pages.user[page],
                pages.time_ms[page] + wait,
                action,
                pages.session[page],
                page,
                slot + 1,
                exposure.shown_PK[page, slot],
            )
        )
    return parts


def _interactions(
    part: _Part,
    ids: pa.Array,
    seed: int,
    item_ids: pa.Array,
    sessions: Sessions,
    pages: Pages,
) -> pa.Table:
    size = len(part.user)
    on_page = part.page >= 0
    place = np.where(on_page, pages.place[part.page], -1)
    with_session = part.session >= 0
    if with_session.all():
        channel = pa.array(sessions.channel[part.session])
        device = pa.array(sessions.device[part.session])
    else:
        contacted = np.asarray(part.action)
        channel = pa.array([_HUMAN.get(str(action), "call_center") for action in contacted])
        device = pa.array(np.where(contacted == "branch", "terminal", "phone"))
    action = part.action
    return pa.table(
        {
            "user_id": ids.take(pa.array(part.user)),
            "event_time_ms": pa.array(part.time_ms),
            "session_id": _numbered(f"ses-{seed}-", part.session),
            "action": pa.repeat(action, size) if isinstance(action, str) else pa.array(action),
            "channel": channel,
            "product": _named(pa.array([p.product for p in surfaces.PLACES]), place),
            "page": _named(pa.array([p.page for p in surfaces.PLACES]), place),
            "placement": _named(pa.array([p.placement for p in surfaces.PLACES]), place),
            "layout": _named(pa.array([p.layout for p in surfaces.PLACES]), place),
            "position": pa.array(part.position),
            "item_id": _named(item_ids, part.item),
            "device": device,
            "slate_id": _numbered(f"sla-{seed}-", np.where(part.item >= 0, part.page, -1)),
        }
    )


def _transactions(ids: pa.Array, seed: int, money: Money) -> pa.Table:
    columns: Mapping[str, pa.Array] = {
        "event_id": _numbered(f"txn-{seed}-", np.arange(len(money.user))),
        "user_id": ids.take(pa.array(money.user)),
        "event_time_ms": pa.array(money.time_ms),
        "due_date_ms": pa.array(money.due_date_ms, mask=money.due_date_ms < 0),
        "minimum_due_usd": pa.array(money.minimum_due_usd, mask=np.isnan(money.minimum_due_usd)),
        "amount_usd": pa.array(money.amount_usd),
        **{
            name: pa.array(getattr(money, name))
            for name in ("kind", "mcc", "merchant", "account", "channel")
        },
    }
    return pa.table(columns)


def _conversions(
    rng: np.random.Generator, ids: pa.Array, seed: int, catalogue: Catalogue, goals: Goals
) -> pa.Table:
    worth = np.array([item.value_usd for item in catalogue.items])[goals.item]
    value = np.round(worth * np.exp(rng.normal(-0.02, 0.2, len(worth))), 2)
    return pa.table(
        {
            "event_id": _numbered(f"cnv-{seed}-", np.arange(len(goals.user))),
            "user_id": ids.take(pa.array(goals.user)),
            "event_time_ms": pa.array(goals.time_ms),
            "item_id": pa.array([item.item_id for item in catalogue.items]).take(
                pa.array(goals.item)
            ),
            "value_usd": pa.array(value),
        }
    )


def _consents(ids: pa.Array, people: Population, start_ms: int) -> pa.Table:
    """Decisions known at the start, and those made later; half of the unknown have no record."""
    everyone = np.arange(people.num_users)
    told = everyone[(people.consent != UNKNOWN) | (everyone % 2 == 0)]
    decides = everyone[people.consent_change_ms < NEVER_MS]
    user = np.concatenate((told, decides))
    time_ms = np.concatenate((np.full(len(told), start_ms), people.consent_change_ms[decides]))
    choice = np.concatenate((people.consent[told], people.consent_change[decides]))
    return pa.table(
        {
            "user_id": ids.take(pa.array(user)),
            "event_time_ms": pa.array(time_ms),
            "marketing": pa.array(MARKETING).take(pa.array(choice)),
            "effective_from_ms": pa.array(time_ms),
        }
    )


def _user_static(ids: pa.Array, owned_since: IntArray, start_ms: int, end_ms: int) -> pa.Table:
    """One row a user and night, from the cut-off before the start on (features.spec.USER_STATIC)."""
    offset = CUTOFF_HOUR_UTC * HOUR_MS
    first = (start_ms - _READABLE_AFTER_MS - offset) // DAY_MS * DAY_MS + offset
    tables = []
    for cutoff in range(first, end_ms - _READABLE_AFTER_MS, DAY_MS):
        owned = owned_since <= cutoff
        days = np.where(owned, (cutoff - owned_since) // DAY_MS, 0)
        tables.append(
            pa.table(
                {
                    "user_id": ids,
                    "event_timestamp": _instants(cutoff, len(ids)),
                    "created_timestamp": _instants(cutoff + _READABLE_AFTER_MS, len(ids)),
                    "enrollments": _owned_names(owned),
                    **{f"tenure_{n}": pa.array(days[:, e]) for e, n in enumerate(ENROLLMENTS)},
                    "tenure_bank": pa.array(days.max(axis=1)),
                }
            )
        )
    return pa.concat_tables(tables)


def _instants(time_ms: int, size: int) -> pa.Array:
    return pa.array(np.full(size, time_ms * 1000), pa.timestamp("us", tz="UTC"))


def _owned_names(owned: npt.NDArray[np.bool_]) -> pa.Array:
    offsets = np.concatenate(([0], np.cumsum(owned.sum(axis=1)))).astype(np.int32)
    names = pa.array(ENROLLMENTS).take(pa.array(np.nonzero(owned)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), names)

"""A chunk's arrays as tables of a LOG_DIR, in blocks of whole days that fit into memory.

Every event gets its id here: the kind, the seed, the chunk and its number in order of time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.records import MARKETING
from features.spec import CUTOFF_HOUR_UTC, DAY_MS, ENROLLMENTS, HOUR_MS
from fintrec import logs
from fintrec.bank import needs, surfaces
from fintrec.bank.catalogue import Catalogue
from fintrec.bank.chunk import Chunk, stage_rng
from fintrec.bank.money import (
    ACCOUNTS,
    CHANNELS,
    DUE_AFTER_MS,
    KINDS,
    MCC_NAMES,
    MERCHANTS,
    MINIMUM_SHARE,
    MINIMUM_USD,
)
from fintrec.bank.population import NEVER_MS, UNKNOWN, IntArray, user_ids
from fintrec.bank.visits import CONTACTS, DEVICES

BLOCK_ROWS: Final = 400_000
READABLE_AFTER_MS: Final = 2 * HOUR_MS  # the nightly batch runs this long
ACTIONS: Final = (*CONTACTS, "login", "logout", "page_view", "impression", "click", "dismiss")
_CHANNELS: Final = ("web", "mobile_app", "call_center", "branch")
_LOGOUT_AFTER_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Clickstream:
    """Rows of the clickstream by place in the chunk's arrays, in order of time; -1 for none.

    `user` is -1 on public pages, `visitor` the device that read them or logged in; `need` is what
    a public page is about.
    """

    user: npt.NDArray[np.int32]
    visitor: npt.NDArray[np.int32]
    time_ms: IntArray
    action: npt.NDArray[np.int8]
    session: npt.NDArray[np.int32]
    page: npt.NDArray[np.int32]
    slot: npt.NDArray[np.int8]
    need: npt.NDArray[np.int8]
    channel: npt.NDArray[np.int8]
    device: npt.NDArray[np.int8]

    def of(self, rows: Any) -> "Clickstream":
        """Some rows, by place, flag or slice."""
        return Clickstream(*(getattr(self, name)[rows] for name in self.__slots__))


def numbered(prefix: str, numbers: npt.NDArray[Any]) -> pa.Array:
    """Ids `prefix` + number, "" for -1."""
    text = pc.cast(pa.array(numbers, mask=numbers < 0), pa.string())
    return pc.fill_null(pc.binary_join_element_wise(prefix, text, ""), "")


def named(names: Any, places: npt.NDArray[Any]) -> pa.Array:
    """Names by place, "" for place -1."""
    return pc.fill_null(pa.array(names).take(pa.array(places, mask=places < 0)), "")


def day_blocks(time_ms: IntArray) -> Iterator[slice]:
    """Slices of rows in order of time, each of whole days and about BLOCK_ROWS rows."""
    bounds = np.flatnonzero(np.diff(time_ms // DAY_MS)) + 1
    start = 0
    for bound in [*bounds.tolist(), len(time_ms)]:
        if bound - start >= BLOCK_ROWS or bound == len(time_ms):
            if bound > start:
                yield slice(start, bound)
            start = bound


def clickstream(chunk: Chunk) -> Clickstream:
    """All rows of the chunk's clickstream."""
    parts = [_contacts(chunk), *_sessions(chunk), _public_pages(chunk), *_pages(chunk)]
    columns = [np.concatenate([part[name] for part in parts]) for name in Clickstream.__slots__]
    rows = Clickstream(*columns)
    inside = np.flatnonzero(rows.time_ms < chunk.span.end_ms)
    return rows.of(inside[np.argsort(rows.time_ms[inside], kind="stable")])


def _part(size: int, **given: Any) -> dict[str, npt.NDArray[Any]]:
    types = {"time_ms": np.int64, "action": np.int8, "slot": np.int8, "need": np.int8}
    types |= {"channel": np.int8, "device": np.int8}
    return {
        name: np.broadcast_to(np.asarray(given.get(name, -1), types.get(name, np.int32)), size)
        for name in Clickstream.__slots__
    }


def _contacts(chunk: Chunk) -> dict[str, npt.NDArray[Any]]:
    contacts = chunk.contacts
    at_branch = contacts.which == CONTACTS.index("branch")
    return _part(
        len(contacts.user),
        user=contacts.user,
        time_ms=contacts.time_ms,
        action=contacts.which,
        channel=np.where(at_branch, _CHANNELS.index("branch"), _CHANNELS.index("call_center")),
        device=np.where(at_branch, DEVICES.index("terminal"), DEVICES.index("phone")),
    )


def _sessions(chunk: Chunk) -> list[dict[str, npt.NDArray[Any]]]:
    sessions, pages, exposure = chunk.sessions, chunk.pages, chunk.exposure
    last = sessions.start_ms.copy()
    acted = exposure.clicked_PK | exposure.dismissed_PK
    reacted = np.where(acted, exposure.react_ms_PK, 0).max(axis=1, initial=0)
    np.maximum.at(last, pages.session, pages.time_ms + reacted)
    number = np.arange(len(sessions.user))
    parts = []
    # Two of three sessions end by a logout; the others just stop.
    for action, at, time_ms in (
        ("login", number, sessions.start_ms),
        ("logout", number[number % 3 != 0], last + _LOGOUT_AFTER_MS),
    ):
        # A browser's login tells its device, the app's does not.
        tells = ~sessions.is_app[at] & (action == "login")
        parts.append(
            _part(
                len(at),
                user=sessions.user[at],
                visitor=np.where(tells, chunk.people.device[sessions.user[at]], -1),
                time_ms=time_ms[at],
                action=ACTIONS.index(action),
                session=at,
                channel=sessions.is_app[at],
                device=sessions.device[at],
            )
        )
    return parts


def _public_pages(chunk: Chunk) -> dict[str, npt.NDArray[Any]]:
    browsing = chunk.browsing
    return _part(
        len(browsing.user),
        visitor=chunk.people.device[browsing.user],
        time_ms=browsing.time_ms,
        action=ACTIONS.index("page_view"),
        session=browsing.session,
        need=browsing.need,
        channel=_CHANNELS.index("web"),
        device=browsing.device,
    )


def _pages(chunk: Chunk) -> list[dict[str, npt.NDArray[Any]]]:
    pages, exposure, sessions = chunk.pages, chunk.exposure, chunk.sessions
    every = np.arange(len(pages.user))
    none = np.zeros(len(every), np.int64)
    found: list[tuple[str, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]
    found = [("page_view", every, none - 1, none)]
    for action, flags in (
        ("impression", exposure.shown_PK >= 0),
        ("click", exposure.clicked_PK),
        ("dismiss", exposure.dismissed_PK),
    ):
        page, slot = np.nonzero(flags)
        wait = exposure.react_ms_PK[page, slot] * (action != "impression")
        found.append((action, page, slot, wait))
    return [
        _part(
            len(page),
            user=pages.user[page],
            time_ms=pages.time_ms[page] + wait,
            action=ACTIONS.index(action),
            session=pages.session[page],
            page=page,
            slot=slot,
            channel=sessions.is_app[pages.session[page]],
            device=sessions.device[pages.session[page]],
        )
        for action, page, slot, wait in found
    ]


def interactions(chunk: Chunk, rows: Clickstream, first_number: int) -> pa.Table:
    """Some rows of the clickstream as records, numbered from `first_number` on."""
    users = user_ids(chunk.first_user, chunk.people.num_users)
    place = np.where(rows.page >= 0, chunk.pages.place[rows.page], -1)
    on_slot = rows.slot >= 0
    item = np.where(on_slot, chunk.exposure.shown_PK[rows.page, rows.slot], -1)
    shown = rows.action == ACTIONS.index("impression")
    propensity = chunk.exposure.propensity_PK[rows.page, rows.slot]
    public = [surfaces.public_page(n, n in needs.SERVICE_NEEDS) for n in needs.NEEDS]
    is_public = rows.need >= 0
    pages = [spot.page for spot in surfaces.PLACES] + public
    products = [spot.product for spot in surfaces.PLACES] + [surfaces.PUBLIC_PRODUCT]
    layouts = [spot.layout for spot in surfaces.PLACES] + [surfaces.PUBLIC_LAYOUT]
    num_places = len(surfaces.PLACES)
    on_site = np.where(is_public, num_places, place)
    visitor = np.where(rows.visitor >= 0, rows.visitor + chunk.first_user, -1)
    return pa.table(
        {
            "event_id": numbered(chunk.name("clk"), first_number + np.arange(len(rows.user))),
            "user_id": named(users, rows.user),
            "event_time_ms": pa.array(rows.time_ms),
            "session_id": numbered(chunk.name("ses"), rows.session),
            "action": named(ACTIONS, rows.action),
            "channel": named(_CHANNELS, rows.channel),
            "product": named(products, on_site),
            "page": named(pages, np.where(is_public, num_places + rows.need, place)),
            "placement": named([spot.placement for spot in surfaces.PLACES], place),
            "layout": named(layouts, on_site),
            "position": pa.array(rows.slot.astype(np.int64) + 1),
            "item_id": named([i.item_id for i in chunk.catalogue.items], item),
            "device": named(DEVICES, rows.device),
            "slate_id": numbered(chunk.name("sla"), np.where(on_slot, rows.page, -1)),
            "anonymous_id": numbered(f"dev-{chunk.seed}-", visitor),
            "propensity": pa.array(propensity, mask=~shown),
        }
    )


def transactions(chunk: Chunk) -> Iterator[pa.Table]:
    """The chunk's transactions in blocks, in order of time."""
    order = np.argsort(chunk.money.time_ms, kind="stable")
    users = user_ids(chunk.first_user, chunk.people.num_users)
    for block in day_blocks(chunk.money.time_ms[order]):
        money = chunk.money.of(order[block])
        others = ~money.is_kind("statement")
        minimum = np.maximum(np.round(money.amount_usd * MINIMUM_SHARE, 2), MINIMUM_USD)
        yield pa.table(
            {
                "event_id": numbered(chunk.name("txn"), np.arange(block.start, block.stop)),
                "user_id": named(users, money.user),
                "event_time_ms": pa.array(money.time_ms),
                "kind": named(KINDS, money.kind),
                "amount_usd": pa.array(money.amount_usd),
                "mcc": named(MCC_NAMES, money.mcc),
                "merchant": named(MERCHANTS, money.merchant),
                "account": named(ACCOUNTS, money.account),
                "channel": named(CHANNELS, money.channel),
                "due_date_ms": pa.array(money.time_ms + DUE_AFTER_MS, mask=others),
                "minimum_due_usd": pa.array(minimum, mask=others),
            }
        )


def conversions(chunk: Chunk) -> pa.Table:
    """The chunk's conversions, in order of time."""
    goals, items = chunk.goals, chunk.catalogue.items
    rng = stage_rng(chunk.seed, chunk.number, "values")
    worth = np.array([item.value_usd for item in items])[goals.item]
    return pa.table(
        {
            "event_id": numbered(chunk.name("cnv"), np.arange(len(goals.user))),
            "user_id": named(user_ids(chunk.first_user, chunk.people.num_users), goals.user),
            "event_time_ms": pa.array(goals.time_ms),
            "item_id": named([item.item_id for item in items], goals.item),
            "value_usd": pa.array(np.round(worth * np.exp(rng.normal(-0.02, 0.2, len(worth))), 2)),
        }
    )


def consents(chunk: Chunk) -> pa.Table:
    """Decisions known at the start, and those made later; half of the unknown have no record."""
    people = chunk.people
    everyone = np.arange(people.num_users)
    told = everyone[(people.consent != UNKNOWN) | (everyone % 2 == 0)]
    decides = everyone[people.consent_change_ms < NEVER_MS]
    user = np.concatenate((told, decides))
    start = np.full(len(told), chunk.span.start_ms)
    time_ms = np.concatenate((start, people.consent_change_ms[decides]))
    choice = np.concatenate((people.consent[told], people.consent_change[decides]))
    return pa.table(
        {
            "user_id": named(user_ids(chunk.first_user, people.num_users), user),
            "event_time_ms": pa.array(time_ms),
            "marketing": named(MARKETING, choice),
            "effective_from_ms": pa.array(time_ms),
        }
    )


def items(catalogue: Catalogue) -> pa.Table:
    """The catalogue as records."""
    rows = [msgspec.to_builtins(item) for item in catalogue.items]
    return pa.Table.from_pylist(rows, logs.SCHEMAS[logs.ITEMS])


def user_static(chunk: Chunk) -> Iterator[pa.Table]:
    """A row a user and night, from the cut-off before the digital start on, in blocks of nights."""
    people, span = chunk.people, chunk.span
    ids = pa.array(user_ids(chunk.first_user, people.num_users))
    offset = CUTOFF_HOUR_UTC * HOUR_MS
    first = (span.start_ms - READABLE_AFTER_MS - offset) // DAY_MS * DAY_MS + offset
    nights = list(range(first, span.end_ms - READABLE_AFTER_MS, DAY_MS))
    step = max(1, BLOCK_ROWS // max(1, people.num_users))
    for start in range(0, len(nights), step):
        yield pa.concat_tables(
            [_night(ids, chunk.owned_since_UE, cutoff) for cutoff in nights[start : start + step]]
        )


def _night(ids: pa.Array, owned_since_UE: IntArray, cutoff_ms: int) -> pa.Table:
    owned = owned_since_UE <= cutoff_ms
    days = np.where(owned, (cutoff_ms - owned_since_UE) // DAY_MS, 0)
    offsets = np.concatenate(([0], np.cumsum(owned.sum(axis=1)))).astype(np.int32)
    names = pa.array(ENROLLMENTS).take(pa.array(np.nonzero(owned)[1]))
    return pa.table(
        {
            "user_id": ids,
            "event_timestamp": _instants(cutoff_ms, len(ids)),
            "created_timestamp": _instants(cutoff_ms + READABLE_AFTER_MS, len(ids)),
            "enrollments": pa.ListArray.from_arrays(pa.array(offsets), names),
            **{f"tenure_{n}": pa.array(days[:, e]) for e, n in enumerate(ENROLLMENTS)},
            "tenure_bank": pa.array(days.max(axis=1)),
        }
    )


def _instants(time_ms: int, size: int) -> pa.Array:
    return pa.array(np.full(size, time_ms * 1000), pa.timestamp("us", tz="UTC"))

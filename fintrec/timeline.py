"""Every user's events of a log on one timeline, and what can be asked of it without looking ahead.

Rows are those of `features/history.py`, made by `features/rows.py` as the ingest worker makes
them; a user's rows are in (time, event fingerprint) order, each event once, none dropped.

Shapes: R rows, M pages or decisions, K items, S slots of a page.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.categories import CATEGORIES
from features.consent import Verdict, verdict, with_consent
from features.history import Rows
from features.packed import CONSENT
from features.records import MARKETING, Consent
from features.rows import (
    ConversionColumns,
    InteractionColumns,
    TransactionColumns,
    conversion_rows,
    interaction_rows,
    transaction_rows,
)
from features.spec import MINUTE_MS
from features.vocabulary import OPEN_FIELDS, Vocabulary, code, fingerprint
from fintrec import logs

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CLICK_WINDOW_MS: Final = 30 * MINUTE_MS  # a click belongs to an impression at most this old
FOREVER_MS: Final = 1 << 60  # an opt-out never grows stale
_AXIS_MS: Final = 1 << 43  # one owner's share of a common time axis, more than any event time
_IMPRESSION, _CLICK, _CONVERSION = (
    code("action", name) for name in ("impression", "click", "conversion")
)
_OPTED_OUT: Final = MARKETING.index("opted_out")
_PAGE_FIELDS: Final = ("product", "page", "placement", "layout")
_REQUEST_FIELDS: Final = (*_PAGE_FIELDS, "channel", "device")


def on_axis(owner: IntArray, time_ms: IntArray) -> IntArray:
    """Instants of many owners on one axis: sorted by owner, then time."""
    return owner.astype(np.int64) * _AXIS_MS + time_ms


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages that showed items, M rows in no promised order.

    `request` holds the first six REQUEST_COLUMNS; `shown` item indices by position, -1 none.
    """

    user: IntArray
    time_ms: IntArray
    request: IntArray
    shown: IntArray
    clicked: BoolArray


@dataclass(frozen=True, slots=True)
class Timeline:
    """All rows of a log, ordered by user, time and event.

    `first_row` and `lengths` say where a user's rows lie; `first_seen_ms[field][name]` when an
    open name first occurred; `decided_axis` instants (see
    `on_axis`) from which `decided_opt_out` holds.
    """

    users: tuple[str, ...]
    rows: Rows
    owner: IntArray
    first_row: IntArray
    lengths: IntArray
    item_row: IntArray
    start_ms: int
    end_ms: int
    first_seen_ms: dict[str, dict[str, int]]
    decided_axis: IntArray
    decided_opt_out: BoolArray
    exclusions: Counter[str]

    def rows_by_user(self) -> list[Rows]:
        """Each user's whole ordered log."""
        return np.split(self.rows, self.first_row[1:])

    def vocabulary(self, items: tuple[str, ...], before_ms: int) -> Vocabulary:
        """Names that occurred before an instant; every item and merchant category has a token."""
        names = {
            field: [name for name, first in seen.items() if first < before_ms]
            for field, seen in self.first_seen_ms.items()
        }
        names["item"] = [f"category/{category}" for category in CATEGORIES[1:]]
        return Vocabulary.build(names, items)

    def before(self, user: IntArray, time_ms: IntArray) -> tuple[IntArray, IntArray]:
        """How many of a user's rows lie strictly before an instant, and the newest's time (0)."""
        axis = on_axis(self.owner, self.rows["time_ms"])
        end = np.searchsorted(axis, on_axis(user, time_ms), side="left") - self.first_row[user]
        newest = self.rows["time_ms"][np.maximum(self.first_row[user] + end - 1, 0)]
        return end, np.where(end > 0, newest, 0)

    def is_opted_out(self, user: IntArray, time_ms: IntArray) -> BoolArray:
        """Whether the newest decision in force at an instant was to opt out."""
        last = np.searchsorted(self.decided_axis, on_axis(user, time_ms), side="right") - 1
        near = np.maximum(last, 0)
        if not len(self.decided_axis):
            return np.zeros(len(user), bool)
        mine = (last >= 0) & (self.decided_axis[near] // _AXIS_MS == user)
        return mine & self.decided_opt_out[near]

    def pages(self, slots: int) -> tuple[Pages, Counter[str]]:
        """Pages with at least one known item, the first `slots` positions, and what was left out.

        A page is the impressions of one user at one instant and place. A click belongs to the
        newest impression of its item to its user within CLICK_WINDOW_MS.
        """
        excluded: Counter[str] = Counter()
        shown_at = np.flatnonzero(self.rows["action"] == _IMPRESSION)
        page, slot = self._grouped(shown_at)
        clicked, excluded["unmatched_clicks"] = self._clicked(shown_at)
        item = self.item_row[shown_at]
        excluded["unknown_items"] = int((item < 0).sum())
        excluded["slots_beyond_page"] = int((slot >= slots).sum())
        num_pages = int(page.max(initial=-1)) + 1
        shown = np.full((num_pages, slots), -1)
        clicks = np.zeros((num_pages, slots), bool)
        fits = (slot < slots) & (item >= 0)
        shown[page[fits], slot[fits]] = item[fits]
        clicks[page[fits], slot[fits]] = clicked[fits]
        head = np.empty(num_pages, np.int64)
        head[page] = shown_at
        some = (shown >= 0).any(axis=1)
        excluded["pages_without_known_item"] = int((~some).sum())
        whole = self.rows["time_ms"][head] + CLICK_WINDOW_MS <= self.end_ms
        excluded["censored_click_windows"] = int((some & ~whole).sum())
        kept = some & whole
        head = head[kept]
        rows = self.rows[head]
        request = np.column_stack([rows[name].astype(np.int64) for name in _REQUEST_FIELDS])
        return (
            Pages(
                self.owner[head],
                rows["time_ms"].astype(np.int64),
                request,
                shown[kept],
                clicks[kept],
            ),
            excluded,
        )

    def _grouped(self, shown_at: IntArray) -> tuple[IntArray, IntArray]:
        """For each impression its page's number and its place on the page."""
        rows, owner = self.rows[shown_at], self.owner[shown_at]
        keys = [rows[name] for name in _PAGE_FIELDS]
        order = np.lexsort((rows["event"], rows["position"], *keys, rows["time_ms"], owner))
        ordered = [column[order] for column in (*keys, rows["time_ms"], owner)]
        opens = np.zeros(len(order), bool)
        opens[:1] = True
        for column in ordered:
            opens[1:] |= column[1:] != column[:-1]
        number = np.cumsum(opens) - 1
        first = np.flatnonzero(opens)
        page, slot = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
        page[order] = number
        slot[order] = np.arange(len(order)) - first[number] if len(first) else 0
        return page, slot

    def _clicked(self, shown_at: IntArray) -> tuple[BoolArray, int]:
        """Which impressions were clicked, and how many clicks found no impression."""
        clicked_at = np.flatnonzero(self.rows["action"] == _CLICK)
        out = np.zeros(len(shown_at), bool)
        at = np.concatenate((shown_at, clicked_at))
        is_click = np.arange(len(at)) >= len(shown_at)
        rows = self.rows[at]
        # By user and item in time order, an impression before a click of the same instant.
        order = np.lexsort((is_click, rows["time_ms"], rows["item"], self.owner[at]))
        latest = np.maximum.accumulate(np.where(is_click[order], -1, np.arange(len(at))))
        clicks = np.flatnonzero(is_click[order])
        match = latest[clicks]
        shown, click = order[np.maximum(match, 0)], order[clicks]
        found = (
            (match >= 0)
            & (self.owner[at[shown]] == self.owner[at[click]])
            & (rows["item"][shown] == rows["item"][click])
            & (rows["time_ms"][click] - rows["time_ms"][shown] <= CLICK_WINDOW_MS)
        )
        out[shown[found]] = True
        return out, int((~found).sum())

    def conversions_after(
        self, user: IntArray, time_ms: IntArray, window_ms: IntArray, observed_until_ms: int
    ) -> tuple[IntArray, IntArray, int]:
        """(decision, item) of conversions within (time, time + window of the item], each once.

        Left out, and counted third: those whose window reaches beyond `observed_until_ms`.
        """
        at = np.flatnonzero((self.rows["action"] == _CONVERSION) & (self.item_row >= 0))
        axis = on_axis(self.owner[at], self.rows["time_ms"][at])
        low = np.searchsorted(axis, on_axis(user, time_ms), side="right")
        longest = time_ms + int(window_ms.max(initial=0))
        high = np.searchsorted(axis, on_axis(user, longest), side="right")
        counts = high - low
        decision = np.repeat(np.arange(len(user)), counts)
        nth = np.arange(len(decision)) - np.repeat(np.cumsum(counts) - counts, counts)
        row = at[np.repeat(low, counts) + nth]
        item = self.item_row[row]
        until = time_ms[decision] + window_ms[item]
        within = self.rows["time_ms"][row] <= until
        complete = until <= observed_until_ms
        pairs = np.unique(decision[within] * len(window_ms) + item[within]).size
        kept = within & complete
        found = np.unique(decision[kept] * len(window_ms) + item[kept])
        return found // len(window_ms), found % len(window_ms), pairs - len(found)


def read_timeline(log_dir: Path, items: Sequence[str]) -> Timeline:
    """Read a LOG_DIR's events; raises LogError where they are not as documented."""
    tables = {name: logs.read_table(log_dir, name) for name in logs.EVENT_TABLES}
    events = {name: tables[name] for name in logs.EVENT_TABLES if name != logs.CONSENTS}
    if not sum(table.num_rows for table in events.values()):
        raise logs.LogError(f"{log_dir}: no events in {', '.join(events)}")
    users = tuple(sorted({u for t in tables.values() for u in logs.coded(t, "user_id").names}))
    place = {name: index for index, name in enumerate(users)}
    made = {
        logs.CLICKSTREAM: interaction_rows(_interactions(tables[logs.CLICKSTREAM])),
        logs.TRANSACTIONS: transaction_rows(_transactions(tables[logs.TRANSACTIONS])),
        logs.CONVERSIONS: conversion_rows(_conversions(tables[logs.CONVERSIONS])),
    }
    rows = np.concatenate(list(made.values()))
    owner = np.concatenate(
        [logs.coded(tables[n], "user_id").mapped(place.__getitem__) for n in made]
    )
    rows, owner, num_duplicates = _ordered(rows, owner)
    lengths = np.bincount(owner, minlength=len(users))
    item_row = _item_places(rows, items)
    is_unknown = (rows["action"] == _CONVERSION) & (item_row < 0)
    decided_axis, decided_opt_out = _decisions_on_consent(tables[logs.CONSENTS], place)
    manifest = logs.read_manifest(log_dir)
    return Timeline(
        users=users,
        rows=rows,
        owner=owner,
        first_row=np.cumsum(lengths) - lengths,
        lengths=lengths,
        item_row=item_row,
        start_ms=int(manifest.get("start_ms", rows["time_ms"].min())),
        end_ms=int(manifest.get("end_ms", rows["time_ms"].max() + 1)),
        first_seen_ms=_first_seen(tables),
        decided_axis=decided_axis,
        decided_opt_out=decided_opt_out,
        exclusions=Counter(
            duplicate_events=num_duplicates, conversions_of_unknown_items=int(is_unknown.sum())
        ),
    )


def _ordered(rows: Rows, owner: IntArray) -> tuple[Rows, IntArray, int]:
    """Rows by owner, time and event, each event once, and how many were dropped."""
    order = np.lexsort((rows["event"], rows["time_ms"], owner))
    rows, owner = rows[order], owner[order]
    same = np.zeros(len(rows), bool)
    same[1:] = (
        (owner[1:] == owner[:-1])
        & (rows["time_ms"][1:] == rows["time_ms"][:-1])
        & (rows["event"][1:] == rows["event"][:-1])
    )
    return rows[~same], owner[~same], int(same.sum())


def _item_places(rows: Rows, items: Sequence[str]) -> IntArray:
    """Index into the items of each row, -1 where its token is none of them."""
    prints = np.array([fingerprint("item", name) for name in items], np.int64)
    if not len(prints):
        return np.full(len(rows), -1)
    order = np.argsort(prints)
    near = np.minimum(np.searchsorted(prints[order], rows["item"]), len(prints) - 1)
    return np.where(prints[order][near] == rows["item"], order[near], -1)


def _first_seen(tables: dict[str, pa.Table]) -> dict[str, dict[str, int]]:
    """When each name of an open field (items apart) first occurred."""
    sources = [(logs.CLICKSTREAM, name, name) for name in OPEN_FIELDS if name != "item"]
    sources.append((logs.TRANSACTIONS, "account", "product"))
    seen: dict[str, dict[str, int]] = {name: {} for name in OPEN_FIELDS if name != "item"}
    for table, column, field in sources:
        names = logs.coded(tables[table], column)
        first = np.full(len(names.names), np.iinfo(np.int64).max)
        np.minimum.at(first, names.codes, logs.integers(tables[table], "event_time_ms"))
        for name, time_ms in zip(names.names, first.tolist(), strict=True):
            if name:
                seen[field][name] = min(time_ms, seen[field].get(name, time_ms))
    return seen


def _decisions_on_consent(table: pa.Table, place: dict[str, int]) -> tuple[IntArray, BoolArray]:
    """Instants, on the axis, from which a user is opted out or not, in order."""
    owner = logs.coded(table, "user_id").mapped(place.__getitem__)
    told = logs.integers(table, "event_time_ms")
    effective = logs.integers(table, "effective_from_ms")
    choices = logs.coded(table, "marketing")
    unknown = sorted(set(choices.names) - set(MARKETING))
    if unknown:
        raise logs.LogError(
            f"{logs.CONSENTS}: column 'marketing' holds {unknown[:3]}, expected {MARKETING}"
        )
    marketing = choices.mapped(MARKETING.index)
    counts = np.bincount(owner, minlength=len(place))
    single = np.flatnonzero(counts[owner] == 1)
    changes = [on_axis(owner[single], np.maximum(told, effective)[single])]
    opted_out = [marketing[single] == _OPTED_OUT]
    several = np.flatnonzero(counts[owner] > 1)
    several = several[np.lexsort((told[several], owner[several]))]
    for rows in np.split(several, np.flatnonzero(np.diff(owner[several])) + 1):
        instants = np.unique(np.concatenate((told[rows], effective[rows])))
        known = [_verdict_at(t, told[rows], effective[rows], marketing[rows]) for t in instants]
        changes.append(on_axis(owner[rows][:1].repeat(len(instants)), instants))
        opted_out.append(np.array(known, bool))
    axis, out = np.concatenate(changes), np.concatenate(opted_out)
    order = np.argsort(axis, kind="stable")
    return axis[order], out[order]


def _verdict_at(now_ms: int, told: IntArray, effective: IntArray, marketing: IntArray) -> bool:
    """Whether a worker that has seen every decision up to an instant takes the user as opted out."""
    seen = np.empty(0, CONSENT)
    for place in np.flatnonzero(told <= now_ms):
        record = Consent(
            user_id="-",
            event_time_ms=int(told[place]),
            marketing=MARKETING[marketing[place]],
            effective_from_ms=int(effective[place]),
        )
        seen = with_consent(seen, record)
    return verdict(seen, int(now_ms), FOREVER_MS) is Verdict.OPTED_OUT


def _columns(table: pa.Table, coded: Sequence[str], numbers: Sequence[str]) -> dict[str, Any]:
    return {
        "event_id": table["event_id"].to_pylist(),
        **{name: logs.coded(table, name) for name in coded},
        **{name: table[name].to_numpy() for name in ("event_time_ms", *numbers)},
    }


def _interactions(table: pa.Table) -> InteractionColumns:
    names = ("action", *_REQUEST_FIELDS, "item_id")
    return InteractionColumns(**_columns(table, names, ("position",)))


def _transactions(table: pa.Table) -> TransactionColumns:
    names = ("kind", "mcc", "account", "channel")
    return TransactionColumns(**_columns(table, names, ("amount_usd",)))


def _conversions(table: pa.Table) -> ConversionColumns:
    return ConversionColumns(**_columns(table, ("item_id",), ()))

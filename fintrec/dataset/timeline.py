"""All events of a shard's users on one timeline, and what can be asked of it without looking ahead.

Rows are those of `features/history.py`, made by `features/rows.py` as the ingest worker makes
them; a user's rows are in (time, event fingerprint) order, each event once, none dropped.

Shapes: R rows, M pages or decisions, K items, S slots of a page.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from features.history import ROW, Rows, ordered
from features.spec import MINUTE_MS
from features.vocabulary import code, fingerprint
from fintrec.dataset.axis import BoolArray, IntArray, on_axis
from fintrec.dataset.spill import EVENTS, ShardRows

CLICK_WINDOW_MS: Final = 30 * MINUTE_MS  # a click belongs to an impression at most this old
IMPRESSION, CLICK, CONVERSION = (
    code("action", name) for name in ("impression", "click", "conversion")
)
_PAGE_FIELDS: Final = ("product", "page", "placement", "layout")
_REQUEST_FIELDS: Final = (*_PAGE_FIELDS, "channel", "device")


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
    """All rows of some users, ordered by user, time and event.

    `first_row` and `lengths` say where a user's rows lie; `item_row` is the place in the items of
    each row's item, -1 for none. The log ends at `end_ms`.
    """

    users: tuple[str, ...]
    rows: Rows
    owner: IntArray
    first_row: IntArray
    lengths: IntArray
    item_row: IntArray
    end_ms: int
    exclusions: Counter[str]

    def before(self, user: IntArray, time_ms: IntArray) -> tuple[IntArray, IntArray]:
        """How many of a user's rows lie strictly before an instant, and the newest's time (0)."""
        axis = on_axis(self.owner, self.rows["time_ms"])
        end = np.searchsorted(axis, on_axis(user, time_ms), side="left") - self.first_row[user]
        newest = self.rows["time_ms"][np.maximum(self.first_row[user] + end - 1, 0)]
        return end, np.where(end > 0, newest, 0)

    def pages(self, slots: int) -> tuple[Pages, Counter[str]]:
        """Pages with at least one known item, the first `slots` positions, and what was left out.

        A page is the impressions of one user at one instant and place. A click belongs to the
        newest impression of its item to its user within CLICK_WINDOW_MS.
        """
        excluded: Counter[str] = Counter()
        shown_at = np.flatnonzero(self.rows["action"] == IMPRESSION)
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
        clicked_at = np.flatnonzero(self.rows["action"] == CLICK)
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
        at = np.flatnonzero((self.rows["action"] == CONVERSION) & (self.item_row >= 0))
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


def timeline_of(shard: ShardRows, items: Sequence[str], end_ms: int) -> Timeline:
    """The timeline of a shard's users."""
    rows, owner, excluded = _ordered(shard.rows[EVENTS], shard.owner[EVENTS])
    lengths = np.bincount(owner, minlength=len(shard.users))
    item_row = _item_places(rows, items)
    is_unknown = (rows["action"] == CONVERSION) & (item_row < 0)
    excluded["conversions_of_unknown_items"] = int(is_unknown.sum())
    return Timeline(
        users=shard.users,
        rows=rows,
        owner=owner,
        first_row=np.cumsum(lengths) - lengths,
        lengths=lengths,
        item_row=item_row,
        end_ms=end_ms,
        exclusions=excluded,
    )


def _ordered(rows: Rows, owner: IntArray) -> tuple[Rows, IntArray, Counter[str]]:
    """Rows by owner, time and event, each event once as in `features.history.ordered`; counts."""
    order = np.lexsort((rows["event"], rows["time_ms"], owner))
    # As plain bytes: NumPy copies records of fields field by field, twenty times as slow.
    rows = rows.view(np.dtype((np.void, ROW.itemsize))).take(order).view(ROW)
    owner = owner[order]
    tied = np.zeros(len(rows), bool)
    tied[1:] = (
        (owner[1:] == owner[:-1])
        & (rows["time_ms"][1:] == rows["time_ms"][:-1])
        & (rows["event"][1:] == rows["event"][:-1])
    )
    counts = Counter(duplicate_events=0, contradicting_events=0)
    if tied.any():
        rows, owner, found = _once(rows, owner, tied)
        counts.update(found)
    counts["reused_event_ids"] = _num_reused(rows, owner)
    return rows, owner, counts


def _once(rows: Rows, owner: IntArray, tied: BoolArray) -> tuple[Rows, IntArray, Counter[str]]:
    """Ordered rows with repeated events dropped: those that say the same, and those that do not."""
    number = np.cumsum(~tied) - 1
    repeated = np.flatnonzero(np.bincount(number)[number] > 1)
    kept = np.ones(len(rows), bool)
    counts: Counter[str] = Counter()
    for group in np.split(repeated, np.flatnonzero(np.diff(number[repeated])) + 1):
        once = ordered(rows[group])
        alike = len(np.unique(rows[group]))
        counts["duplicate_events"] += len(group) - alike
        counts["contradicting_events"] += alike - len(once)
        rows[group[: len(once)]] = once
        kept[group[len(once) :]] = False
    return rows[kept], owner[kept], counts


def _num_reused(rows: Rows, owner: IntArray) -> int:
    """Events whose user has an earlier event of the same source with the same id."""
    order = np.lexsort((rows["source"], rows["event"], owner))
    same = np.ones(max(len(rows) - 1, 0), bool)
    for column in (owner, rows["event"], rows["source"]):
        found = column[order]
        same &= found[1:] == found[:-1]
    return int(same.sum())


def _item_places(rows: Rows, items: Sequence[str]) -> IntArray:
    """Index into the items of each row, -1 where its token is none of them."""
    prints = np.array([fingerprint("item", name) for name in items], np.int64)
    if not len(prints):
        return np.full(len(rows), -1)
    order = np.argsort(prints)
    near = np.minimum(np.searchsorted(prints[order], rows["item"]), len(prints) - 1)
    return np.where(prints[order][near] == rows["item"], order[near], -1)

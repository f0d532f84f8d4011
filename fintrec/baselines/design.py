"""The input of the trees: one row for a page and an item (FinTRec section 3.4, "Feature Set").

A row holds the engineered counts and rates, F_s, where and when the page is shown, what the item is
and, where there is one, the foundation model's vector after PCA. On request it also holds what the
user's newest interactions say of the item (`fintrec/baselines/item_history.py`). Everything of the
page was known before it was filled: what the page showed is no input.

Shapes: M pages, N rows, K items, F engineered features, P reduced foundation-model features
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from features.encoding import REQUEST_COLUMNS
from features.records import CONTENT_TYPES
from features.spec import DAY_MS, HOUR_MS, MINUTE_MS, NUM_STATIC
from features.windows import FOREST_NAMES
from fintrec.baselines import item_history
from fintrec.baselines.item_history import UNKNOWN, ItemHistory
from fintrec.datasets import Decisions, TrainingSet
from fintrec.popularity import Popularity, measure

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

_PLACE: Final = ("product", "page", "placement", "layout", "channel", "device")
_WHEN: Final = ("hour", "weekday", "minutes_since_last_event_log")
_ITEM: Final = (
    "item",
    "item_category",
    "item_content_type",
    "item_window_days",
    "item_conversion_log_odds",
    "item_click_log_odds",
)
_MOST_CATEGORIES: Final = 255  # of a column that boosting splits by sets of values


@dataclass(frozen=True, slots=True)
class Pages:
    """What a tree reads of M pages.

    `fm_MP` is None without a foundation model, `own` where items' own histories are no input.
    """

    engineered_MF: Float32Array
    static_MS: Float32Array
    request_MR: IntArray
    fm_MP: Float32Array | None = None
    own: ItemHistory | None = None

    def __len__(self) -> int:
        return len(self.request_MR)

    def taken(self, rows: IntArray) -> "Pages":
        """Some of the pages, in the order given."""
        return Pages(
            self.engineered_MF[rows],
            self.static_MS[rows],
            self.request_MR[rows],
            None if self.fm_MP is None else self.fm_MP[rows],
            None if self.own is None else self.own.taken(rows),
        )

    def with_fm(self, fm_MP: Float32Array) -> "Pages":
        """The same pages with the foundation model's reduced vectors."""
        if len(fm_MP) != len(self):
            raise ValueError(f"{len(fm_MP)} foundation-model vectors for {len(self)} pages")
        return replace(self, fm_MP=fm_MP)

    def with_item_history(self, data: TrainingSet, decisions: Decisions) -> "Pages":
        """The same pages, those of all `decisions`, with each item's own history."""
        if len(decisions) != len(self):
            raise ValueError(f"{len(decisions)} decisions for {len(self)} pages")
        return replace(self, own=ItemHistory(data, decisions, np.arange(len(self))))


def pages_of(decisions: Decisions, engineered_MF: Float32Array) -> Pages:
    """The pages of a period."""
    if len(engineered_MF) != len(decisions):
        raise ValueError(f"{len(engineered_MF)} rows of features for {len(decisions)} decisions")
    return Pages(engineered_MF, decisions.static.astype(np.float32), decisions.request)


class Design:
    """Pages and items to rows of numbers; codes and base rates come from training alone."""

    def __init__(self, data: TrainingSet, popularity: Popularity | None = None) -> None:
        found = measure(data) if popularity is None else popularity
        self.num_items = len(data.items)
        self._known = {
            name: np.unique(data.train.request[:, REQUEST_COLUMNS.index(name)]) for name in _PLACE
        }
        categories = sorted(set(data.categories))
        by_item = {
            "item": np.arange(self.num_items),
            "item_category": [categories.index(name) for name in data.categories] or 0,
            "item_content_type": [CONTENT_TYPES.index(kind) for kind in data.content_types],
            "item_window_days": data.window_ms / DAY_MS,
            "item_conversion_log_odds": _log_odds(found.cvr),
            "item_click_log_odds": _log_odds(found.ctr),
        }
        self._items_KI = np.zeros((self.num_items, len(_ITEM)), np.float32)
        for at, name in enumerate(_ITEM):
            self._items_KI[:, at] = by_item[name]

    def names(self, pages: Pages) -> tuple[str, ...]:
        """Names of the columns that `rows` gives for such pages, in order."""
        static = tuple(f"static_{at}" for at in range(NUM_STATIC))
        reduced = 0 if pages.fm_MP is None else pages.fm_MP.shape[1]
        fm = tuple(f"fm_{at}" for at in range(reduced))
        own = () if pages.own is None else item_history.NAMES
        return (*FOREST_NAMES, *static, *_PLACE, *_WHEN, *fm, *_ITEM, *own)

    def item_column(self, pages: Pages) -> int | None:
        """Where the item's number stands, None where it has too many values to be a category."""
        return self.names(pages).index("item") if self.num_items <= _MOST_CATEGORIES else None

    def of_pages(self, pages: Pages) -> Float32Array:
        """The part of the rows that a page decides, (M, columns)."""
        request = {name: pages.request_MR[:, at] for at, name in enumerate(REQUEST_COLUMNS)}
        place = [_code(request[name], self._known[name]) for name in _PLACE]
        time_ms, last_ms = request["time_ms"], request["last_event_ms"]
        since = np.log1p(np.maximum(time_ms - last_ms, 0) / MINUTE_MS)
        when = [
            time_ms // HOUR_MS % 24,
            (time_ms // DAY_MS + 3) % 7,  # 1970-01-01 was a Thursday
            np.where(last_ms > 0, since, UNKNOWN),
        ]
        parts = [pages.engineered_MF, pages.static_MS, np.column_stack([*place, *when])]
        if pages.fm_MP is not None:
            parts.append(pages.fm_MP)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def rows(self, pages: Pages, page_N: IntArray, item_N: IntArray) -> Float32Array:
        """Rows of pairs of a page's place and an item's place, (N, columns)."""
        of_pages = self.of_pages(pages)
        parts = [of_pages[page_N], self._items_KI[item_N]]
        if pages.own is not None:
            parts.append(pages.own.columns(page_N, item_N))
        return np.concatenate(parts, axis=1)

    def every_item(self, pages: Pages) -> Float32Array:
        """Rows of all items of each page, page by page, (M * K, columns)."""
        page = np.repeat(np.arange(len(pages)), self.num_items)
        return self.rows(pages, page, np.tile(np.arange(self.num_items), len(pages)))


def _code(values: IntArray, known: IntArray) -> npt.NDArray[np.float64]:
    """Places among the known values, UNKNOWN for a value that training never had."""
    place = np.minimum(np.searchsorted(known, values), max(len(known) - 1, 0))
    is_known = known[place] == values if len(known) else np.zeros(len(values), bool)
    return np.where(is_known, place, UNKNOWN)


def _log_odds(rates: tuple[float, ...]) -> npt.NDArray[np.float64]:
    inside = np.clip(np.array(rates), 1e-8, 1 - 1e-8)
    return np.asarray(np.log(inside / (1 - inside)))

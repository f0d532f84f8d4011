"""What a log says before a page, for boosted trees that predict clicks on shown items.

Beside the forest's columns (`fintrec/baselines/design.py`) and the item's own history: the whole
log's counts of the item's category (shown, clicked, goal reached), the time since the newest of
each, and the time since the newest purchase of each merchant category and of each other action.
Everything is strictly earlier than the page; nothing reads the hidden truth. The position is a
column of its own, because serving scores an item before it has one.

Shapes: N impressions, R rows of concatenated logs, C columns
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.categories import CATEGORIES
from features.history import Rows, concatenated
from features.spec import MINUTE_MS
from features.vocabulary import code, fingerprint
from fintrec.baselines.design import Design, Pages
from fintrec.baselines.item_history import UNKNOWN
from fintrec.datasets import Decisions, TrainingSet

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

_AXIS_MS: Final = 1 << 43  # a group's share of a common time axis, more than any event time
_OF_CATEGORY: Final = ("impression", "click", "conversion", "dismiss")
_LASTING: Final = (
    "transfer",
    "statement",
    "fee",
    "payment",
    "atm",
    "fraud_report",
    "call",
    "complaint",
    "branch",
    "login",
    "click",
)


@dataclass(frozen=True, slots=True)
class _Events:
    """Instants of events by group, sorted on one axis."""

    axis: IntArray

    @classmethod
    def of(cls, group: IntArray, time_ms: IntArray) -> "_Events":
        return cls(np.sort(group * _AXIS_MS + time_ms))

    def before(self, group_N: IntArray, time_ms_N: IntArray) -> tuple[IntArray, Float32Array]:
        """How many events of a group came strictly before an instant, and log1p minutes since the
        newest, UNKNOWN without any.
        """
        end = np.searchsorted(self.axis, group_N * _AXIS_MS + time_ms_N)
        count = end - np.searchsorted(self.axis, group_N * _AXIS_MS)
        newest = self.axis[np.maximum(end - 1, 0)] if len(self.axis) else np.zeros(len(end))
        age_ms = group_N * _AXIS_MS + time_ms_N - newest
        since = np.log1p(np.where(count > 0, age_ms, 0) / MINUTE_MS)
        return count, np.where(count > 0, since, UNKNOWN).astype(np.float32)


class Columns:
    """Columns of impressions, for one training set."""

    def __init__(self, data: TrainingSet) -> None:
        self._design = Design(data)
        names = sorted(set(data.categories))
        self._category_K = np.array([names.index(name) for name in data.categories], np.int64)
        self._num_categories = len(names)
        rows = concatenated(data.logs)
        lengths = [len(log) for log in data.logs]
        user = np.repeat(np.arange(len(data.logs), dtype=np.int64), lengths)
        time_ms = rows["time_ms"].astype(np.int64)
        action = np.ascontiguousarray(rows["action"])
        self._of_user = [_Events.of(user[m], time_ms[m]) for m in _marks(rows, action)]
        prints = np.array([fingerprint("item", name) for name in data.items])
        order = np.argsort(prints)
        at = np.minimum(np.searchsorted(prints[order], rows["item"]), len(prints) - 1)
        is_item = prints[order][at] == rows["item"]
        group = user * self._num_categories + self._category_K[order[at]]
        self._of_category = []
        for name in _OF_CATEGORY:
            mine = is_item & (action == code("action", name))
            self._of_category.append(_Events.of(group[mine], time_ms[mine]))

    def item_column(self, pages: Pages) -> int | None:
        """Where the item's number stands among the columns of `counts`."""
        return self._design.item_column(pages)

    def counts(self, pages: Pages, page_N: IntArray, item_N: IntArray) -> Float32Array:
        """The forest's columns, with the item's own history where `pages` have it, (N, C)."""
        return self._design.rows(pages, page_N, item_N)

    def history(self, decisions: Decisions, page_N: IntArray, item_N: IntArray) -> Float32Array:
        """Columns of the item's category and of the time since the newest of each kind, (N, C)."""
        user, time_ms = decisions.user[page_N].astype(np.int64), decisions.time_ms[page_N]
        group = user * self._num_categories + self._category_K[item_N]
        found: list[npt.NDArray[Any]] = [
            events.before(user, time_ms)[1] for events in self._of_user
        ]
        for events in self._of_category:
            found += events.before(group, time_ms)
        return np.column_stack(found).astype(np.float32)


def _marks(rows: Rows, action: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.bool_]]:
    bought = action == code("action", "purchase")
    for place in range(len(CATEGORIES)):
        yield bought & (rows["category"] == place)
    for name in _LASTING:
        yield action == code("action", name)

"""What the user's newest interactions say of the very item that is scored, for the trees.

For a page and an item: how often the item was seen, clicked, dismissed or its goal reached among
the history before the page (`fintrec.datasets.histories`: the newest 120 interactions, all of them
earlier than the page), and the time since the newest of each. The engineered counts are sums over
all items. FinTRec's sequence has the items in it (section 3.1), so that a tree without them is
compared on less.

Shapes: M pages, N pairs of a page and an item, K items, A actions
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from features.history import INTERACTION, concatenated
from features.spec import MINUTE_MS
from features.vocabulary import code, fingerprint
from fintrec.datasets import Decisions, TrainingSet, histories

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

UNKNOWN: Final = -1.0
_ACTIONS: Final = ("impression", "click", "dismiss", "conversion")  # those that are about an item
NAMES: Final = (
    *(f"own_{action}_count" for action in _ACTIONS),
    *(f"own_{action}_log_minutes_since" for action in _ACTIONS),
)
_NUM: Final = len(_ACTIONS)
_PAGES_AT_ONCE: Final = 4096


@dataclass(frozen=True, slots=True)
class ItemHistory:
    """Histories of M pages, read when columns are asked for: all pairs at once are too many."""

    data: TrainingSet
    decisions: Decisions
    pages_M: IntArray  # places in `decisions`

    def taken(self, rows: IntArray) -> "ItemHistory":
        """Those of some of the pages, in the order given."""
        return replace(self, pages_M=self.pages_M[rows])

    def columns(self, page_N: IntArray, item_N: IntArray) -> Float32Array:
        """Counts by action, then log1p minutes since the newest or UNKNOWN: (N, 2 * A), `NAMES`."""
        out = np.zeros((len(page_N), 2 * _NUM), np.float32)
        asked, place_N = np.unique(page_N, return_inverse=True)
        order = np.argsort(place_N, kind="stable")
        for start in range(0, len(asked), _PAGES_AT_ONCE):
            part = self.pages_M[asked[start : start + _PAGES_AT_ONCE]]
            low, high = np.searchsorted(place_N[order], (start, start + len(part)))
            mine = order[low:high]
            out[mine] = self._of_part(part, place_N[mine] - start, item_N[mine])
        return out

    def _of_part(self, part: IntArray, page_N: IntArray, item_N: IntArray) -> Float32Array:
        pair, newest_ms, count = self._newest(part)
        wanted = _key(page_N[:, None], item_N[:, None], np.arange(_NUM), len(self.data.items))
        at = np.searchsorted(pair, wanted)
        found = pair[at] == wanted
        age_ms = self.decisions.time_ms[part][page_N][:, None] - newest_ms[at]
        since = np.log1p(np.where(found, age_ms, 0) / MINUTE_MS)
        columns = (np.where(found, count[at], 0), np.where(found, since, UNKNOWN))
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def _newest(self, part: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Sorted keys of (page, item, action), the newest time and the number of rows of each.

        Behind the last stands a key that no pair has.
        """
        found = histories(self.data, self.decisions, part)
        rows = concatenated(found)
        page = np.repeat(np.arange(len(part)), [len(history) for history in found])
        prints = np.array([fingerprint("item", name) for name in self.data.items])
        codes = np.array([code("action", name) for name in _ACTIONS])
        about = (
            (rows["source"] == INTERACTION)
            & np.isin(rows["action"], codes)
            & np.isin(rows["item"], prints)
        )
        rows, page = rows[about][::-1], page[about][::-1]  # newest first: `unique` finds the first
        by_print, by_code = np.argsort(prints), np.argsort(codes)
        item = by_print[np.searchsorted(prints, rows["item"], sorter=by_print)]
        action = by_code[np.searchsorted(codes, rows["action"], sorter=by_code)]
        keys, first, count = np.unique(
            _key(page, item, action, len(prints)), return_index=True, return_counts=True
        )
        none = np.iinfo(np.int64).max
        return np.append(keys, none), np.append(rows["time_ms"][first], 0), np.append(count, 0)


def _key(page: IntArray, item: IntArray, action: IntArray, num_items: int) -> IntArray:
    return (page * num_items + item) * _NUM + action

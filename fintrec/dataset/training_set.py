"""What a training set is: decisions of three periods over the users' histories.

A decision is one page shown to one user. It sees the history strictly before the page, the newest
nightly row readable before it, and the request; its labels are what was clicked on the page and
which items' goals were reached within each item's attribution window after it.

Shapes: M decisions, K items, S slots of a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.history import Rows, as_of
from features.vocabulary import Vocabulary

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SLOTS: Final = 5
EVER_MS: Final = 1 << 60
PERIODS: Final = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Decisions:
    """Pages shown, M rows in time order.

    `end`: the history before the page is `as_of(logs[user], end)`. `request`: REQUEST_COLUMNS.
    `shown`: index into the items by position, -1 none. `converted_*`: CSR of the items converted
    within (time_ms, time_ms + window], with or without a click or an exposure, complete windows
    only. Labels are known up to `observed_until_ms`: see `label_known`.
    """

    user: npt.NDArray[np.int32]
    end: npt.NDArray[np.int32]
    time_ms: IntArray
    request: IntArray
    static: npt.NDArray[np.float16]
    shown: npt.NDArray[np.int32]
    clicked: BoolArray
    converted_indptr: IntArray
    converted_items: npt.NDArray[np.int32]
    observed_until_ms: int = EVER_MS

    def __len__(self) -> int:
        return len(self.user)

    def of_users(self, user: IntArray) -> "Decisions":
        """The same decisions with their users numbered anew."""
        return replace(self, user=user.astype(np.int32))

    def taken(self, rows: IntArray) -> "Decisions":
        """Some of the decisions, in the order given."""
        start = self.converted_indptr[rows]
        counts = self.converted_indptr[rows + 1] - start
        indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        places = np.arange(indptr[-1]) + np.repeat(start - indptr[:-1], counts)
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in _BY_ROW},
            converted_indptr=indptr,
            converted_items=self.converted_items[places],
        )


_BY_ROW: Final = ("user", "end", "time_ms", "request", "static", "shown", "clicked")


def joined(parts: Sequence[Decisions]) -> Decisions:
    """Decisions of several parts that are observed alike, one behind the other."""
    counts = np.concatenate([np.diff(part.converted_indptr) for part in parts])
    whole: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _BY_ROW
    }
    return replace(
        parts[0],
        **whole,
        converted_indptr=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        converted_items=np.concatenate([part.converted_items for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Decisions of the three periods over the histories of the users that decisions are about.

    `items` is the output order of both models and equals `vocabulary.items`. `logs` holds of each
    user what any decision may see. `window_ms` is each item's label window, `categories` each
    item's (none: all alike). `exclusions` counts what was left out, by reason.
    """

    items: tuple[str, ...]
    content_types: tuple[str, ...]
    vocabulary: Vocabulary
    logs: list[Rows]
    train: Decisions
    validation: Decisions
    test: Decisions
    exclusions: dict[str, int]
    window_ms: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    users: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


def histories(
    ts: TrainingSet, decisions: Decisions, indices: Sequence[int] | IntArray
) -> list[Rows]:
    """The bounded history before each of the decisions, for `encode_histories`."""
    return [as_of(ts.logs[decisions.user[i]], int(decisions.end[i])) for i in indices]


def label_known(ts: TrainingSet, decisions: Decisions) -> BoolArray:
    """Where a conversion label is complete, (M, K).

    Elsewhere the window reaches beyond what could be observed: neither a positive nor a negative.
    """
    return decisions.time_ms[:, None] + ts.window_ms <= decisions.observed_until_ms


def converted(ts: TrainingSet, decisions: Decisions, indices: IntArray) -> BoolArray:
    """Conversion labels of some decisions, dense (B, K)."""
    out = np.zeros((len(indices), len(ts.items)), bool)
    for row, i in enumerate(indices):
        start, end = decisions.converted_indptr[i : i + 2]
        out[row, decisions.converted_items[start:end]] = True
    return out

"""Recency-weighted item-kNN over sequences: what was taken close to what a user took lately.

- the affinity of items i and j sums, over the training sequences that hold both at most `reach`
  places apart, 1 / places apart; it is symmetric
- it is divided by (occurrences of i * occurrences of j) ** `damping`, 0.5 being the cosine
- an item's score is the sum of its affinities to the user's newest `recent` items, the newest with
  weight 1, each one before with `decay` times the weight of its successor

After the sequential item-kNN baselines of Ludewig and Jannach (2018). Deterministic.

Shapes: B batch, T history, N items (column j is item j + 1), Z stored affinities
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fintrec.public.item_sequences import IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourSettings:
    """How affinities are counted and summed."""

    reach: int = 10
    damping: float = 0.1
    decay: float = 0.5
    recent: int = 20

    def __post_init__(self) -> None:
        if self.reach < 1 or self.recent < 1:
            raise ValueError(f"reach is {self.reach} and recent {self.recent}, expected 1 or more")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is {self.decay}, expected more than 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Affinities in rows: those of item i are at `starts[i - 1]:starts[i]`."""

    settings: NeighbourSettings
    starts: IntArray  # (N + 1,)
    others: IntArray  # (Z,) column of the other item
    affinities: npt.NDArray[np.float64]  # (Z,)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.starts) - 1

    def score(self, padded_BT: IntArray) -> npt.NDArray[np.float32]:
        """Scores (B, N) of histories whose newest item is last, 0 is padding; all >= 0.

        An item of the history has a score like any other: masking it is the caller's choice.
        """
        newest_BT = padded_BT[:, -self.settings.recent :]
        after_BT = np.cumsum(newest_BT[:, ::-1] > 0, axis=1)[:, ::-1] - 1
        rows, places = np.nonzero(newest_BT)
        items = newest_BT[rows, places]
        weights = self.settings.decay ** after_BT[rows, places]
        counts = self.starts[items] - self.starts[items - 1]
        # Every affinity of every history item: its place in the stored arrays.
        first = np.repeat(self.starts[items - 1] - (np.cumsum(counts) - counts), counts)
        stored = first + np.arange(len(first))
        cells = np.repeat(rows, counts) * self.num_items + self.others[stored]
        summed = np.bincount(
            cells,
            weights=np.repeat(weights, counts) * self.affinities[stored],
            minlength=len(padded_BT) * self.num_items,
        )
        return summed.reshape(len(padded_BT), self.num_items).astype(np.float32)


def fit(
    sequences: Sequence[IntArray], num_items: int, settings: NeighbourSettings | None = None
) -> Neighbours:
    """Count the affinities of sequences of items 1..`num_items`, oldest first.

    Raises ValueError for an item outside that range.
    """
    settings = settings or NeighbourSettings()
    nothing = np.zeros(0, dtype=np.int64)
    flat = np.concatenate([nothing, *sequences]).astype(np.int64)
    if len(flat) and not (flat.min() >= 1 and flat.max() <= num_items):
        raise ValueError(
            f"items are {flat.min()} to {flat.max()}, expected all from 1 to {num_items}"
        )
    owner = np.repeat(np.arange(len(sequences)), [len(one) for one in sequences])
    cells, weights = [], []
    for apart in range(1, settings.reach + 1):
        same = owner[apart:] == owner[:-apart]
        old, new = flat[:-apart][same] - 1, flat[apart:][same] - 1
        differ = old != new
        old, new = old[differ], new[differ]
        cells += [old * num_items + new, new * num_items + old]
        weights.append(np.full(2 * len(old), 1.0 / apart))
    found, places = np.unique(np.concatenate(cells), return_inverse=True)
    affinities = np.bincount(places.reshape(-1), np.concatenate(weights), minlength=len(found))
    occurrences = np.maximum(np.bincount(flat - 1, minlength=num_items), 1)
    rows, others = found // num_items, found % num_items
    affinities = affinities / (occurrences[rows] * occurrences[others]) ** settings.damping
    starts = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=num_items))))
    return Neighbours(settings, starts.astype(np.int64), others, affinities)

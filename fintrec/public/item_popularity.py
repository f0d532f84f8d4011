"""Popularity as a ranking of items: the count of each, the same for every user.

Counted over all interactions, targets included, it is no honest model but an oracle for the
evaluator: its figures on a public file are known to the last digit. The honest one counts training
interactions only.

Shapes: B batch, T history, N items (column j is item j + 1)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fintrec.public.full_ranking import FloatArray
from fintrec.public.item_sequences import IntArray


@dataclass(frozen=True, slots=True)
class ItemPopularity:
    """Counts (N,) float32; exact up to 2**24 interactions of one item."""

    counts_N: FloatArray

    def score(self, padded_BT: IntArray) -> FloatArray:
        """A Scorer: the counts for each history, (B, N)."""
        return np.broadcast_to(self.counts_N, (len(padded_BT), len(self.counts_N)))


def count(sequences: Sequence[IntArray], num_items: int) -> ItemPopularity:
    """Popularity in sequences of items 1..`num_items`."""
    flat = np.concatenate(sequences)
    return ItemPopularity(np.bincount(flat - 1, minlength=num_items).astype(np.float32))

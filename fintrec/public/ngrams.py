"""Next kind by the longest context seen often enough: the n-gram with backoff.

An element is predicted from its 2nd place on, from up to `order` elements before it. Of the contexts
that end there the longest one seen at least `min_count` times in training speaks; its counts are
smoothed by adding `added` to every kind. The README of both public data sets measures with
`min_count` 10 (BPIC 2012) and 20 (msnbc), `added` 0.1: found by reproducing its numbers.

Shapes: N elements, T targets (elements from the 2nd place on)
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fintrec.public.ragged import IntArray, Ragged

_LARGEST: Final = 2**62
ADDED: Final = 0.1
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Order:
    """Contexts of one length: how often each was seen, and each kind after it."""

    context_C: IntArray  # ascending codes
    total_C: IntArray
    best_C: IntArray  # most frequent kind, the lowest of several
    pair_P: IntArray  # ascending codes of context and kind
    count_P: IntArray


@dataclass(frozen=True, slots=True)
class Backoff:
    """A fitted model; `predict` gives the probability of every target and whether it was the best."""

    orders: tuple[_Order, ...]
    num_kinds: int
    min_count: int
    added: float

    def predict(self, sequences: Ragged) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """(probability_T, is_best_T) of the targets in order.

        ValueError for sequences of another number of kinds.
        """
        if sequences.num_kinds != self.num_kinds:
            raise ValueError(f"{sequences.num_kinds} kinds, the model knows {self.num_kinds}")
        codes = _context_codes(sequences, len(self.orders) - 1)
        place_N, kind_N = sequences.place_N, sequences.kind_N
        probability_N = np.zeros(len(kind_N))
        best_N = np.full(len(kind_N), -1, np.int64)
        open_N = place_N > 0
        for order in range(len(self.orders) - 1, -1, -1):
            ask = np.flatnonzero(open_N & (place_N >= order))
            probability, best, known = self._ask(order, codes[order][ask], kind_N[ask])
            said = ask[known]
            probability_N[said], best_N[said] = probability[known], best[known]
            open_N[said] = False
        is_target = place_N > 0
        return probability_N[is_target], (best_N == kind_N)[is_target]

    def _ask(
        self, order: int, context: IntArray, kind: IntArray
    ) -> tuple[FloatArray, IntArray, npt.NDArray[np.bool_]]:
        """What contexts of one length say; the shortest is always answered."""
        table = self.orders[order]
        row, seen = _find(table.context_C, context)
        total = np.where(seen, table.total_C[row], 0)
        pair, met = _find(table.pair_P, context * self.num_kinds + kind)
        count = np.where(met, table.count_P[pair], 0)
        probability = (count + self.added) / (total + self.added * self.num_kinds)
        return probability, table.best_C[row], (total >= self.min_count) | (order == 0)


def fit(sequences: Ragged, order: int, min_count: int, added: float = ADDED) -> Backoff:
    """Count contexts of 0..order elements before each target.

    ValueError without a target, or where the contexts of that length have no 64-bit code.
    """
    is_target = sequences.place_N > 0
    if not is_target.any():
        raise ValueError("no sequence has a 2nd element, there is nothing to predict")
    codes = _context_codes(sequences, order)
    tables = []
    for length in range(order + 1):
        chosen = is_target & (sequences.place_N >= length)
        tables.append(_count(codes[length][chosen], sequences.kind_N[chosen], sequences.num_kinds))
    return Backoff(tuple(tables), sequences.num_kinds, min_count, added)


def _context_codes(sequences: Ragged, order: int) -> list[IntArray]:
    """Code of the 0..order elements before each element; meaningful where there are that many."""
    base = sequences.num_kinds + 1
    if base ** (order + 1) >= _LARGEST:
        raise ValueError(
            f"contexts of {order} of {sequences.num_kinds} kinds do not fit into 64 bits: "
            "take a lower order"
        )
    code_N = np.zeros(len(sequences.kind_N), np.int64)
    found = [code_N]
    for back in range(1, order + 1):
        before_N = np.zeros_like(code_N)
        before_N[back:] = sequences.kind_N[:-back] + 1
        code_N = code_N + before_N * base ** (back - 1)
        found.append(code_N)
    return found


def _count(context: IntArray, kind: IntArray, num_kinds: int) -> _Order:
    if not len(context):
        # No sequence is that long: one code that no context has, never seen.
        return _Order(*(np.array([value]) for value in (-1, 0, 0, -1, 0)))
    pair_P, count_P = np.unique(context * num_kinds + kind, return_counts=True)
    context_P, kind_P = pair_P // num_kinds, pair_P % num_kinds
    context_C, row_P = np.unique(context_P, return_inverse=True)
    total_C = np.bincount(row_P, weights=count_P).astype(np.int64)
    order = np.lexsort((kind_P, -count_P, row_P))
    first = np.unique(row_P[order], return_index=True)[1]
    return _Order(context_C, total_C, kind_P[order][first], pair_P, count_P)


def _find(ascending: IntArray, wanted: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    row = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return row, ascending[row] == wanted


def quality(model: Backoff, sequences: Ragged) -> dict[str, float]:
    """Mean negative log-likelihood in nats and top-1 accuracy over all targets."""
    probability_T, is_best_T = model.predict(sequences)
    if not len(probability_T):
        raise ValueError("no sequence has a 2nd element, there is nothing to judge")
    return {
        "nll": round(float(-np.log(probability_T).mean()), 4),
        "accuracy": round(float(is_best_T.mean()), 4),
        "targets": len(probability_T),
    }

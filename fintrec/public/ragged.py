"""Sequences of different lengths as one flat array: what n-grams and batches are made of.

Shapes: N elements of all sequences, S sequences
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Kinds 0..num_kinds-1 of all elements; sequence s is `kind_N[starts[s]:starts[s + 1]]`.

    Raises ValueError for kinds out of range and starts that do not fit.
    """

    kind_N: IntArray
    start_S1: IntArray  # S + 1 entries
    num_kinds: int

    def __post_init__(self) -> None:
        if self.start_S1[0] != 0 or self.start_S1[-1] != len(self.kind_N):
            raise ValueError(
                f"starts go from {self.start_S1[0]} to {self.start_S1[-1]}, "
                f"expected 0 to {len(self.kind_N)}"
            )
        if len(self.kind_N) and not 0 <= self.kind_N.min() <= self.kind_N.max() < self.num_kinds:
            raise ValueError(f"kinds reach {self.kind_N.max()}, expected 0..{self.num_kinds - 1}")

    def __len__(self) -> int:
        return len(self.start_S1) - 1

    @property
    def length_S(self) -> IntArray:
        """Elements of each sequence."""
        return np.diff(self.start_S1)

    @property
    def place_N(self) -> IntArray:
        """Place of each element in its sequence, from 0."""
        return np.arange(len(self.kind_N)) - np.repeat(self.start_S1[:-1], self.length_S)

    def between(self, first: int, last: int) -> "Ragged":
        """Sequences first..last-1."""
        starts = self.start_S1[first : last + 1]
        kinds = self.kind_N[starts[0] : starts[-1]]
        return Ragged(kinds, starts - starts[0], self.num_kinds)

    def where(self, chosen_S: npt.NDArray[np.bool_]) -> "Ragged":
        """The chosen sequences, in their order."""
        length_S = self.length_S
        return Ragged(
            self.kind_N[np.repeat(chosen_S, length_S)],
            np.concatenate(([0], np.cumsum(length_S[chosen_S]))),
            self.num_kinds,
        )


def ragged(sequences: list[list[int]], num_kinds: int) -> Ragged:
    """Lists of kinds as one."""
    lengths: list[Any] = [len(sequence) for sequence in sequences]
    kinds = [kind for sequence in sequences for kind in sequence]
    starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return Ragged(np.array(kinds, np.int64), starts.astype(np.int64), num_kinds)

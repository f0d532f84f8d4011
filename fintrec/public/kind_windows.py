"""Sequences of kinds as batches of windows: equal lengths together, so that little is padding.

A window is up to `size` elements that each predict the one after them. A longer sequence is cut into
windows that overlap by half; an element is judged in one window only, the one with more before it.

Shapes: N elements of all sequences, B batch, T places of a window, E elapsed times
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fintrec.public.ragged import IntArray, Ragged

IGNORED = -1
_START_MS = 1  # instants of elements without any: their places, from 1


@dataclass(frozen=True, slots=True)
class Series:
    """Sequences of kinds with what is known of each element when it happens."""

    kinds: Ragged
    time_ms_N: IntArray  # above 0, never falling within a sequence
    elapsed_NE: npt.NDArray[np.float32]  # log(1 + ms)

    def between(self, first: int, last: int) -> "Series":
        """Sequences first..last-1."""
        begin, end = self.kinds.start_S1[first], self.kinds.start_S1[last]
        return Series(
            self.kinds.between(first, last),
            self.time_ms_N[begin:end],
            self.elapsed_NE[begin:end],
        )


def without_time(kinds: Ragged) -> Series:
    """Sequences of which only the order is known."""
    num = len(kinds.kind_N)
    return Series(
        kinds,
        kinds.place_N + _START_MS,
        np.zeros((num, 1), np.float32),
    )


@dataclass(frozen=True, slots=True)
class KindBatch:
    """Windows of about one length, padded at their ends."""

    kind_BT: Tensor
    place_BT: Tensor  # in the whole sequence
    time_BT: Tensor  # 0 is padding
    elapsed_BTE: Tensor
    target_BT: Tensor  # IGNORED where nothing is judged


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of a series: their first element, their length, and the first judged place."""

    series: Series
    first_W: IntArray
    length_W: IntArray
    judged_W: IntArray
    place_N: IntArray

    @property
    def num_targets(self) -> int:
        """Elements that are judged."""
        return int((self.length_W - self.judged_W).sum())

    def plan(self, batch_tokens: int, rng: np.random.Generator | None) -> list[IntArray]:
        """Windows of batches of about `batch_tokens` elements; in random order with `rng`."""
        tie = rng.random(len(self.first_W)) if rng else np.arange(len(self.first_W))
        groups = grouped(np.lexsort((tie, self.length_W)), self.length_W, batch_tokens)
        order = rng.permutation(len(groups)) if rng else np.arange(len(groups))
        return [groups[group] for group in order]

    def batch(self, chosen: IntArray) -> KindBatch:
        """The chosen windows, padded to the longest of them."""
        size = int(self.length_W[chosen].max())
        place_T = np.arange(size)
        is_real = place_T < self.length_W[chosen, None]
        row_BT = self.first_W[chosen, None] + np.where(is_real, place_T, 0)
        kind_N = self.series.kinds.kind_N
        judged = is_real & (place_T >= self.judged_W[chosen, None])
        target_BT = np.where(judged, kind_N[np.where(judged, row_BT + 1, 0)], IGNORED)
        arrays = (
            kind_N[row_BT],
            self.place_N[row_BT],
            np.where(is_real, self.series.time_ms_N[row_BT], 0),
            self.series.elapsed_NE[row_BT],
            target_BT,
        )
        return KindBatch(*(torch.from_numpy(array) for array in arrays))


def windows(series: Series, size: int) -> Windows:
    """Windows of at most `size` elements over all sequences of two elements or more."""
    if size < 2:
        raise ValueError(f"windows of {size} elements, expected at least 2")
    start_S, inputs_S = series.kinds.start_S1[:-1], series.kinds.length_S - 1
    half = size // 2
    # The first window judges all its places, each next one those beyond the window before it.
    extra_S = np.maximum(0, -(-(inputs_S - size) // half))
    num_S = np.where(inputs_S > 0, 1 + extra_S, 0)
    sequence_W = np.repeat(np.arange(len(num_S)), num_S)
    step_W = np.arange(len(sequence_W)) - np.repeat(np.cumsum(num_S) - num_S, num_S)
    shift_W = step_W * half
    length_W = np.minimum(size, inputs_S[sequence_W] - shift_W)
    judged_W = np.where(step_W > 0, size - half, 0)
    return Windows(series, start_S[sequence_W] + shift_W, length_W, judged_W, series.kinds.place_N)


def grouped(order: IntArray, length_W: IntArray, batch_tokens: int) -> list[IntArray]:
    """Windows in order of length, cut where a padded batch would hold more than `batch_tokens`."""
    groups, begin = [], 0
    lengths = length_W[order]
    while begin < len(order):
        # Lengths rise, so the last one of a group is the padded length.
        most = max(1, batch_tokens // int(lengths[begin]))
        end = min(len(order), begin + most)
        while end - begin > 1 and (end - begin) * int(lengths[end - 1]) > batch_tokens:
            end = begin + max(1, batch_tokens // int(lengths[end - 1]))
        groups.append(order[begin:end])
        begin = end
    return groups

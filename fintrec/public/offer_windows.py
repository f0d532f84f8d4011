"""Offers as batches: the newest rows of a case up to its O_SENT, side features, outcome.

Every batch goes through `leaks.check_known`.

Shapes: O offers, B batch, T places, X side features
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fintrec.public.event_log import EventLog, IntArray
from fintrec.public.event_series import cases
from fintrec.public.kind_windows import IGNORED, KindBatch, Series
from fintrec.public.leaks import check_known
from fintrec.public.offers import Offers

_SORTED = 8  # batches' worth of offers that are sorted by length together


@dataclass(frozen=True, slots=True)
class OfferBatch:
    """Offers whose windows are padded to the longest of them."""

    window: KindBatch
    side_BX: Tensor
    is_accepted_B: Tensor


@dataclass(frozen=True, slots=True)
class OfferWindows:
    """Offers of a log with their side features; a window is at most `size` rows."""

    log: EventLog
    series: Series  # of all cases: row i of case c is element i + c
    offers: Offers
    side_OX: npt.NDArray[np.float32]
    size: int

    def __len__(self) -> int:
        return len(self.offers)

    @property
    def length_O(self) -> IntArray:
        """Rows of each offer's window."""
        return np.minimum(self.offers.row_O - self.offers.first_O + 1, self.size)

    def take(self, chosen: IntArray) -> "OfferWindows":
        """The chosen offers."""
        return OfferWindows(
            self.log, self.series, self.offers.take(chosen), self.side_OX[chosen], self.size
        )

    def plan(self, batch_size: int, rng: np.random.Generator | None) -> list[IntArray]:
        """Offers in batches of one size, so that each weighs the same; shuffled with `rng`.

        Lengths are alike within a batch as far as a shuffled part of the offers allows.
        """
        order = rng.permutation(len(self)) if rng else np.arange(len(self))
        parts = np.array_split(order, -(-len(order) // (_SORTED * batch_size)))
        batches = [
            batch
            for part in parts
            for batch in np.array_split(
                part[np.argsort(self.length_O[part], kind="stable")], -(-len(part) // batch_size)
            )
        ]
        return [batches[at] for at in rng.permutation(len(batches))] if rng else batches

    def batch(self, chosen: IntArray) -> OfferBatch:
        """The chosen offers; LeakFound for a row that was not known when one of them was sent."""
        offers, length_B = self.offers.take(chosen), self.length_O[chosen]
        place_T = np.arange(int(length_B.max()))
        is_real_BT = place_T < length_B[:, None]
        row_BT = (offers.row_O - length_B + 1)[:, None] + np.where(is_real_BT, place_T, 0)
        check_known(self.log, offers, row_BT, is_real_BT)
        element_BT = row_BT + self.log.case_N[row_BT]
        series = self.series
        window = (
            series.kinds.kind_N[element_BT],
            row_BT - offers.first_O[:, None],
            np.where(is_real_BT, series.time_ms_N[element_BT], 0),
            series.elapsed_NE[element_BT],
            np.full(row_BT.shape, IGNORED),
        )
        return OfferBatch(
            KindBatch(*(torch.from_numpy(array) for array in window)),
            torch.from_numpy(self.side_OX[chosen]),
            torch.from_numpy(offers.is_accepted_O.astype(np.float32)),
        )


def offer_windows(
    log: EventLog, offers: Offers, side_OX: npt.NDArray[np.float32], size: int
) -> OfferWindows:
    """Windows of offers over a log."""
    return OfferWindows(log, cases(log), offers, side_OX, size)

"""What is shown where: the part of the next click that is not the user's choice.

P(clicked next) is P(shown) P(click | shown) up to a constant. Added to the logits inside the loss
of eq. 2, the log shares of exposure of a place leave the model with the second factor, which is the
one that pCTR means. Never part of a served model.

Shapes: L requests, P places, K items
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from features.encoding import REQUEST_COLUMNS

if TYPE_CHECKING:
    from fintrec.datasets import TrainingSet

PLACE_COLUMNS: Final = [
    REQUEST_COLUMNS.index(c) for c in ("product", "page", "placement", "layout")
]
PRIOR_WEIGHT: Final = 100.0  # impressions that the shares over all places count for
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ExposurePrior:
    """Log shares of exposure by place: `log_shares_PK` of the places `place_P4`, sorted, then one
    last row over all places, for a place that was never seen.
    """

    place_P4: IntArray
    log_shares_PK: FloatArray

    def rows(self, request_LR: IntArray) -> FloatArray:
        """The log shares of each request's place, (L, K)."""
        return self.log_shares_PK[self._index(request_LR[:, PLACE_COLUMNS])]

    def _index(self, place_L4: IntArray) -> IntArray:
        unknown = len(self.place_P4)
        same = (place_L4[:, None] == self.place_P4[None]).all(axis=2)
        return (
            np.where(same.any(axis=1), same.argmax(axis=1), unknown)
            if unknown
            else (np.zeros(len(place_L4), np.int64))
        )


def no_prior(num_items: int) -> ExposurePrior:
    """Eq. 2 as it is printed."""
    return ExposurePrior(np.empty((0, 4), np.int64), np.zeros((1, num_items)))


def exposure_prior(data: "TrainingSet") -> ExposurePrior:
    """Measured on the training pages; a place's shares are shrunk towards those of all places."""
    shown = data.train.shown
    page, position = np.nonzero(shown >= 0)
    item = shown[page, position].astype(np.int64)
    places, owner = np.unique(data.train.request[:, PLACE_COLUMNS], axis=0, return_inverse=True)
    num_items = len(data.items)
    counts = np.zeros((len(places), num_items))
    np.add.at(counts, (owner.reshape(-1)[page], item), 1.0)
    overall = counts.sum(axis=0) + 1.0
    overall /= overall.sum()
    shares = counts + PRIOR_WEIGHT * overall
    shares /= shares.sum(axis=1, keepdims=True)
    return ExposurePrior(places, np.log(np.concatenate((shares, overall[None]))))

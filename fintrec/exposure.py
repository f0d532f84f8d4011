"""What is shown where: the part of the next click that is not the user's choice.

P(clicked next) is P(shown) P(click | shown) up to a constant. Added to the logits inside the loss
of eq. 2, the log shares of exposure of a place leave the model with the second factor, which is the
one that pCTR means. Never part of a served model.

Shapes: L requests, P places, K items
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from features.encoding import REQUEST_COLUMNS

if TYPE_CHECKING:
    from fintrec.datasets import TrainingSet

PLACE_COLUMNS: Final = [
    REQUEST_COLUMNS.index(c) for c in ("product", "page", "placement", "layout")
]
PRIOR_WEIGHT: Final = 100.0  # impressions that the shares over all places count for


@dataclass(frozen=True, slots=True)
class ExposurePrior:
    """Log shares of exposure by place: `log_shares_PK` of the places `place_P4`, sorted, then one
    last row over all places, for a place that was never seen.
    """

    place_P4: Tensor
    log_shares_PK: Tensor

    def rows(self, request_LR: Tensor) -> Tensor:
        """The log shares of each request's place, (L, K) float64, on the device of the prior."""
        unknown = len(self.place_P4)
        if not unknown:
            return self.log_shares_PK.expand(len(request_LR), -1)
        same_LP = (request_LR[:, None, PLACE_COLUMNS] == self.place_P4).all(dim=2)
        first_L = same_LP.to(torch.int8).argmax(dim=1)
        return self.log_shares_PK[torch.where(same_LP.any(dim=1), first_L, unknown)]


def no_prior(num_items: int) -> ExposurePrior:
    """Eq. 2 as it is printed."""
    return ExposurePrior(
        torch.empty(0, len(PLACE_COLUMNS), dtype=torch.int64),
        torch.zeros(1, num_items, dtype=torch.float64),
    )


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
    log_shares = np.log(np.concatenate((shares, overall[None])))
    return ExposurePrior(torch.from_numpy(places), torch.from_numpy(log_shares))

"""Side features of an offer (F_s of FinTRec section 3.2): the forest's numbers, ready for a linear layer.

Amount and age of the case stand there as quantile bins as well, filled up to the value (Gorishniy et
al., NeurIPS 2022): what they say of an offer is no line. Bins and scale are those of training offers.

Shapes: O offers, C columns of the context, X side features
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

BINS: Final = 16
BINNED: Final = (0, 2)  # of the numbers after the counts: age of the case, amount
FloatArray = npt.NDArray[np.float64]
_FARTHEST: Final = 5.0  # standard deviations, beyond which a side feature is cut
_LEAST_SPREAD: Final = 1e-3


@dataclass(frozen=True, slots=True)
class SideFeatures:
    """`binned` are the columns that are given as bins too, `edges` the ends of their bins."""

    binned: tuple[int, ...]
    edges: tuple[FloatArray, ...]
    mean_X: FloatArray
    spread_X: FloatArray

    @property
    def size(self) -> int:
        """X."""
        return len(self.mean_X)

    def of(self, context_OC: FloatArray) -> npt.NDArray[np.float32]:
        """(O, X) float32 of offers' numbers."""
        found = _with_bins(context_OC, self.binned, self.edges)
        scaled = (found - self.mean_X) / self.spread_X
        return np.clip(scaled, -_FARTHEST, _FARTHEST).astype(np.float32)


def fit_side_features(context_OC: FloatArray, num_counts: int) -> SideFeatures:
    """Of training offers' context, whose first columns are counts."""
    shares = np.linspace(0, 1, BINS + 1)
    binned = tuple(num_counts + at for at in BINNED)
    edges = tuple(np.unique(np.quantile(context_OC[:, column], shares)) for column in binned)
    found = _with_bins(context_OC, binned, edges)
    return SideFeatures(binned, edges, found.mean(0), found.std(0) + _LEAST_SPREAD)


def _with_bins(
    context_OC: FloatArray, binned: tuple[int, ...], edges: tuple[FloatArray, ...]
) -> FloatArray:
    filled = [
        np.clip((context_OC[:, column, None] - ends[:-1]) / np.diff(ends), 0, 1)
        for column, ends in zip(binned, edges, strict=True)
    ]
    return np.concatenate((context_OC, *filled), axis=1)

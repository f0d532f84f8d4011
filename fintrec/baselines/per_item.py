"""From a down-sampled classifier to honest probabilities: the prior, then each item's own map.

A classifier that saw all positives and a share r of the negatives says too much: its odds are
1 / r times the true ones. After that correction each item gets a map sigmoid(a logit + b), fitted on
validation (FinTRec section 3.2, "item-specific calibration"). Items differ in how much they tell:
the maps are fitted together, drawn towards one common map as if by `pull` observations of it, so an
item with few positives stays near the common map and none is left out.

Shapes: N pages, K items
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fintrec.logistic import sigmoid

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
PULL: Final = 20.0
_STEPS: Final = 30
_EDGE: Final = 1e-9
_CLOSE: Final = 1e-6  # of slopes and offsets
_MIN_SLOPE: Final = 1e-3


def log_odds(probability: npt.ArrayLike) -> FloatArray:
    """log(p / (1 - p)) of probabilities held off 0 and 1."""
    inside = np.clip(np.asarray(probability, np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def corrected(probability: npt.ArrayLike, negatives_rate: float) -> FloatArray:
    """Log odds as they are where all negatives count, from a classifier that saw a share of them."""
    if not 0 < negatives_rate <= 1:
        raise ValueError(f"negatives_rate={negatives_rate} is not in (0, 1]")
    return log_odds(probability) + np.log(negatives_rate)


@dataclass(frozen=True, slots=True)
class PerItem:
    """Slopes and offsets of the items' maps on the log odds, (K,) each."""

    slope_K: FloatArray
    offset_K: FloatArray

    def apply(self, log_odds_NK: FloatArray) -> FloatArray:
        """Probabilities, (N, K)."""
        return sigmoid(np.asarray(log_odds_NK, np.float64) * self.slope_K + self.offset_K)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"slope": self.slope_K.tolist(), "offset": self.offset_K.tolist()}


def fit(
    log_odds_NK: FloatArray, converted_NK: BoolArray, known_NK: BoolArray, pull: float = PULL
) -> PerItem:
    """Maps of lowest log loss over the known labels; without any known label the identity."""
    if log_odds_NK.shape != converted_NK.shape or log_odds_NK.shape != known_NK.shape:
        raise ValueError(
            f"log odds {log_odds_NK.shape}, labels {converted_NK.shape}, known {known_NK.shape}: "
            "expected one shape (N, K)"
        )
    num_items = log_odds_NK.shape[1]
    identity = np.array([1.0, 0.0])
    common = _newton(
        log_odds_NK.reshape(-1, 1),
        converted_NK.reshape(-1, 1),
        known_NK.reshape(-1, 1),
        start=identity[:, None],
        pull=1.0,
    )[:, 0]
    if common[0] < _MIN_SLOPE:
        common[0] = _MIN_SLOPE
    fitted = _newton(
        log_odds_NK,
        converted_NK,
        known_NK,
        start=np.tile(common[:, None], (1, num_items)),
        pull=pull,
    )
    return PerItem(np.maximum(fitted[0], _MIN_SLOPE), fitted[1])


def _newton(
    level_NK: FloatArray,
    label_NK: BoolArray,
    known_NK: BoolArray,
    start: FloatArray,
    pull: float,
) -> FloatArray:
    """(2, K) slopes and offsets: damped Newton steps, all columns at once, drawn to `start`.

    The level is centred at each column's start, so that slope and offset hardly trade.
    """
    weight = known_NK.astype(np.float64)
    count = np.maximum(weight.sum(axis=0), 1.0)
    centre = (level_NK * weight).sum(axis=0) / count
    inputs = (level_NK - centre) * weight
    slope, offset = start[0].copy(), start[1] + start[0] * centre
    begin = np.stack((slope, offset))
    for _ in range(_STEPS):
        guess = sigmoid(slope * (level_NK - centre) + offset)
        residual = (guess - label_NK) * weight
        bend = guess * (1 - guess) * weight
        g0 = (residual * inputs).sum(axis=0) + pull * (slope - begin[0])
        g1 = residual.sum(axis=0) + pull * (offset - begin[1])
        h00 = (bend * inputs * inputs).sum(axis=0) + pull
        h01 = (bend * inputs).sum(axis=0)
        h11 = bend.sum(axis=0) + pull
        det = h00 * h11 - h01 * h01
        step0, step1 = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        # A step of at most one in either keeps Newton from leaping where the loss is flat.
        scale = np.minimum(1.0, 1.0 / np.maximum(np.maximum(np.abs(step0), np.abs(step1)), _EDGE))
        slope, offset = slope - scale * step0, offset - scale * step1
        if max(np.abs(step0).max(), np.abs(step1).max()) < _CLOSE:
            break
    return np.stack((slope, offset - slope * centre))

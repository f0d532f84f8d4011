"""Maps of pCTR fitted on impressions: Platt, beta, isotonic, and an item's own part on top.

- Platt (1999): logistic on z, with his smoothed targets
- beta (Kull, Silva Filho, Flach 2017): logistic on log p = z and -log(1 - p), both weights kept
  positive, so that it is monotone
- isotonic: pool adjacent violators over bins of z, then straight lines between the pools' centres
  (so that items of one pool keep their order)
- by item: offset and slope under Gaussian priors around the map of all items

Shapes: N impressions, K items
"""

import hashlib
import json
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import isotonic_regression

from fintrec.calibration import LIMIT, MIN_SLOPE, STEPS, Calibration, FloatArray, Knots
from fintrec.logistic import WEAK, corrections, logit, regression

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

MAX_BINS: Final = 100
CLICKS_A_BIN: Final = 5  # expected in each of isotonic's bins
BETA_STD: Final = 2.0  # of beta's third parameter: clicks are rare, so data say little of p near 1
SLOPE_STD: Final = 0.25
LEAST_ITEM_SLOPE: Final = 0.1
_ANY: Final = 1e3  # a prior that holds nothing
_WIDEST: Final = 30.0  # an int16 of thousandths ends at 32.767


def targets(clicked_N: BoolArray) -> FloatArray:
    """Platt's smoothed targets: a sample without clicks, or without impressions, has an answer."""
    positives = int(clicked_N.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(clicked_N) - positives + 2)
    return np.where(clicked_N, high, low)


def fit(level_N: npt.ArrayLike, clicked_N: npt.ArrayLike) -> Calibration:
    """Platt's map of impressions: z of the shown item, and whether it was clicked.

    a >= MIN_SLOPE, also where the model ranks backwards. ValueError on shapes that differ.
    """
    level, clicked = _pair(level_N, clicked_N)
    inputs = np.stack((level - _centre(level), np.ones_like(level)))
    slope, offset = regression(
        inputs, targets(clicked), (1.0, 0.0), (WEAK, WEAK), (MIN_SLOPE, None)
    )
    return named(Calibration("", float(slope), float(offset - slope * _centre(level)), limit=LIMIT))


def fit_level(level_N: npt.ArrayLike, clicked_N: npt.ArrayLike) -> Calibration:
    """Platt's map with slope 1: only the level is fitted. The fallback of few clicks."""
    level, clicked = _pair(level_N, clicked_N)
    everyone = np.zeros(len(level), np.int64)
    offset, _ = corrections(level, targets(clicked), everyone, 1, _ANY, 0.0, LEAST_ITEM_SLOPE)
    return named(Calibration("", 1.0, float(offset[0]), limit=LIMIT))


def fit_beta(level_N: npt.ArrayLike, clicked_N: npt.ArrayLike) -> Calibration:
    """The beta map: a >= MIN_SLOPE, c >= 0 with a prior of `BETA_STD` around 0."""
    level, clicked = _pair(level_N, clicked_N)
    rest = -np.log(-np.expm1(np.minimum(level, -1e-12)))
    inputs = np.stack((level - _centre(level), rest, np.ones_like(level)))
    a, c, offset = regression(
        inputs,
        targets(clicked),
        (1.0, 0.0, 0.0),
        (WEAK, 1 / BETA_STD**2, WEAK),
        (MIN_SLOPE, 0.0, None),
    )
    b = float(offset - a * _centre(level))
    return named(Calibration("", float(a), b, float(c), limit=LIMIT))


def fit_isotonic(level_N: npt.ArrayLike, clicked_N: npt.ArrayLike) -> Calibration:
    """The isotonic map; its bins hold equally many impressions, `CLICKS_A_BIN` clicks on average."""
    level, clicked = _pair(level_N, clicked_N)
    if not len(level):
        return fit(level, clicked)
    num_bins = int(np.clip(clicked.sum() // CLICKS_A_BIN, 1, MAX_BINS))
    bins = [
        part for part in np.array_split(np.argsort(level, kind="stable"), num_bins) if len(part)
    ]
    target = targets(clicked)
    size = np.array([len(part) for part in bins], np.float64)
    means = np.array([(level[part].mean(), target[part].mean()) for part in bins])
    pooled = isotonic_regression(means[:, 1], sample_weight=size)
    rate, pool = np.unique(pooled, return_inverse=True)
    weight = np.bincount(pool, size)
    centre = np.bincount(pool, size * means[:, 0]) / weight
    # Pools at one level (equal logits) are one knot.
    spot, place = np.unique(_counted(centre), return_inverse=True)
    rate = np.bincount(place, weight * rate) / np.bincount(place, weight)
    height = _counted(np.clip(logit(rate), -LIMIT, LIMIT))
    return named(Calibration("", knots=Knots(tuple(spot.tolist()), height), limit=LIMIT))


def by_item(
    whole: Calibration,
    level_N: npt.ArrayLike,
    item_N: npt.ArrayLike,
    clicked_N: npt.ArrayLike,
    num_items: int,
    offset_std: float,
    slope_std: float = 0.0,
) -> Calibration:
    """The map of all items with an offset of each item's own, and with `slope_std` a slope."""
    level, clicked = _pair(level_N, clicked_N)
    base = logit(np.clip(whole.probability(level), 1e-8, 1 - 1e-8))
    offsets, slopes = corrections(
        base,
        clicked.astype(np.float64),
        np.asarray(item_N, np.int64),
        num_items,
        offset_std,
        slope_std,
        LEAST_ITEM_SLOPE,
    )
    return named(
        replace(
            whole,
            offsets=_counted(offsets),
            slopes=_counted(slopes) if slope_std else (),
        )
    )


def named(found: Calibration) -> Calibration:
    """The map under the name of its numbers: equal maps have equal versions."""
    numbers = {name: v for name, v in found.to_record().items() if name != "version"}
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:12]
    return replace(found, version=f"{found.kind.replace(' ', '-')}-{digest}")


def _counted(values: FloatArray) -> tuple[int, ...]:
    inside = np.clip(values, -_WIDEST, _WIDEST)
    return tuple(np.rint(inside * STEPS).astype(int).tolist())


def _centre(level: FloatArray) -> float:
    return float(level.mean()) if len(level) else 0.0


def _pair(level_N: npt.ArrayLike, clicked_N: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    level, clicked = np.asarray(level_N, np.float64), np.asarray(clicked_N, bool)
    if level.shape != clicked.shape or level.ndim != 1:
        raise ValueError(f"level has shape {level.shape}, clicked {clicked.shape}: expected (N,)")
    if np.isnan(level).any():
        raise ValueError(
            f"{int(np.isnan(level).sum())} of {len(level)} levels of impressions are NaN"
        )
    return level, clicked

"""Metrics of the paper: log loss, recall@k (eq. 3), AUROC; and what tells an honest probability.

Each raises ValueError on shapes that differ or are empty, and on NaN: a comparison with NaN is false,
so a model that is broken could otherwise look perfect.

Shapes: N labelled probabilities, L labelled steps, K items
"""

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from fintrec.logistic import WEAK, regression

FloatArray = npt.NDArray[np.float64]
Bins = Literal["mass", "width", "positives"]
_SMALLEST: Final = 1e-8  # a probability of 0 or 1 is a rounded one


def losses(probability_N: npt.ArrayLike, label_N: npt.ArrayLike) -> FloatArray:
    """Binary cross entropy of each example, natural log."""
    probability, label = _pair(probability_N, label_N)
    clipped = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(-np.where(label, np.log(clipped), np.log1p(-clipped)))


def log_loss(probability_N: npt.ArrayLike, label_N: npt.ArrayLike) -> float:
    """Mean of `losses`."""
    return float(losses(probability_N, label_N).mean())


def recall_at(scores_LK: npt.ArrayLike, target_L: npt.ArrayLike, k: int) -> float:
    """Share of steps whose clicked item is among the k highest scored (FinTRec eq. 3).

    Of equal scores, the item that comes first in the output order ranks higher.
    """
    scores = np.asarray(scores_LK, np.float64)
    target = np.asarray(target_L, np.int64)
    if scores.ndim != 2 or target.shape != scores.shape[:1] or not len(target):
        raise ValueError(
            f"scores {scores.shape} and targets {target.shape} are not (L, K) and (L,)"
        )
    _check_numbers(scores)
    own = scores[np.arange(len(target)), target][:, None]
    before = np.arange(scores.shape[1])[None] < target[:, None]
    rank = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return float((rank < k).mean())


def auroc(score_N: npt.ArrayLike, label_N: npt.ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties half; nan without both."""
    score, label = _pair(score_N, label_N)
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    values, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle_rank = ends - (counts - 1) / 2  # of tied scores, from 1
    rank_sum = float(middle_rank[place][label].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss_lift(probability_N: npt.ArrayLike, label_N: npt.ArrayLike) -> float:
    """Share of the base rate's log loss that the probabilities save; 0 is as good as the rate.

    The rate is that of the same labels, so it is the best constant in hindsight; nan without both
    labels, where the rate costs nothing.
    """
    probability, label = _pair(probability_N, label_N)
    if label.all() or not label.any():
        return float("nan")
    return 1 - log_loss(probability, label) / log_loss(np.full(len(label), label.mean()), label)


def brier(probability_N: npt.ArrayLike, label_N: npt.ArrayLike) -> float:
    """Mean squared difference of probability and label."""
    probability, label = _pair(probability_N, label_N)
    return float(((probability - label) ** 2).mean())


def calibration_line(probability_N: npt.ArrayLike, label_N: npt.ArrayLike) -> tuple[float, float]:
    """(slope, intercept) of logit P(label) over logit p (Cox 1958); (1, 0) is honest.

    A slope below 1 is overconfident. nan without both labels.
    """
    probability, label = _pair(probability_N, label_N)
    if label.all() or not label.any():
        return float("nan"), float("nan")
    clipped = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    said = np.log(clipped) - np.log1p(-clipped)
    centre = said.mean()
    inputs = np.stack((said - centre, np.ones_like(said)))
    slope, level = regression(
        inputs, label.astype(np.float64), (1.0, 0.0), (WEAK, WEAK), (None, None)
    )
    return float(slope), float(level - slope * centre)


def binned(probability_N: npt.ArrayLike, num_bins: int, bins: Bins) -> list[npt.NDArray[np.int64]]:
    """Places of the examples of each bin, by ascending probability; empty bins are left out.

    `mass`: equally many examples a bin. `width`: equal parts of 0..1. `positives`: equal parts of
    the predicted positives, which for rare events shows the upper end that `mass` puts in one bin.
    """
    probability = np.asarray(probability_N, np.float64)
    order = np.argsort(probability, kind="stable")
    if bins == "mass":
        parts = np.array_split(order, num_bins)
    else:
        ascending = probability[order]
        share = (
            ascending if bins == "width" else np.cumsum(ascending) / max(ascending.sum(), 1e-300)
        )
        # The last example's share is 1 and belongs to the last bin.
        number = np.minimum((share * num_bins * (1 - 1e-12)).astype(np.int64), num_bins - 1)
        parts = np.split(order, np.searchsorted(number, np.arange(1, num_bins)))
    return [part for part in parts if len(part)]


def calibration_error(
    probability_N: npt.ArrayLike, label_N: npt.ArrayLike, num_bins: int = 10, bins: Bins = "mass"
) -> float:
    """Expected calibration error: mean |predicted - observed| rate over bins, weighted by their size.

    By default ten bins of equally many examples: equal width puts nearly all rare events into one.
    """
    probability, label = _pair(probability_N, label_N)
    parts = binned(probability, num_bins, bins)
    gaps = [len(part) * abs(probability[part].mean() - label[part].mean()) for part in parts]
    return float(sum(gaps) / len(label))


def _pair(first_N: npt.ArrayLike, label_N: npt.ArrayLike) -> tuple[FloatArray, Any]:
    first = np.asarray(first_N, np.float64)
    label = np.asarray(label_N, bool)
    if first.shape != label.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"shapes {first.shape} and {label.shape}: expected equal, one axis, N > 0")
    _check_numbers(first)
    return first, label


def _check_numbers(values: FloatArray) -> None:
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} predictions are NaN")

"""Metrics of the paper: log loss, recall@k (eq. 3), AUROC; and calibration error.

Shapes: N labelled probabilities, L labelled steps, K items
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
_SMALLEST: Final = 1e-8  # a probability of 0 or 1 is a rounded one


def log_loss(probability_N: npt.ArrayLike, label_N: npt.ArrayLike) -> float:
    """Mean binary cross entropy, natural log; ValueError on shapes that differ or are empty."""
    probability, label = _pair(probability_N, label_N)
    clipped = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    return float(-np.where(label, np.log(clipped), np.log1p(-clipped)).mean())


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


def calibration_error(
    probability_N: npt.ArrayLike, label_N: npt.ArrayLike, num_bins: int = 10
) -> float:
    """Mean |predicted - observed| rate over bins of equally many examples, weighted by size."""
    probability, label = _pair(probability_N, label_N)
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, num_bins) if len(part)]
    gaps = [len(part) * abs(probability[part].mean() - label[part].mean()) for part in parts]
    return float(sum(gaps) / len(label))


def _pair(first_N: npt.ArrayLike, label_N: npt.ArrayLike) -> tuple[FloatArray, Any]:
    first = np.asarray(first_N, np.float64)
    label = np.asarray(label_N, bool)
    if first.shape != label.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"shapes {first.shape} and {label.shape}: expected equal, one axis, N > 0")
    return first, label

"""Predictions beside what happened, and the metrics on them with intervals over users.

- clicks: one row a shown item, calibrated pCTR against whether it was clicked
- conversions: one row a page and item with a complete label, pCVR against whether it converted
- next clicks: one row a click, the rank of the clicked item among all (FinTRec eq. 3)

Shapes: N rows, U users, P positives, B bins, R replicates
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from fintrec.calibration import Calibration, conversion_probabilities, next_click_level
from fintrec.datasets import Decisions
from fintrec.evaluation import Scored
from fintrec.exposure import ExposurePrior
from fintrec.intervals import Interval, bootstrap_counts, bootstrap_sums, user_sums

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BINS: Final = 10
REPLICATES: Final = 500
MIN_USERS: Final = 2  # below, nothing can be resampled
_SMALLEST: Final = 1e-8  # as in fintrec.metrics; a test compares the two


@dataclass(frozen=True, slots=True)
class Judged:
    """Probabilities of one model and what happened; `page` is a place in the decisions."""

    page: IntArray  # (N,)
    user: IntArray  # (N,)
    item: IntArray  # (N,)
    probability: FloatArray  # (N,)
    label: BoolArray  # (N,)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def losses(self) -> FloatArray:
        """Binary cross entropy of each row, natural log."""
        probability = np.clip(self.probability, _SMALLEST, 1 - _SMALLEST)
        return -np.where(self.label, np.log(probability), np.log1p(-probability))


def judged_clicks(scored: Scored, decisions: Decisions, calibration: Calibration) -> Judged:
    """pCTR of every shown item of the scored pages."""
    shown = decisions.shown[scored.pages]
    row, position = np.nonzero(shown >= 0)
    item = shown[row, position].astype(np.int64)
    return Judged(
        scored.pages[row],
        decisions.user[scored.pages[row]].astype(np.int64),
        item,
        calibration.apply(scored.pctr_logits)[row, item],
        decisions.clicked[scored.pages][row, position],
    )


def judged_conversions(scored: Scored, decisions: Decisions) -> Judged:
    """pCVR of every item on every scored page, where the label is complete."""
    row, item = np.nonzero(scored.known)
    return Judged(
        scored.pages[row],
        decisions.user[scored.pages[row]].astype(np.int64),
        item.astype(np.int64),
        conversion_probabilities(scored.pcvr_logits)[row, item],
        scored.converted[row, item],
    )


def next_clicks(
    scored: Scored, decisions: Decisions, prior: ExposurePrior
) -> tuple[IntArray, FloatArray, IntArray]:
    """User, log loss of the softmax (eq. 2) and rank of the clicked item, from 0, of each click."""
    shown, clicked = decisions.shown[scored.pages], decisions.clicked[scored.pages]
    row, position = np.nonzero((shown >= 0) & clicked)
    target = shown[row, position].astype(np.int64)
    request_LR = torch.from_numpy(decisions.request[scored.pages[row]])
    level = next_click_level(scored.pctr_logits[row], prior.rows(request_LR).numpy(), scored.link)
    own = level[np.arange(len(target)), target][:, None]
    before = np.arange(level.shape[1])[None] < target[:, None]
    rank = ((level > own) | ((level == own) & before)).sum(axis=1)
    return decisions.user[scored.pages[row]].astype(np.int64), -own[:, 0], rank


def log_loss_interval(judged: Judged, replicates: int = REPLICATES) -> Interval | None:
    """Mean log loss; None with fewer than two users."""
    return mean_interval(judged.losses, judged.user, replicates)


def mean_interval(
    value_N: FloatArray, user_N: IntArray, replicates: int = REPLICATES
) -> Interval | None:
    """Mean over rows; None with fewer than two users."""
    sums = user_sums(user_N, value_N, np.ones(len(value_N)))
    if len(sums) < MIN_USERS:
        return None
    return bootstrap_sums(sums, lambda total: total[:, 0] / total[:, 1], replicates=replicates)


def auroc_interval(judged: Judged, replicates: int = REPLICATES) -> Interval | None:
    """AUROC; None without both labels or with fewer than two users.

    `wins[u, v]` counts how often a positive of user u scores above a negative of user v, ties half;
    so a replicate that draws user u c_u times has the AUROC c wins c / (positives negatives).
    Memory is quadratic in users: meant for samples of some thousand pages.
    """
    names, place_N = np.unique(judged.user, return_inverse=True)
    label, num_users = judged.label, len(names)
    if label.all() or not label.any() or num_users < MIN_USERS:
        return None
    wins = np.zeros((num_users, num_users))
    positive = np.sort(judged.probability[label])
    owner = place_N[label][np.argsort(judged.probability[label], kind="stable")]
    negatives = _by_user(judged.probability[~label], place_N[~label], num_users)
    for user, scores in enumerate(negatives):
        below = np.searchsorted(scores, positive, "left") + np.searchsorted(
            scores, positive, "right"
        )
        wins[:, user] = np.bincount(owner, below / 2, num_users)
    positives_U = np.bincount(place_N[label], minlength=num_users).astype(np.float64)
    negatives_U = np.bincount(place_N[~label], minlength=num_users).astype(np.float64)

    def statistic(count_RU: FloatArray) -> FloatArray:
        pairs = (count_RU @ positives_U) * (count_RU @ negatives_U)
        won = ((count_RU @ wins) * count_RU).sum(axis=1)
        return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    return bootstrap_counts(statistic, num_users, replicates=replicates)


def _by_user(value_N: FloatArray, place_N: IntArray, num_users: int) -> list[FloatArray]:
    order = np.lexsort((value_N, place_N))
    ends = np.cumsum(np.bincount(place_N, minlength=num_users))[:-1]
    return np.split(value_N[order], ends)


def calibration_error_interval(judged: Judged, replicates: int = REPLICATES) -> Interval | None:
    """Expected calibration error over BINS bins of equally many rows; None below two users.

    The bins are those of all rows. Chance adds to every gap, so replicates, which hold chance twice,
    tend to lie above the value itself.
    """
    bin_N = _bins(judged.probability)
    gap_N = judged.probability - judged.label
    weights = np.eye(BINS)[bin_N]
    sums = user_sums(judged.user, *(weights * gap_N[:, None]).T, np.ones(len(judged)))
    if len(sums) < MIN_USERS:
        return None
    return bootstrap_sums(
        sums,
        lambda total: np.abs(total[:, :BINS]).sum(axis=1) / total[:, BINS],
        replicates=replicates,
    )


def _bins(probability_N: FloatArray) -> IntArray:
    """Bin of each row, as `fintrec.metrics.calibration_error` makes them."""
    order = np.argsort(probability_N, kind="stable")
    found = np.empty(len(order), np.int64)
    for number, part in enumerate(np.array_split(order, BINS)):
        found[part] = number
    return found


def reliability(judged: Judged) -> list[dict[str, Any]]:
    """Predicted beside observed rate in bins of equally many rows, lowest predictions first."""
    bin_N = _bins(judged.probability)
    rows = []
    for number in range(BINS):
        inside = bin_N == number
        if inside.any():
            rows.append(
                {
                    "rows": int(inside.sum()),
                    "positives": int(judged.label[inside].sum()),
                    "predicted": float(judged.probability[inside].mean()),
                    "observed": float(judged.label[inside].mean()),
                }
            )
    return rows

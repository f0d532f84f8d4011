"""What showing an item changes, by the hidden truth, beside what models say of shown items.

pCVR is trained over all (page, item) and is not told what the page shows: it is P(goal | user,
page). Of a shown item that can be too low for three reasons, and the truth tells them apart:

- items: what is shown is reached more often than other items, whoever sees it
- users: it is shown to those who want it more than others do
- exposure: showing it leads to goals that would not have come

`rank_value` asks what that costs: the dollars that a page's items lead to, which would not have
come, if the page showed the items of the highest v(i) P(i) among those that it may show.

Shapes: B pages, K items, S shown items with complete labels
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fintrec.baselines.per_item import log_odds
from fintrec.calibration import MIN_SLOPE
from fintrec.datasets import Decisions, TrainingSet, converted, label_known
from fintrec.experiments.hidden_truth import (
    BoolArray,
    FloatArray,
    IntArray,
    Truth,
    compared,
)
from fintrec.logistic import corrections, sigmoid
from fintrec.reliability import wilson

_DIGITS: Final = 6
_KIND_STD: Final = 3.0
_ITEM_STD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Exposed:
    """The truth of pages, (B, K) each.

    `if_shown` and `if_not` are of foresight that is told; where the page showed the item, with what
    the log's truth has of that exposure. `allowed`: the logging policy might show it there.
    """

    shown: BoolArray
    known: BoolArray
    label: BoolArray
    foresight: FloatArray  # not told
    if_not: FloatArray
    if_shown: FloatArray
    caused: FloatArray
    allowed: BoolArray

    @property
    def if_shown_anywhere(self) -> FloatArray:
        """P(goal | shown) at a typical position, also of items that the page did not show."""
        return 1 - (1 - self.if_not) * (1 - self.caused)


def exposed(known: Truth, data: TrainingSet, decisions: Decisions, pages: IntArray) -> Exposed:
    """Ask the truth about pages; ValueError if it is not that of their log."""
    foresight, if_not, caused, here = known.of_pages(decisions, pages)
    row, slot = np.nonzero(decisions.shown[pages] >= 0)
    item = decisions.shown[pages[row], slot]
    shown = np.zeros(if_not.shape, bool)
    shown[row, item] = True
    # What was shown has its recorded truth: position, dismissals and clicked needs included.
    recorded = caused.copy()
    recorded[row, item] = known.caused(known.exposures(decisions, pages[row], slot))
    return Exposed(
        shown=shown,
        known=label_known(data, decisions)[pages],
        label=converted(data, decisions, pages),
        foresight=foresight,
        if_not=if_not,
        if_shown=1 - (1 - if_not) * (1 - recorded),
        caused=caused,
        allowed=(here > 0) | shown,
    )


def judge_exposure(
    found: Exposed, kind_K: npt.NDArray[np.str_], said: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """Means over (page, item) with complete labels: the truth told and not told, what happened, and
    what each of the predictions `said` (B, K) is. Shown items, those of each kind of content, all
    items that were not shown, and all.

    `if_not_shown_by_item` is what `if_not_shown` would be if each item went to any of the pages.
    """
    count_K = np.maximum(found.known.sum(axis=0), 1)
    by_item_K = (found.if_not * found.known).sum(axis=0) / count_K
    shown = found.known & found.shown
    parts = {"shown": shown}
    parts |= {f"shown {kind}": shown & (kind_K == kind) for kind in np.unique(kind_K).tolist()}
    parts |= {"not_shown": found.known & ~found.shown, "all": found.known}
    return {name: _means(found, which, by_item_K, said) for name, which in parts.items()}


def _means(
    found: Exposed, which: BoolArray, by_item_K: FloatArray, said: Mapping[str, FloatArray]
) -> dict[str, Any]:
    num, reached = int(which.sum()), int(found.label[which].sum())
    if not num:
        return {"examples": 0}
    low, high = wilson(reached, num)
    means = {
        "observed": reached / num,
        "observed_low": low,
        "observed_high": high,
        "if_shown": found.if_shown[which].mean(),
        "untold": found.foresight[which].mean(),
        "if_not_shown": found.if_not[which].mean(),
        "if_not_shown_by_item": np.broadcast_to(by_item_K, which.shape)[which].mean(),
    }
    return {
        "examples": num,
        **{key: round(float(value), _DIGITS) for key, value in means.items()},
        "said": {
            key: round(float(predicted[which].mean()), _DIGITS) for key, predicted in said.items()
        },
    }


def told(
    said_BK: FloatArray,
    found: Exposed,
    kind_K: npt.NDArray[np.str_],
    user_B: IntArray,
    folds: int = 2,
) -> FloatArray:
    """Predictions, (B, K), moved to P(goal | shown): an offset of the log odds for each kind of
    content and, held to it, for each item; fitted on the shown items of the other users.
    """
    _, kind_of = np.unique(kind_K, return_inverse=True)
    level = log_odds(said_BK)
    fold_B = user_B % folds
    moved = level.copy()
    for fold in range(folds):
        rows = fold_B != fold
        page, item = np.nonzero(found.shown & found.known & rows[:, None])
        base, target = level[page, item], found.label[page, item].astype(np.float64)
        offset_K = np.zeros(level.shape[1])
        for group_K, std in ((kind_of, _KIND_STD), (np.arange(len(kind_of)), _ITEM_STD)):
            offset, _ = corrections(
                base + offset_K[item],
                target,
                group_K[item],
                int(group_K.max()) + 1,
                std,
                0.0,
                MIN_SLOPE,
            )
            offset_K += offset[group_K]
        moved[~rows] += offset_K
    return sigmoid(moved)


def compared_rows(found: Exposed, said: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Predictions against the truth: of all items against foresight, of shown ones against
    `if_shown`; over complete labels, without deciles.
    """
    shown = found.known & found.shown
    out: dict[str, Any] = {}
    for name, chance in said.items():
        parts = {
            "all": compared(
                chance[found.known], found.foresight[found.known], found.label[found.known]
            ),
            "shown": compared(chance[shown], found.if_shown[shown], found.label[shown]),
        }
        out[name] = {
            part: {key: value for key, value in figures.items() if not key.startswith("by_")}
            for part, figures in parts.items()
        }
    return out


def rank_value(
    found: Exposed, value_usd_K: FloatArray, said: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """Dollars a page, by who ranks: expected value of the goals that its items lead to.

    A page keeps its number of items. `shown` is what the log showed, `even` any allowed items, and
    `truth` ranks by what is counted, so that nobody is better.
    """
    worth = value_usd_K * found.caused
    num_B = found.shown.sum(axis=1)
    allowed_B = np.maximum(found.allowed.sum(axis=1), 1)
    even = (np.where(found.allowed, worth, 0.0).sum(axis=1) / allowed_B * num_B).mean()
    dollars = {"shown": float((worth * found.shown).sum(axis=1).mean()), "even": float(even)}
    for name, scores in {**{k: value_usd_K * p for k, p in said.items()}, "truth": worth}.items():
        dollars[name] = _earned(scores, worth, found.allowed, num_B)
    return {name: round(value, _DIGITS) for name, value in dollars.items()}


def _earned(
    score_BK: FloatArray, worth_BK: FloatArray, allowed: BoolArray, num_B: npt.NDArray[Any]
) -> float:
    order = np.argsort(np.where(allowed, -score_BK, np.inf), axis=1, kind="stable")
    ranked = np.take_along_axis(np.where(allowed, worth_BK, 0.0), order, axis=1)
    taken = np.arange(ranked.shape[1]) < num_B[:, None]
    return float((ranked * taken).sum(axis=1).mean())

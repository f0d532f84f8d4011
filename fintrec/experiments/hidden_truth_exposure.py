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

from fintrec.datasets import Decisions, TrainingSet, converted, label_known
from fintrec.experiments.hidden_truth import BoolArray, FloatArray, IntArray, Truth
from fintrec.reliability import wilson

_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Exposed:
    """The truth of pages, (B, K) each; `if_shown` is of foresight, told the page shows the item."""

    shown: BoolArray
    known: BoolArray
    label: BoolArray
    foresight: FloatArray  # not told
    if_not: FloatArray
    if_shown: FloatArray
    caused: FloatArray
    allowed: BoolArray


def exposed(known: Truth, data: TrainingSet, decisions: Decisions, pages: IntArray) -> Exposed:
    """Ask the truth about pages; ValueError if it is not that of their log."""
    _, foresight, _ = known.forecast(decisions, pages)
    if_not, caused, here = known.of_pages(decisions, pages)
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


def judge_exposure(found: Exposed, said: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Means over shown, and over all other, (page, item) with complete labels: the truth told and
    not told, what happened, and what each of the predictions `said` (B, K) is.

    `if_not_shown_by_item` is what `if_not_shown` would be if each item went to any of the pages.
    """
    count_K = np.maximum(found.known.sum(axis=0), 1)
    by_item = (found.if_not * found.known).sum(axis=0) / count_K
    by_item_BK = np.broadcast_to(by_item, found.if_not.shape)
    out = {}
    for name, which in (
        ("shown", found.known & found.shown),
        ("not_shown", found.known & ~found.shown),
        ("all", found.known),
    ):
        num = int(which.sum())
        if not num:
            out[name] = {"examples": 0}
            continue
        reached = int(found.label[which].sum())
        low, high = wilson(reached, num)
        means = {
            "observed": reached / num,
            "observed_low": low,
            "observed_high": high,
            "if_shown": found.if_shown[which].mean(),
            "untold": found.foresight[which].mean(),
            "if_not_shown": found.if_not[which].mean(),
            "if_not_shown_by_item": by_item_BK[which].mean(),
        }
        out[name] = {
            "examples": num,
            **{key: round(float(value), _DIGITS) for key, value in means.items()},
            "said": {
                key: round(float(predicted[which].mean()), _DIGITS)
                for key, predicted in said.items()
            },
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

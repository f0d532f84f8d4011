"""A classifier of (page, item) rows as a model of conversions, whatever trees are inside.

Fit on the data set's examples, whose negatives are down-sampled; the prior is put right, then each
item's map is fitted on validation pages (`fintrec/baselines/per_item.py`).

Shapes: N pages, K items
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from fintrec.baselines import per_item
from fintrec.baselines.design import Design, Float32Array, IntArray, Pages
from fintrec.baselines.examples import Examples
from fintrec.baselines.per_item import BoolArray, FloatArray, PerItem

_ROWS_AT_ONCE: Final = 200_000


class Classifier(Protocol):
    """What scikit-learn's classifiers of two classes have in common."""

    def fit(self, rows: Float32Array, label: BoolArray) -> Any:
        """Learn."""

    def predict_proba(self, rows: Float32Array) -> npt.NDArray[Any]:
        """Probabilities of both classes, (N, 2)."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Validation pages with their labels, (N, K)."""

    pages: Pages
    converted_NK: BoolArray
    known_NK: BoolArray


@dataclass(frozen=True, slots=True)
class TreeModel:
    """Probabilities of conversion, calibrated."""

    design: Design
    classifier: Classifier
    negatives_rate: float
    calibration: PerItem

    def log_odds(self, pages: Pages) -> FloatArray:
        """Log odds with the prior put right, before calibration, (N, K)."""
        return _log_odds(self.design, self.classifier, self.negatives_rate, pages)

    def predict(self, pages: Pages) -> FloatArray:
        """Probability that each item's goal is reached within its window, (N, K)."""
        return self.calibration.apply(self.log_odds(pages))


def fit(
    classifier: Classifier,
    design: Design,
    pages: Pages,
    examples: Examples,
    held_out: HeldOut,
    report: Callable[[str], None] = lambda what: None,
) -> TreeModel:
    """Fit a classifier on examples of training pages and calibrate it on held-out ones.

    ValueError where the examples have but one label: there is nothing to tell apart.
    """
    if examples.converted.all() or not examples.converted.any():
        raise ValueError(
            f"{len(examples)} examples with {int(examples.converted.sum())} conversions: "
            "expected both labels"
        )
    report("trees")
    classifier.fit(design.rows(pages, examples.page, examples.item), examples.converted)
    report("calibration")
    level = _log_odds(design, classifier, examples.negatives_rate, held_out.pages)
    found = per_item.fit(level, held_out.converted_NK, held_out.known_NK)
    return TreeModel(design, classifier, examples.negatives_rate, found)


def _log_odds(
    design: Design, classifier: Classifier, negatives_rate: float, pages: Pages
) -> FloatArray:
    at_once = max(1, _ROWS_AT_ONCE // design.num_items)
    parts = [np.zeros((0, design.num_items))]
    for start in range(0, len(pages), at_once):
        some: IntArray = np.arange(start, min(start + at_once, len(pages)))
        chance = classifier.predict_proba(design.every_item(pages.taken(some)))[:, 1]
        parts.append(per_item.corrected(chance, negatives_rate).reshape(-1, design.num_items))
    return np.concatenate(parts)

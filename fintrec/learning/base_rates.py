"""The base rates as a predictor: where a model starts, and the unit that its loss is read in.

A predictor that knows each item's rate and nothing of the user has the loss given here. A training
that is far above it has gone astray (`fintrec/learning/divergence.py`), and divided by it two losses
of unlike kinds can be added (`fintrec/learning/joint.py`).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fintrec.batches import Window
from fintrec.datasets import TrainingSet, label_known
from fintrec.objectives import (
    ClickObjective,
    ConversionObjective,
    ImpressionObjective,
    mean_loss,
)
from fintrec.popularity import Popularity, measure

_STEPS: Final = 4096  # clicked steps that the loss of the base rates is taken over, at most


def click_logits(popularity: Popularity) -> Tensor:
    """(K,): log click rates, which a softmax with the log shares of exposure makes next clicks of."""
    return torch.from_numpy(np.log(np.maximum(np.array(popularity.ctr), 1e-6)))


def impression_logits(popularity: Popularity) -> Tensor:
    """(K,): log odds of the click rates."""
    ctr = np.clip(np.array(popularity.ctr), 1e-6, 0.5)
    return torch.from_numpy(np.log(ctr / (1 - ctr)))


def conversion_logits(popularity: Popularity) -> Tensor:
    """(K,): log odds of the conversion rates."""
    cvr = np.clip(np.array(popularity.cvr), 1e-6, 0.5)
    return torch.from_numpy(np.log(cvr / (1 - cvr)))


def click_loss(objective: ClickObjective, data: TrainingSet, windows: Sequence[Window]) -> float:
    """Eq. 2 of the click rates on the windows' steps, with the objective's exposure prior."""
    steps = np.array([(page, item) for w in windows for page, item, _ in w.steps], np.int64)
    page, item = steps[:: -(-len(steps) // _STEPS)].T
    logits_LK = click_logits(measure(data)).expand(len(page), -1)
    request_LR = torch.from_numpy(data.train.request[page])
    return float(mean_loss(objective.sums(logits_LK, request_LR, torch.from_numpy(item.copy()))))


def impression_loss(data: TrainingSet) -> float:
    """Binary cross entropy of the click rates over the items shown on the training pages."""
    shown_LS, clicked_LS = map(torch.from_numpy, (data.train.shown, data.train.clicked))
    logits_LK = impression_logits(measure(data)).expand(len(shown_LS), -1)
    return float(mean_loss(ImpressionObjective.sums(logits_LK, shown_LS.long(), clicked_LS)))


def conversion_loss(objective: ConversionObjective, data: TrainingSet) -> float:
    """Binary cross entropy of the conversion rates over all known labels of the training pages.

    It is linear in the labels, so an item's rate stands for all of them.
    """
    decisions = data.train
    page = np.repeat(np.arange(len(decisions)), np.diff(decisions.converted_indptr))
    known_MK = label_known(data, decisions)
    item = decisions.converted_items[known_MK[page, decisions.converted_items]]
    known_K = known_MK.sum(axis=0)
    rate_K = np.bincount(item, minlength=len(data.items)) / np.maximum(known_K, 1)
    sums = objective.sums(
        conversion_logits(measure(data))[None],
        torch.from_numpy(rate_K)[None],
        torch.from_numpy(known_K.astype(np.float64))[None],
        torch.ones(1, dtype=torch.float64),
    )
    return float(mean_loss(sums))

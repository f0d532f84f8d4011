"""What the training bench trains: real examples, each batch in two paddings, and one step.

Both paddings hold the same examples in the same batches; only the rows of zeros before a history
differ. So the loss of a batch is the same, and so is what is learnt, up to rounding and to what
dropout draws.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from features.history import WINDOW
from fintrec.batches import (
    PageSample,
    click_batch,
    click_windows,
    conversion_batch,
    grouped,
    history_lengths,
)
from fintrec.datasets import TrainingSet
from fintrec.learning.compute import Compute
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.models.trunk import build_models
from fintrec.objectives import ClickObjective, ConversionObjective, mean_loss
from fintrec.public import item_sequences
from fintrec.public.sequence_decoder import SequenceDecoder
from fintrec.public.sequence_training import (
    DecoderRecipe,
    batches,
    inputs_and_labels,
    sampled_softmax,
    windows,
)
from fintrec.training import prior_of

PARTS: Final = ("encode", "forward", "backward", "clip", "optimiser")
_SCORED_AT_ONCE: Final = 64  # pages, as fintrec/evaluation.py scores


@dataclass(frozen=True, slots=True)
class Work:
    """Batches of one model on one data set.

    `encode(plan, padded)` makes a batch, to the full window or to its bucket; `present` tells the
    real tokens of it, (B, T) of bool. `module` holds the model and takes a batch: to the loss where it
    is trained, to the scores where it scores.
    """

    data: str
    model: str
    module: nn.Module
    plan: Sequence[Any]
    encode: Callable[[Any, bool], Any]
    present: Callable[[Any], Tensor]


class Loss(nn.Module):
    """An objective of the project as one number."""

    def __init__(self, objective: ClickObjective | ConversionObjective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Any) -> Tensor:
        """Scalar."""
        return mean_loss(self.objective(batch))


class Scores(nn.Module):
    """A model's logits of a batch of pages, as they are served."""

    def __init__(self, model: Pctr | Pcvr) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        """(B, K)."""
        return self.model(*batch[:5])


class Sequences(NamedTuple):
    """Items, the next one at each (0 where there is none), and the negatives of the batch."""

    items_WT: Tensor
    labels_WT: Tensor
    negatives_S: Tensor


class SequenceLoss(nn.Module):
    """The sequence decoder's sampled softmax."""

    def __init__(self, model: SequenceDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Sequences) -> Tensor:
        """Scalar."""
        labelled_WT = batch.labels_WT > 0
        hidden_MD = self.model(batch.items_WT, batch.items_WT.shape[1])[labelled_WT]
        return sampled_softmax(
            self.model, hidden_MD, batch.labels_WT[labelled_WT], batch.negatives_S
        )


def training_works(name: str, data: TrainingSet, recipe: Recipe) -> list[Work]:
    """Both models on a data set, an epoch each; a model without examples is left out."""
    torch.manual_seed(recipe.training.seed)
    pctr, pcvr = build_models(data.vocabulary, recipe.model)
    size, rng = recipe.training.batch_size, np.random.default_rng(recipe.training.seed)
    stride = min(recipe.training.label_stride, recipe.model.window // 2)
    own = click_windows(data, data.train, stride)
    lengths = np.array([window.length for window in own], np.int64)

    def click(planned: Any, padded: bool) -> Any:
        chosen = [own[place] for place in planned.chosen]
        return click_batch(data, data.train, chosen, WINDOW if padded else planned.bucket)

    found = [
        Work(
            name,
            "pctr",
            Loss(ClickObjective(pctr, prior_of(data, recipe))),
            grouped(lengths, size, rng),
            click,
            _has_time,
        ),
        _pages(name, "pcvr", Loss(ConversionObjective(pcvr)), data, size, rng),
    ]
    return [work for work in found if work.plan]


def scoring_works(name: str, data: TrainingSet, recipe: Recipe) -> list[Work]:
    """Both models scoring the training pages of a data set."""
    torch.manual_seed(recipe.training.seed)
    rng = np.random.default_rng(recipe.training.seed)
    models = zip(("pctr", "pcvr"), build_models(data.vocabulary, recipe.model), strict=True)
    return [_pages(name, own, Scores(model), data, _SCORED_AT_ONCE, rng) for own, model in models]


def _pages(
    name: str, model: str, module: nn.Module, data: TrainingSet, size: int, rng: np.random.Generator
) -> Work:
    def encode(planned: Any, padded: bool) -> Any:
        sample = PageSample(planned.chosen, np.ones(len(planned.chosen), np.float32))
        return conversion_batch(data, data.train, sample, WINDOW if padded else planned.bucket)

    plan = grouped(history_lengths(data, data.train), size, rng)
    return Work(name, model, module, plan, encode, _has_time)


def _has_time(batch: Any) -> Tensor:
    """Click and conversion batches hold the times in second place; padding has none."""
    return batch[1] > 0


def sequence_work(name: str, path: Path, recipe: DecoderRecipe, seed: int) -> Work:
    """The decoder of next items on a file of sequences, an epoch; padded is to its window of 50."""
    data = item_sequences.read(path)
    torch.manual_seed(seed)
    model = SequenceDecoder(data.num_items, recipe.shape)
    own = windows(data.training())
    lengths = np.array([len(window) - 1 for window in own], np.int64)
    num_negatives = min(recipe.negatives or data.num_items, data.num_items)

    def encode(chosen: Any, padded: bool) -> Sequences:
        items, labels = inputs_and_labels([own[place] for place in chosen])
        missing = item_sequences.WINDOW - items.shape[1] if padded else 0
        drawn = np.random.default_rng([seed, int(chosen[0])]).choice(
            data.num_items, num_negatives, replace=False
        )
        return Sequences(
            functional.pad(items, (missing, 0)),
            functional.pad(labels, (missing, 0)),
            torch.from_numpy(drawn + 1),
        )

    plan = batches(lengths, recipe.tokens, np.random.default_rng(seed))
    return Work(name, "decoder", SequenceLoss(model), plan, encode, lambda batch: batch[0] > 0)


class Trainer:
    """A model of its own and its optimiser, one step at a time; as `fintrec/learning/loop.py`."""

    def __init__(
        self,
        work: Work,
        config: TrainingConfig,
        compute: Compute,
    ) -> None:
        self.compute = compute
        self.loss = copy.deepcopy(work.module).to(compute.device).train()
        self._gradient_norm = config.gradient_norm
        self._trained = [weight for weight in self.loss.parameters() if weight.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def stages(self, batch: Any) -> Iterator[str]:
        """Take a step; gives the name of each part (PARTS) when it is done."""
        self._optimiser.zero_grad(set_to_none=True)
        with self.compute.autocast():
            loss = self.loss(batch)
        yield "forward"
        loss.backward()
        yield "backward"
        nn.utils.clip_grad_norm_(self._trained, self._gradient_norm)
        yield "clip"
        self._optimiser.step()
        yield "optimiser"


class Scorer:
    """A model that scores, one batch at a time."""

    def __init__(self, work: Work, compute: Compute) -> None:
        self.compute = compute
        self._model = work.module.to(compute.device).eval()

    def stages(self, batch: Any) -> Iterator[str]:
        """Score; gives the name of the one part of it."""
        with torch.inference_mode(), self.compute.autocast():
            self._model(batch)
        yield "forward"

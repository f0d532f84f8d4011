"""Training of the sequence decoder: every item of a training sequence is a label of those before.

- windows of one length share a batch: histories are short (on Amazon Beauty 6 training labels a
  user), so padding all to 50 would waste most of the work
- sampled softmax: the labels of a batch share uniform negatives, and the negatives' logits carry
  log(N / S), so that they stand for all other items
- of all evaluated epochs the weights with the best validation NDCG@10 are kept; validation and
  test targets are never trained on
- an epoch's randomness depends on (seed, epoch) alone, so a run that was cut off goes on exactly

It does not use `fintrec.learning.loop.fit`: the recipe that was chosen has no weight decay on vectors,
other betas, a rate that warms up over steps and ends above 0, an evaluation every few epochs (one is
a full ranking of 22,363 users, as long as half an epoch), patience, and a budget that plans fewer
epochs. The shared loop would need a switch for each, for one user, to give the same numbers.

Shapes: W windows of a batch, T history, M labels, S negatives, N items
"""

import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from features.errors import ConfigurationError, FintrecError
from fintrec.public.cooccurrence import item_vectors
from fintrec.public.full_ranking import metrics, ranks
from fintrec.public.item_sequences import WINDOW, IntArray, ItemSequences
from fintrec.public.sequence_decoder import DecoderShape, SequenceDecoder

CHOSEN_BY: Final = "ndcg@10"
_CLIP: Final = 5.0  # norm of a step's gradient at most
_LAST: Final = 0.05  # share of the learning rate that the last step has


class TrainingDiverged(FintrecError):
    """The loss of a step is not a finite number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderRecipe:
    """A decoder and how it is trained; the defaults were chosen on Amazon Beauty's validation."""

    shape: DecoderShape = field(default_factory=DecoderShape)
    epochs: int = 16
    evaluate_every: int = 4
    patience: int = 12  # epochs without a better validation
    learning_rate: float = 5e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4  # of matrices, the table among them
    negatives: int = 1024  # 0, or as many as there are items, is the full softmax
    tokens: int = 3000  # of a batch, padding included
    start_from_cooccurrence: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "evaluate_every", "patience", "warmup_steps", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.negatives < 0:
            raise ValueError(
                "expected a learning_rate above 0, weight_decay and negatives of 0 or more"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the shape's fields among the others."""
        mine = asdict(self)
        return {**mine.pop("shape"), **mine}

    def with_settings(self, settings: dict[str, Any]) -> "DecoderRecipe":
        """With other values of fields of the recipe or its shape; ValueError for no field."""
        of_shape = {one.name for one in fields(DecoderShape)}
        mine = {one.name for one in fields(self)} - {"shape"}
        known = {name: getattr(self.shape, name) for name in of_shape}
        known |= {name: getattr(self, name) for name in mine}
        unknown = sorted(set(settings) - of_shape - mine)
        if unknown:
            raise ValueError(
                f"no setting {unknown[0]!r}, expected one of {sorted(of_shape | mine)}"
            )
        for name, value in settings.items():
            kinds = (int, float) if type(known[name]) is float else (type(known[name]),)
            if type(value) not in kinds:
                raise ValueError(f"{name} is {value!r}, expected {kinds[-1].__name__}")
        shape = replace(self.shape, **{k: v for k, v in settings.items() if k in of_shape})
        return replace(self, shape=shape, **{k: v for k, v in settings.items() if k in mine})


@dataclass(frozen=True, slots=True)
class Epoch:
    """What is reported after an epoch; `validation` where it was evaluated."""

    epoch: int
    planned: int
    loss: float
    seconds: float  # of training and evaluation since the start, earlier runs included
    validation: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class TrainedDecoder:
    """The kept weights in evaluation mode, the epoch they are of, and every epoch."""

    model: SequenceDecoder
    best_epoch: int
    history: tuple[Epoch, ...]


def windows(sequences: list[IntArray]) -> list[IntArray]:
    """Training windows of at most WINDOW + 1 items in which every label occurs once.

    A long sequence is cut from its end; each window starts with the item that ended the one before,
    whose label is there.
    """
    found = []
    for sequence in sequences:
        end = len(sequence)
        while end >= 2:
            found.append(sequence[max(0, end - WINDOW - 1) : end])
            end -= WINDOW
    return found


def batches(lengths: IntArray, tokens: int, rng: np.random.Generator) -> list[IntArray]:
    """Places of windows in batches of like lengths, in random order.

    A batch times its longest window is at most `tokens`, or it is one window.
    """
    order = np.argsort(lengths + rng.random(len(lengths)))
    found, start = [], 0
    for place, window in enumerate(order):
        # In ascending order the newest is the longest.
        if place > start and (place + 1 - start) * lengths[window] > tokens:
            found.append(order[start:place])
            start = place
    found.append(order[start:])
    return [found[place] for place in rng.permutation(len(found))]


def inputs_and_labels(chosen: list[IntArray]) -> tuple[Tensor, Tensor]:
    """Items and, at each, the next one; 0 where there is none, both (W, T)."""
    size = max(len(window) for window in chosen) - 1
    items_WT = np.zeros((len(chosen), size), dtype=np.int64)
    labels_WT = np.zeros((len(chosen), size), dtype=np.int64)
    for row, window in enumerate(chosen):
        items_WT[row, size + 1 - len(window) :] = window[:-1]
        labels_WT[row, size + 1 - len(window) :] = window[1:]
    return torch.from_numpy(items_WT), torch.from_numpy(labels_WT)


def sampled_softmax(
    model: SequenceDecoder, hidden_MD: Tensor, labels_M: Tensor, negatives_S: Tensor
) -> Tensor:
    """Mean cross entropy of labels against shared uniform negatives, corrected to all items.

    A negative that is a row's own label does not count in that row.
    """
    right_M = model.logits_of(hidden_MD, labels_M)
    correction = math.log(model.num_items / len(negatives_S))
    wrong_MS = model.logits(hidden_MD, negatives_S) + correction
    wrong_MS = wrong_MS.masked_fill(negatives_S[None] == labels_M[:, None], float("-inf"))
    total_M = torch.logsumexp(torch.cat((right_M[:, None], wrong_MS), dim=1), dim=1)
    return (total_M - right_M).mean()


def full_softmax(model: SequenceDecoder, hidden_MD: Tensor, labels_M: Tensor) -> Tensor:
    """Mean cross entropy over all items."""
    return functional.cross_entropy(model.logits(hidden_MD), labels_M - 1)


class _Run:
    """The state of a training between epochs, as it is written to disk."""

    def __init__(self, data: ItemSequences, recipe: DecoderRecipe, seed: int) -> None:
        self.recipe = recipe
        self.seed = seed
        self.made_of = _made_of(data, recipe, seed)
        self.windows = windows(data.training())
        self.lengths = np.array([len(window) - 1 for window in self.windows], dtype=np.int64)
        torch.manual_seed(seed)
        self.model = SequenceDecoder(data.num_items, recipe.shape)
        if recipe.start_from_cooccurrence:
            self.model.start_at(
                item_vectors(data.training(), data.num_items, recipe.shape.d_model, seed)
            )
        self.best = copy.deepcopy(self.model.state_dict())
        self.optimizer = _optimizer(self.model, recipe)
        self.history: list[Epoch] = []
        self.best_epoch = 0

    @property
    def seconds(self) -> float:
        """Of all epochs so far."""
        return self.history[-1].seconds if self.history else 0.0

    def planned(self, budget_seconds: float | None) -> int:
        """Epochs in all: those of the recipe, or as many as fit the budget at the pace so far."""
        done = len(self.history)
        if budget_seconds is None or not done:
            return self.recipe.epochs
        left = int((budget_seconds - self.seconds) / (self.seconds / done))
        return min(self.recipe.epochs, done + max(left, 0))

    def stale(self) -> bool:
        """Whether validation has not been better for as long as the recipe's patience."""
        return len(self.history) - self.best_epoch >= self.recipe.patience

    def next_epoch(self, data: ItemSequences, planned: int) -> Epoch:
        """Train one epoch; evaluate the first, every few and the last."""
        started = time.monotonic()
        epoch = len(self.history) + 1
        loss = self._train_epoch(epoch, planned)
        due = epoch == 1 or epoch % self.recipe.evaluate_every == 0 or epoch == planned
        validation = self._evaluate(data, epoch) if due else None
        seconds = self.seconds + time.monotonic() - started
        self.history.append(Epoch(epoch, planned, loss, seconds, validation))
        return self.history[-1]

    def _train_epoch(self, epoch: int, planned: int) -> float:
        """One pass over all windows; mean loss of a label."""
        rng = np.random.default_rng((self.seed, epoch))
        torch.manual_seed(int(rng.integers(2**62)))
        self.model.train()
        todo = batches(self.lengths, self.recipe.tokens, rng)
        summed, labels = 0.0, 0
        for step, chosen in enumerate(todo):
            share = (epoch - 1 + step / len(todo)) / planned
            self._set_rate(share, (epoch - 1) * len(todo) + step)
            loss, num = self._step([self.windows[place] for place in chosen], rng)
            if not math.isfinite(loss):
                raise TrainingDiverged(
                    f"epoch {epoch}, step {step + 1} of {len(todo)}: loss is {loss}, expected a "
                    "finite number: try a lower learning rate"
                )
            summed += loss * num
            labels += num
        return summed / max(labels, 1)

    def _step(self, chosen: list[IntArray], rng: np.random.Generator) -> tuple[float, int]:
        items_WT, labels_WT = inputs_and_labels(chosen)
        labelled_WT = labels_WT > 0
        hidden_MD = self.model(items_WT, items_WT.shape[1])[labelled_WT]
        labels_M = labels_WT[labelled_WT]
        num_negatives = self.recipe.negatives
        if 0 < num_negatives < self.model.num_items:
            drawn = rng.choice(self.model.num_items, num_negatives, replace=False) + 1
            loss = sampled_softmax(self.model, hidden_MD, labels_M, torch.from_numpy(drawn))
        else:
            loss = full_softmax(self.model, hidden_MD, labels_M)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimizer.step()
        return float(loss.detach()), len(labels_M)

    def _set_rate(self, share: float, step: int) -> None:
        warm = min(1.0, (step + 1) / self.recipe.warmup_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * warm * (_LAST + (1.0 - _LAST) * cosine)

    def _evaluate(self, data: ItemSequences, epoch: int) -> dict[str, float]:
        """Validation figures; keeps the weights when they are the best so far."""
        found = metrics(ranks(data, "validation", self.model.eval().score))
        seen = [one.validation[CHOSEN_BY] for one in self.history if one.validation]
        if found[CHOSEN_BY] > max(seen, default=-1.0):
            self.best = copy.deepcopy(self.model.state_dict())
            self.best_epoch = epoch
        return found

    def save(self, path: Path) -> None:
        """Write the state; a cut while writing leaves the one before."""
        partial = path.with_name(f".{path.name}.partial")
        state = {
            "made_of": self.made_of,
            "model": self.model.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
        }
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Go on where a run of the same data, recipe and seed was cut."""
        state = torch.load(path, weights_only=True)
        if state["made_of"] != self.made_of:
            raise ConfigurationError(
                f"{path} is the state of a run of other data, recipe or seed: take another folder, "
                "or delete the file"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def _made_of(data: ItemSequences, recipe: DecoderRecipe, seed: int) -> str:
    """A hash of all that a run depends on."""
    digest = hashlib.sha256(json.dumps([recipe.to_dict(), seed]).encode())
    for numbers in (data.item_ids, data.items, data.offsets):
        digest.update(numbers.tobytes())
    return digest.hexdigest()


def _optimizer(model: SequenceDecoder, recipe: DecoderRecipe) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim != 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def train(
    data: ItemSequences,
    recipe: DecoderRecipe,
    seed: int,
    budget_seconds: float | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
    state_path: Path | None = None,
) -> TrainedDecoder:
    """Train on the training items of `data`, choose the epoch on its validation targets.

    The same data, recipe and seed give the same model, unless the budget cuts the number of epochs,
    which depends on the machine's pace; then the learning rate comes down sooner. At `state_path`
    the state is written after every epoch, and a run that finds it goes on there.
    Raises ValueError when no user has two training items, TrainingDiverged for a loss that is no
    finite number, ConfigurationError for a state of another run.
    """
    with torch.random.fork_rng(devices=[]):
        run = _Run(data, recipe, seed)
        if not run.windows:
            raise ValueError("no user has two training items, expected some to learn from")
        if state_path is not None and state_path.is_file():
            run.load(state_path)
            for past in run.history:
                report(past)
        while len(run.history) < run.planned(budget_seconds) and not run.stale():
            report(run.next_epoch(data, run.planned(budget_seconds)))
            if state_path is not None:
                run.save(state_path)
        run.model.load_state_dict(run.best)
    return TrainedDecoder(run.model.eval(), run.best_epoch, tuple(run.history))

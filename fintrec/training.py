"""Training of both models of a version, and of its calibration (FinTRec sections 3.2 and 3.4).

One loop serves both objectives: AdamW, batches of one length bucket, the weights with the lowest
validation log loss are kept. `minutes` bounds the wall time of each model; then the result depends
on the machine, otherwise only on data, recipe and seed (and the number of threads).

To distribute the loop, give `fit` an objective wrapped in `DistributedDataParallel` and batches of
this rank's share: it only calls the objective and steps the optimiser.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from features.encoding import encode_histories
from features.errors import FintrecError
from features.history import as_of
from fintrec.batches import (
    click_batches,
    click_windows,
    conversion_batches,
    history_lengths,
    num_batches,
)
from fintrec.calibration_choice import choose as choose_calibration
from fintrec.checkpoint import Checkpoint
from fintrec.datasets import Decisions, TrainingSet
from fintrec.evaluation import evaluate, impressions, score
from fintrec.exposure import ExposurePrior, exposure_prior, no_prior
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.models.embedding import HistoryEmbedding
from fintrec.models.head import ItemHead
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.objectives import ClickObjective, ConversionObjective
from fintrec.popularity import Popularity, measure

_WARM_SHARE: Final = 0.05  # of the training, in which the learning rate rises
_FIT_PAGES: Final = 2048  # pages whose histories the standardisation is fitted on
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Batch = TypeVar("Batch")


class NoExamples(FintrecError):
    """A data set has nothing to learn from; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands; `validation` is set after an evaluation."""

    model: str
    epoch: int
    step: int
    share: float  # of the training, 0..1
    loss: float
    validation: float | None


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report to nobody."""


@dataclass(frozen=True, slots=True)
class Task(Generic[Batch]):
    """What the loop trains: a model inside its objective, batches by epoch, a validation loss."""

    name: str
    model: nn.Module
    objective: nn.Module
    batches: Callable[[int], Iterable[Batch]]
    num_batches: int
    validate: Callable[[], float]


def fit(
    task: Task[Batch],
    config: TrainingConfig,
    minutes: float | None = None,
    report: Report = silent,
    now: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train in place, leave the best weights in the model, and return what happened."""
    optimiser = torch.optim.AdamW(
        task.model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    start, total = now(), max(1, config.epochs * task.num_batches)
    best_loss, best_epoch, step, share, loss = math.inf, 0, 0, 0.0, math.nan
    best: dict[str, Tensor] = {}
    for epoch in range(1, config.epochs + 1):
        task.objective.train()
        for batch in task.batches(epoch):
            share = max(step / total, (now() - start) / (60 * minutes) if minutes else 0.0)
            if share >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * _schedule(config, share)
            loss = _step(task, optimiser, batch, config.gradient_norm)
            step += 1
            report(Progress(task.name, epoch, step, share, loss, None))
        task.objective.eval()
        validation = task.validate()
        report(Progress(task.name, epoch, step, share, loss, validation))
        if validation < best_loss or not best:
            best_loss, best_epoch = validation, epoch
            best = {name: value.clone() for name, value in task.model.state_dict().items()}
        if share >= 1:
            break
    task.model.load_state_dict(best)
    task.model.eval()
    return {
        "best_validation_loss": round(best_loss, 6),
        "best_epoch": best_epoch,
        "epochs": epoch,
        "steps": step,
        "seconds": round(now() - start, 1),
    }


def _schedule(config: TrainingConfig, share: float) -> float:
    if config.schedule == "constant":
        return 1.0
    return min(1.0, (share + 1e-3) / _WARM_SHARE) * 0.5 * (1 + math.cos(math.pi * share))


def _step(
    task: Task[Batch], optimiser: torch.optim.Optimizer, batch: Batch, gradient_norm: float
) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss = task.objective(batch)
    loss.backward()
    nn.utils.clip_grad_norm_(task.model.parameters(), gradient_norm)
    optimiser.step()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"{task.name}: loss is {value}, expected a finite number")
    return value


def train(
    data: TrainingSet,
    recipe: Recipe,
    minutes: float | None = None,
    report: Report = silent,
) -> Checkpoint:
    """Train both models and the calibration on a data set.

    `minutes` bounds each model's training; NoExamples if there is no click or no page to learn from.
    """
    if data.vocabulary.items != data.items:
        raise ValueError("the data set's items are not its vocabulary's scored items")
    torch.manual_seed(recipe.training.seed)
    popularity = measure(data)
    pctr, pcvr = Pctr(data.vocabulary, recipe.model), Pcvr(data.vocabulary, recipe.model)
    prior = exposure_prior(data) if recipe.training.exposure_prior else no_prior(len(data.items))
    prepare(pctr, pcvr, data, popularity, recipe.training.seed)
    stride = min(recipe.training.label_stride, recipe.model.window // 2)
    history = {
        "pctr": fit(
            _click_task(pctr, data, recipe.training, stride, prior),
            recipe.training,
            minutes,
            report,
        ),
        "pcvr": fit(
            _conversion_task(pcvr, data, recipe.training), recipe.training, minutes, report
        ),
    }
    limit, seed = recipe.training.evaluation_rows, recipe.training.seed
    scored = score(pctr, pcvr, data, data.validation, _sample(data.validation, limit, seed))
    calibration = choose_calibration(impressions(scored, data.validation), len(data.items), seed)
    tested = score(pctr, pcvr, data, data.test, _sample(data.test, limit, seed))
    metrics = {
        "training": history,
        "validation": evaluate(scored, data.validation, calibration, prior),
        "test": evaluate(tested, data.test, calibration, prior),
        "exclusions": dict(data.exclusions),
    }
    return Checkpoint(
        recipe, data.vocabulary, data.content_types, pctr, pcvr, calibration, popularity, metrics
    )


def _all(decisions: Decisions) -> IntArray:
    return np.arange(len(decisions.user), dtype=np.int64)


def _sample(decisions: Decisions, limit: int, seed: int) -> IntArray:
    """At most `limit` pages, evenly likely, in order."""
    pages = _all(decisions)
    if len(pages) <= limit:
        return pages
    return np.sort(np.random.default_rng(seed).choice(pages, limit, replace=False))


def _click_task(
    model: Pctr, data: TrainingSet, config: TrainingConfig, stride: int, prior: ExposurePrior
) -> Task[Any]:
    windows = click_windows(data, data.train, stride)
    held_out = click_windows(data, data.validation, stride)
    if not windows or not held_out:
        raise NoExamples(
            f"pCTR needs clicks: training has {len(windows)} windows with one, "
            f"validation {len(held_out)}"
        )
    if len(held_out) > config.validation_rows:
        rng = np.random.default_rng(config.seed)
        chosen = rng.choice(len(held_out), config.validation_rows, replace=False)
        held_out = [held_out[place] for place in sorted(chosen.tolist())]
    objective = ClickObjective(model, prior)

    @torch.inference_mode()
    def validate() -> float:
        total, count = 0.0, 0
        rng = np.random.default_rng(config.seed)
        for batch in click_batches(data, data.validation, held_out, config.batch_size, rng):
            total += float(objective(batch)) * len(batch.target_L)
            count += len(batch.target_L)
        return total / count

    def batches(epoch: int) -> Iterable[Any]:
        rng = np.random.default_rng([config.seed, epoch])
        return click_batches(data, data.train, windows, config.batch_size, rng)

    return Task(
        "pctr",
        model,
        objective,
        batches,
        num_batches(np.array([window.length for window in windows]), config.batch_size),
        validate,
    )


def _conversion_task(model: Pcvr, data: TrainingSet, config: TrainingConfig) -> Task[Any]:
    pages = _all(data.train)
    held_out = _sample(data.validation, config.validation_rows, config.seed)
    if not len(pages) or not len(held_out):
        raise NoExamples(f"pCVR needs pages: training has {len(pages)}, validation {len(held_out)}")
    objective = ConversionObjective(model)

    @torch.inference_mode()
    def validate() -> float:
        total = 0.0
        for chosen, batch in conversion_batches(
            data, data.validation, held_out, config.batch_size, None
        ):
            total += float(objective(batch)) * len(chosen)
        return total / len(held_out)

    def batches(epoch: int) -> Iterable[Any]:
        rng = np.random.default_rng([config.seed, epoch])
        for _, batch in conversion_batches(data, data.train, pages, config.batch_size, rng):
            yield batch

    return Task(
        "pcvr",
        model,
        objective,
        batches,
        num_batches(history_lengths(data, data.train), config.batch_size),
        validate,
    )


@torch.no_grad()
def prepare(
    pctr: Pctr,
    pcvr: Pcvr,
    data: TrainingSet,
    popularity: Popularity,
    seed: int,
) -> None:
    """Fit the standardisation, tell the heads the items' categories, and start the output biases at the base rates.

    So the first step already knows what is rare, and a short training stays sane.
    """
    pages = _sample(data.train, _FIT_PAGES, seed)
    ends = zip(data.train.user[pages].tolist(), data.train.end[pages].tolist(), strict=True)
    arrays = encode_histories([as_of(data.logs[user], end) for user, end in ends]).arrays
    dynamic = torch.from_numpy(arrays.dynamic_BTF[arrays.times_BT > 0]).float()
    static = torch.from_numpy(data.train.static[pages]).float()
    for model in (pctr, pcvr):
        embedding, item_head = model.encoder.embedding, model.item_head
        assert isinstance(embedding, HistoryEmbedding)
        assert isinstance(item_head, ItemHead)
        if data.categories:
            item_head.set_categories(data.categories)
        for scale, sample in ((embedding.dynamic_scale, dynamic), (item_head.static_scale, static)):
            if len(sample):
                scale.fit(sample.mean(0), sample.std(0, correction=0))
    rates = np.log(np.maximum(np.array(popularity.ctr), 1e-6))
    pctr.item_head.output.bias.copy_(torch.from_numpy(rates))
    cvr = np.clip(np.array(popularity.cvr), 1e-6, 0.5)
    pcvr.item_head.output.bias.copy_(torch.from_numpy(np.log(cvr / (1 - cvr))))

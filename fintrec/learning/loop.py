"""The loop: AdamW over planned epochs; the weights with the lowest validation loss are kept.

It knows nothing of clicks or conversions. A `Task` says what is trained on what; an epoch's plan is
a list that is cheap to make anew, and each of its entries becomes a batch only when its turn comes.

`minutes` bounds the wall time; then the result depends on the machine, otherwise only on data,
recipe and seed (and the number of threads).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor, nn

from features.errors import FintrecError
from fintrec.models.config import TrainingConfig
from fintrec.objectives import mean_loss

_WARM_SHARE: Final = 0.05  # of the training, in which the learning rate rises
Plan = TypeVar("Plan")
Batch = TypeVar("Batch")


class TrainingFailed(FintrecError):
    """A training went astray; the message says which, where, and what is left of it."""


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
class Task(Generic[Plan, Batch]):
    """What the loop trains.

    `plan(epoch)` are the epoch's steps in order, `batch` encodes one of them. `objective` gives
    the sums and counts of a batch's loss (`fintrec/objectives.py`), `validate` the loss that epochs
    are judged by. `model` holds the weights that are kept.
    """

    name: str
    model: nn.Module
    objective: nn.Module
    plan: Callable[[int], Sequence[Plan]]
    batch: Callable[[Plan], Batch]
    validate: Callable[[], float]


def fit(
    task: Task[Plan, Batch],
    config: TrainingConfig,
    minutes: float | None = None,
    report: Report = silent,
    now: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train in place, leave the best weights in the model, and return what happened."""
    trained = [weight for weight in task.model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    start, best_loss, best_epoch, step, share, loss = now(), math.inf, 0, 0, 0.0, math.nan
    best: dict[str, Tensor] = {}
    for epoch in range(1, config.epochs + 1):
        task.objective.train()
        plan = task.plan(epoch)
        for place, planned in enumerate(plan):
            share = (epoch - 1 + place / len(plan)) / config.epochs
            share = max(share, (now() - start) / (60 * minutes) if minutes else 0.0)
            if share >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * _schedule(config, share)
            loss = _step(task, optimiser, task.batch(planned), config.gradient_norm)
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
    task: Task[Plan, Batch], optimiser: torch.optim.Optimizer, batch: Batch, gradient_norm: float
) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss = mean_loss(task.objective(batch))
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingFailed(f"{task.name}: loss is {value}, expected a finite number")
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(task.model.parameters(), gradient_norm)
    optimiser.step()
    return value

"""The loop: AdamW over planned epochs; the weights with the lowest validation loss are kept.

It knows nothing of clicks or conversions. A `Task` says what is trained on what; an epoch's plan is
a list that is cheap to make anew, and each of its entries becomes a batch only when its turn comes.
So a training is taken up in the middle of an epoch: all that changes while it goes is the state of
`_Training`, and with a `Run` it is on disk (`fintrec/learning/run_state.py`).

`minutes` bounds the wall time; then the result depends on the machine, otherwise only on data,
recipe and seed (and the number of threads).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor, nn

from fintrec.learning.compute import CPU, Compute
from fintrec.learning.divergence import TrainingFailed, Watch
from fintrec.learning.journal import Journal
from fintrec.learning.progress import Progress, Report, silent
from fintrec.learning.run_state import Run, State
from fintrec.models.config import TrainingConfig
from fintrec.objectives import mean_loss

__all__ = ["Progress", "Report", "Task", "TrainingFailed", "backward", "fit", "silent"]

_WARM_SHARE: Final = 0.05  # of the training, in which the learning rate rises
Plan = TypeVar("Plan")
Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Task(Generic[Plan, Batch]):
    """What the loop trains.

    `plan(epoch)` are the epoch's steps in order, `batch` encodes one of them, maybe in another
    process, `tokens` counts the interactions in it. `objective` gives the sums and counts of a batch's loss
    (`fintrec/objectives.py`), `validate` the loss that epochs are judged by. `model` holds the
    weights that are kept. `base_loss` is what a model gets that knows the base rates alone
    (`fintrec/learning/base_rates.py`).
    """

    name: str
    model: nn.Module
    objective: nn.Module
    plan: Callable[[int], Sequence[Plan]]
    batch: Callable[[Plan], Batch]
    validate: Callable[[], float]
    tokens: Callable[[Batch], int] = lambda batch: 0
    base_loss: float | None = None


@dataclass(slots=True)
class _At:
    """How far a training is: `place` is the next step of the epoch's plan."""

    epoch: int = 1
    place: int = 0
    step: int = 0
    epochs: int = 0  # evaluated
    share: float = 0.0
    loss: float = math.nan
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    is_over: bool = False


def fit(
    task: Task[Plan, Batch],
    config: TrainingConfig,
    minutes: float | None = None,
    report: Report = silent,
    now: Callable[[], float] = time.monotonic,
    run: Run | None = None,
    compute: Compute = CPU,
) -> dict[str, Any]:
    """Train in place, leave the best weights in the model, and return what happened.

    With `run` its directory holds curve and state, and a state found there is gone on from: then
    curve and weights are those of a training that was never cut (on a CPU, with the seed set
    before). TrainingFailed when the training has gone astray (`fintrec/learning/divergence.py`),
    ConfigurationError for the run directory of another training.
    """
    training = _Training(task, config, minutes, now, compute)
    if run is None:
        for progress in training.steps():
            report(progress)
        return training.result()
    with closing(Journal(run, task.name, compute.group.is_first)) as journal:
        if journal.found is not None:
            training.restore(journal.found)
        try:
            for progress in training.steps():
                journal.record(progress, training.state if training.watch.is_calm else None)
                report(progress)
        except TrainingFailed as failed:
            raise TrainingFailed(f"{failed}; {journal.last_state()}") from failed
    return training.result()


def backward(objective: nn.Module, batch: object, compute: Compute) -> Tensor:
    """Add the gradients of the mean loss of all processes' shares of a batch; returns that loss."""
    with compute.autocast():
        sums_P2 = objective(compute.placed(batch))
    totals_P2 = compute.group.total(sums_P2.detach())
    loss = mean_loss(sums_P2, totals_P2[:, 1]) * compute.group.size
    loss.backward()  # type: ignore[no-untyped-call]
    return mean_loss(totals_P2)


class _Training(Generic[Plan, Batch]):
    """All that changes while a task is trained."""

    def __init__(
        self,
        task: Task[Plan, Batch],
        config: TrainingConfig,
        minutes: float | None,
        now: Callable[[], float],
        compute: Compute,
    ) -> None:
        self.watch = Watch(task.base_loss)
        self._task = task
        self._config = config
        self._compute = compute
        self._budget_seconds = 60 * minutes if minutes else math.inf
        self._now = now
        trained = [weight for weight in task.model.parameters() if weight.requires_grad]
        self._optimiser = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._at = _At()
        self._best: dict[str, Tensor] = {}
        self._start = now()

    def steps(self) -> Iterator[Progress]:
        """Train to the end, with a look at it after each step and each evaluation."""
        while not self._at.is_over:
            yield from self._epoch()

    def _epoch(self) -> Iterator[Progress]:
        at, config = self._at, self._config
        self._task.objective.train()
        plan = self._task.plan(at.epoch)
        batches = self._compute.batches(self._task.batch, plan[at.place :])
        while at.place < len(plan):
            at.share = (at.epoch - 1 + at.place / len(plan)) / config.epochs
            at.share = max(at.share, at.seconds / self._budget_seconds)
            if at.share >= 1:
                break
            self._step(next(batches))
            yield self._progress(None)
        self._task.objective.eval()
        validation = self._task.validate()
        if not math.isfinite(validation):
            self._fail(f"validation loss is {validation}, expected a finite number")
        at.seconds = self._compute.group.gathered(self._now() - self._start)[0]
        progress = self._progress(validation)
        if validation < at.best_loss or not self._best:
            at.best_loss, at.best_epoch = validation, at.epoch
            self._best = {n: value.clone() for n, value in self._task.model.state_dict().items()}
        at.epochs, at.epoch, at.place = at.epoch, at.epoch + 1, 0
        at.is_over = at.share >= 1 or at.epoch > config.epochs
        yield progress

    def _step(self, batch: Batch) -> None:
        task, at = self._task, self._at
        for parameters in self._optimiser.param_groups:
            parameters["lr"] = self._learning_rate()
        self._optimiser.zero_grad(set_to_none=True)
        loss = backward(task.objective, batch, self._compute)
        norm = nn.utils.clip_grad_norm_(task.model.parameters(), self._config.gradient_norm)
        at.loss, found_norm = torch.stack((loss, norm)).tolist()  # waits for the device, once
        trouble = self.watch.trouble_of(at.loss)
        if trouble is not None:
            self._fail(trouble)
        if not math.isfinite(found_norm):
            self._fail(f"gradient norm is {found_norm}, expected a finite number")
        self._optimiser.step()
        at.step += 1
        at.place += 1
        told = self._compute.group.gathered((task.tokens(batch), self._now() - self._start))
        at.tokens += sum(tokens for tokens, _ in told)
        at.seconds = told[0][1]  # one clock for all, since the budget is agreed upon

    def _fail(self, trouble: str) -> None:
        at = self._at
        raise TrainingFailed(
            f"{self._task.name}: {trouble}; epoch {at.epoch}, step {at.step + 1}, learning rate "
            f"{self._learning_rate():.3g}: lower it, or look for numbers out of range in the data"
        )

    def _learning_rate(self) -> float:
        rate, share = self._config.learning_rate, self._at.share
        if self._config.schedule == "constant":
            return rate
        return rate * (
            min(1.0, (share + 1e-3) / _WARM_SHARE) * 0.5 * (1 + math.cos(math.pi * share))
        )

    def _progress(self, validation: float | None) -> Progress:
        at = self._at
        return Progress(
            self._task.name,
            at.epoch,
            at.step,
            at.share,
            at.loss,
            validation,
            self._learning_rate(),
            at.tokens,
            at.seconds,
        )

    def state(self) -> State:
        """All that changes, as it is between two steps."""
        return {
            "at": asdict(self._at),
            "model": self._task.model.state_dict(),
            "best": self._best,
            "optimiser": self._optimiser.state_dict(),
            "random": self._compute.random_states(),
            "watch": asdict(self.watch),
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._at = _At(**state["at"])
        self._task.model.load_state_dict(state["model"])
        self._best = state["best"]
        self._optimiser.load_state_dict(state["optimiser"])
        self._compute.set_random_states(state["random"])
        self.watch = Watch(**state["watch"])
        self._start = self._now() - self._at.seconds

    def result(self) -> dict[str, Any]:
        """What happened; the model has its best weights and is in evaluation mode."""
        at = self._at
        self._task.model.load_state_dict(self._best)
        self._task.model.eval()
        return {
            "best_validation_loss": round(at.best_loss, 6),
            "best_epoch": at.best_epoch,
            "epochs": at.epochs,
            "steps": at.step,
            "tokens": at.tokens,
            "seconds": round(at.seconds, 1),
        }

"""Training of a version's models, and of its calibration (FinTRec sections 3.2 and 3.4).

`train_models` trains what is asked, `train` adds calibration and metrics and makes a checkpoint.
The loop and the tasks are in `fintrec/learning/`. Each model starts from the seed and its own name,
so it comes out the same whether or not the other is trained before it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from fintrec.calibration_choice import choose as choose_calibration
from fintrec.checkpoint import Checkpoint
from fintrec.datasets import TrainingSet
from fintrec.evaluation import evaluate, impressions, score
from fintrec.exposure import ExposurePrior, exposure_prior, no_prior
from fintrec.learning.loop import Progress, Report, TrainingFailed, fit, silent
from fintrec.learning.preparation import prepare
from fintrec.learning.run_state import Run
from fintrec.learning.tasks import NoExamples, click_task, conversion_task, sampled
from fintrec.models.config import Recipe
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.models.trunk import share_trunk
from fintrec.popularity import measure

__all__ = [
    "TASKS",
    "NoExamples",
    "Progress",
    "Trained",
    "TrainingFailed",
    "prior_of",
    "train",
    "train_models",
]

BOTH: Final = ("pctr", "pcvr")
TASKS: Final = {"pctr": ("pctr",), "pcvr": ("pcvr",), "both": BOTH}


@dataclass(frozen=True, slots=True)
class Trained:
    """The models that were asked for, in evaluation mode, and what happened, by task."""

    pctr: Pctr | None
    pcvr: Pcvr | None
    history: dict[str, dict[str, Any]]


def train_models(
    data: TrainingSet,
    recipe: Recipe,
    tasks: Sequence[str] = BOTH,
    minutes: float | None = None,
    report: Report = silent,
    run: Run | None = None,
) -> Trained:
    """Train some of the models of a version on a data set, without a calibration.

    `minutes` bounds the training of each. With `run` each training leaves its curve there, and goes
    on from the state that a killed one left. NoExamples if there is nothing to learn from,
    TrainingFailed when a loss is no longer a number, ConfigurationError for the run directory of
    another training, ValueError on tasks that do not exist.
    """
    tasks = tuple(tasks)
    if tasks not in TASKS.values():
        raise ValueError(f"tasks={tasks} is not one of {sorted(TASKS.values())}")
    if recipe.model.shared_trunk:
        raise ValueError(f"shared_trunk: tasks={tasks} would train the trunk twice, expected joint")
    if data.vocabulary.items != data.items:
        raise ValueError("the data set's items are not its vocabulary's scored items")
    pctr, pcvr = _prepared(data, recipe)
    history = {}
    for name in tasks:
        torch.manual_seed(_seed(recipe.training.seed, "fit", name))
        task: Any = (
            click_task(pctr, data, recipe, prior_of(data, recipe))
            if name == "pctr"
            else conversion_task(pcvr, data, recipe.training)
        )
        history[name] = fit(task, recipe.training, minutes, report, run=run)
    return Trained(
        pctr.eval() if "pctr" in tasks else None, pcvr.eval() if "pcvr" in tasks else None, history
    )


def prior_of(data: TrainingSet, recipe: Recipe) -> ExposurePrior:
    """What the click objective adds to the logits under a recipe."""
    return exposure_prior(data) if recipe.training.exposure_prior else no_prior(len(data.items))


def _prepared(data: TrainingSet, recipe: Recipe) -> tuple[Pctr, Pcvr]:
    """Both models before their first step."""
    seed = recipe.training.seed
    torch.manual_seed(_seed(seed, "weights", "pctr"))
    pctr = Pctr(data.vocabulary, recipe.model)
    torch.manual_seed(_seed(seed, "weights", "pcvr"))
    pcvr = Pcvr(data.vocabulary, recipe.model)
    if recipe.model.shared_trunk:
        share_trunk(pctr, pcvr)
    prepare(pctr, pcvr, data, measure(data), seed)
    return pctr, pcvr


def _seed(seed: int, *what: str) -> int:
    """A seed of its own for each use."""
    digest = hashlib.blake2b(" ".join((str(seed), *what)).encode(), digest_size=7)
    return int.from_bytes(digest.digest())


def train(
    data: TrainingSet,
    recipe: Recipe,
    minutes: float | None = None,
    report: Report = silent,
    tasks: Sequence[str] = BOTH,
    run: Run | None = None,
) -> Checkpoint:
    """Train models and the calibration on a data set, and measure them.

    As `train_models`; the calibration is fitted on validation pages.
    """
    trained = train_models(data, recipe, tasks, minutes, report, run)
    pctr, pcvr, prior = trained.pctr, trained.pcvr, prior_of(data, recipe)
    limit, seed = recipe.training.evaluation_rows, recipe.training.seed
    scored = score(pctr, pcvr, data, data.validation, sampled(data.validation, limit, seed))
    calibration = (
        None
        if pctr is None
        else choose_calibration(impressions(scored, data.validation), len(data.items), seed)
    )
    tested = score(pctr, pcvr, data, data.test, sampled(data.test, limit, seed))
    metrics = {
        "training": trained.history,
        "validation": evaluate(scored, data.validation, calibration, prior),
        "test": evaluate(tested, data.test, calibration, prior),
        "exclusions": dict(data.exclusions),
    }
    return Checkpoint(
        recipe,
        data.vocabulary,
        data.content_types,
        pctr,
        pcvr,
        calibration,
        measure(data),
        metrics,
    )

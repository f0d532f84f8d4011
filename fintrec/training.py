"""Training of a version's models, and of its calibration (FinTRec sections 3.2 and 3.4).

`train_models` trains what is asked, `completed` adds calibration and metrics and makes a checkpoint,
`train` does both.
The loop and the tasks are in `fintrec/learning/`. Each model starts from the seed and its own name,
so it comes out the same whether or not the other is trained before it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from fintrec.calibration_choice import choose as choose_calibration
from fintrec.checkpoint import Checkpoint
from fintrec.datasets import Decisions, TrainingSet
from fintrec.evaluation import Scores, evaluate, impressions
from fintrec.exposure import ExposurePrior, exposure_prior, no_prior
from fintrec.learning.compute import CPU, Compute
from fintrec.learning.joint import joint_task
from fintrec.learning.loop import Progress, Report, Task, TrainingFailed, fit, silent
from fintrec.learning.preparation import prepare, tell_categories
from fintrec.learning.run_state import Run
from fintrec.learning.tasks import NoExamples, click_task, conversion_task
from fintrec.learning.warm_start import start_from
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
    "completed",
    "prior_of",
    "silent",
    "train",
    "train_models",
]

BOTH: Final = ("pctr", "pcvr")
JOINT: Final = ("joint",)
TASKS: Final = {"pctr": ("pctr",), "pcvr": ("pcvr",), "both": BOTH, "joint": JOINT}


@dataclass(frozen=True, slots=True)
class Trained:
    """The models that were asked for, in evaluation mode and on the device that they were trained
    on, and what happened, by task.
    """

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
    compute: Compute = CPU,
    start: Checkpoint | None = None,
    pages: Decisions | None = None,
) -> Trained:
    """Train some of the models of a version on a data set, without a calibration.

    `tasks` is a value of TASKS; joint makes both models in one training
    (`fintrec/learning/joint.py`), which a recipe with a shared trunk needs. `minutes` bounds each
    training. With `run` each leaves its curve there, and goes on from the state that a killed one
    left. `start` is a checkpoint whose weights it starts with. `pages` are the training pages that
    pCVR learns from, where they are not the data set's; the base rates stay the data set's.

    Raises:
        NoExamples: there is nothing to learn from.
        TrainingFailed: a loss is no longer a number, or far above that of the base rates.
        ConfigurationError: `run` or `start` is of something else.
        ValueError: there are no such tasks, or the recipe forbids them; `pages` with `run`, whose
            state does not name them.
    """
    tasks = tuple(tasks)
    if tasks not in TASKS.values():
        raise ValueError(f"tasks={tasks} is not one of {sorted(TASKS.values())}")
    if recipe.model.shared_trunk and tasks != JOINT:
        raise ValueError(f"shared_trunk: tasks={tasks} would train the trunk twice, expected joint")
    if data.vocabulary.items != data.items:
        raise ValueError("the data set's items are not its vocabulary's scored items")
    if run is not None and pages is not None:
        raise ValueError("a run's state names the data set alone, expected no pages beside it")
    if run is not None:
        for name in tasks:  # another training's state is refused before the first one starts
            run.read(name)
    names = BOTH if tasks == JOINT else tasks
    paged = data if pages is None else replace(data, train=pages)
    pctr, pcvr = _prepared(data, recipe)
    models: dict[str, Pctr | Pcvr] = {"pctr": pctr, "pcvr": pcvr}
    if start is not None:
        start_from(start, {name: models[name] for name in names}, data, recipe)
        tell_categories(pctr, pcvr, data)  # those of the data, not those of the checkpoint
    for model in models.values():
        model.to(compute.device)
    history = {}
    for name in tasks:
        _seed_fit(recipe.training.seed, name, compute)
        task = _task(name, pctr, pcvr, data, paged, recipe, compute)
        history[name] = fit(task, recipe.training, minutes, report, run=run, compute=compute)
    return Trained(
        pctr.eval() if "pctr" in names else None,
        pcvr.eval() if "pcvr" in names else None,
        history,
    )


def _task(
    name: str,
    pctr: Pctr,
    pcvr: Pcvr,
    data: TrainingSet,
    paged: TrainingSet,
    recipe: Recipe,
    compute: Compute,
) -> Task[Any, Any]:
    if name == "pctr":
        return click_task(pctr, data, recipe, prior_of(data, recipe), compute)
    if name == "pcvr":
        return conversion_task(pcvr, paged, recipe.training, compute)
    parts = [_task(part, pctr, pcvr, data, paged, recipe, compute) for part in BOTH]
    return joint_task(*parts, seed=recipe.training.seed)


def _seed_fit(seed: int, name: str, compute: Compute) -> None:
    """Processes drop out unlike units: they have unlike examples."""
    rank = compute.group.rank
    torch.manual_seed(_seed(seed, "fit", name, *([str(rank)] if rank else [])))


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
) -> Checkpoint:
    """Train models and the calibration on a data set, and measure them; as `train_models`."""
    return completed(train_models(data, recipe, tasks, minutes, report), data, recipe)


def completed(
    trained: Trained, data: TrainingSet, recipe: Recipe, scores: Scores | None = None
) -> Checkpoint:
    """The checkpoint of trained models: measured, with a calibration fitted on validation pages.

    `scores` of these models on this data are added to, for whoever judges the checkpoint next.
    """
    pctr, pcvr, prior = trained.pctr, trained.pcvr, prior_of(data, recipe)
    limit, seed = recipe.training.evaluation_rows, recipe.training.seed
    scores = scores or Scores(pctr, pcvr, data)
    scored = scores.of("validation", limit, seed)
    calibration = (
        None
        if pctr is None
        else choose_calibration(
            impressions(scored, data.validation), len(data.items), seed, link=scored.link
        )
    )
    tested = scores.of("test", limit, seed)
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
        None if pctr is None else pctr.cpu(),
        None if pcvr is None else pcvr.cpu(),
        calibration,
        measure(data),
        metrics,
    )

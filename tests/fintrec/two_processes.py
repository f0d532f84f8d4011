"""What each of two processes does that `test_training_distributed.py` starts with torchrun.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.fintrec.two_processes \
    DIR whole|rest

`whole` compares, trains, and then is killed in the middle of a training; `rest` goes on with that
one, and ends with a number that is none in the data of one process.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fintrec.learning.compute import CPU, Compute
from fintrec.learning.distributed import processes
from fintrec.learning.fingerprint import made_of
from fintrec.learning.loop import TrainingFailed, backward
from fintrec.learning.run_state import Run
from fintrec.learning.tasks import click_task, conversion_task
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.training import prior_of, train_models
from tests.fintrec.tiny import config, models, training_set

KILLED_AT = 13


def recipe(shared: bool = False, dropout: float = 0.0, **training: object) -> Recipe:
    """Five rows a batch, so that shares are unlike in size, and some batches have one row."""
    settings = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 5, "label_stride": 6, **training}
    model = config(dropout=dropout, shared_trunk=shared)
    return Recipe(name="two", model=model, training=TrainingConfig(**settings))


def gradients(compute: Compute) -> list[dict[str, torch.Tensor | float]]:
    """Of the first, a middle and the smallest batch of both objectives: loss and gradients."""
    data, chosen, found = training_set(6), recipe(), []
    pctr, pcvr = models()
    clicks = click_task(pctr, data, chosen, prior_of(data, chosen), compute)
    conversions = conversion_task(pcvr, data, chosen.training, compute)
    for task, rows in ((clicks, lambda p: p.chosen), (conversions, lambda p: p[1].pages)):
        plan = task.plan(1)
        for planned in (plan[0], plan[len(plan) // 2], min(plan, key=lambda p: len(rows(p)))):
            task.model.zero_grad()
            loss = float(backward(task.objective, task.batch(planned), compute))
            of = {n: w.grad.clone() for n, w in task.model.named_parameters() if w.requires_grad}
            found.append({"loss": loss, "rows": float(len(rows(planned))), **of})
    return found


def losses(compute: Compute, shared: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Of every step and evaluation of a training, and its weights."""
    told: list[float] = []
    tasks = ("joint",) if shared else ("pctr", "pcvr")
    found = train_models(
        training_set(6),
        recipe(shared),
        tasks,
        report=lambda p: told.append(p.loss if p.validation is None else p.validation),
        compute=compute,
    )
    weights = {
        f"{name}.{weight}": value
        for name, model in (("pctr", found.pctr), ("pcvr", found.pcvr))
        for weight, value in model.state_dict().items()
    }
    return told, weights


def with_states(directory: Path, compute: Compute, killed: bool) -> dict[str, torch.Tensor]:
    """A training with dropout that keeps its states; with `killed` it does not come back."""
    data, chosen = training_set(6), recipe(dropout=0.2)
    run = Run(directory, made_of(data, chosen, None, compute), save_steps=5)

    def report(progress) -> None:
        if killed and compute.group.is_first and progress.step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    found = train_models(data, chosen, ("pcvr",), None, report, run, compute)
    return found.pcvr.state_dict()


def no_number(compute: Compute) -> str:
    """What the training says whose second process reads a NaN."""
    data = training_set(6)
    static = data.train.static.copy()
    bad = replace(data, train=replace(data.train, static=static))

    def plant(progress) -> None:
        if progress.step == 3 and not compute.group.is_first:
            static[:] = np.nan

    try:
        train_models(bad, recipe(), ("pcvr",), report=plant, compute=compute)
    except TrainingFailed as failed:
        return str(failed)
    return "trained"


def main(directory: Path, part: str) -> None:
    """One of the two parts; leaves what it found in the directory."""
    torch.set_num_threads(1)
    with processes("gloo") as group:
        compute = replace(CPU, group=group)
        own = directory / f"{part}-{group.rank}"
        if part == "whole":
            told, weights = losses(compute, shared=False)
            joint, joint_weights = losses(compute, shared=True)
            kept = with_states(directory / "uncut", compute, killed=False)
            torch.save(
                {
                    "gradients": gradients(compute),
                    "losses": told,
                    "weights": weights,
                    "joint": joint,
                    "joint_weights": joint_weights,
                    "kept": kept,
                },
                own.with_suffix(".pt"),
            )
            group.gathered(None)  # both have written
            with_states(directory / "run", compute, killed=True)
        else:
            torch.save(
                with_states(directory / "run", compute, killed=False), own.with_suffix(".pt")
            )
            own.with_suffix(".json").write_text(json.dumps(no_number(compute)))
    sys.exit(7)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

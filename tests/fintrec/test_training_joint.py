"""Both objectives in one training: each keeps its own examples, and both models can be served."""

import numpy as np
import pytest
import torch

from features.errors import ConfigurationError
from fintrec.checkpoint import load, save
from fintrec.export import export
from fintrec.learning.joint import joint_task
from fintrec.learning.tasks import click_task, conversion_task
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.models.trunk import SHARED_FIELDS
from fintrec.training import completed, prior_of, train_models
from tests.fintrec.tiny import config, models, training_set


def recipe(shared: bool = False, **training: object) -> Recipe:
    settings = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8, "label_stride": 6, **training}
    model = config(dropout=0.0, shared_trunk=shared)
    return Recipe(name="test", model=model, training=TrainingConfig(**settings))


@pytest.fixture(scope="module")
def data():
    return training_set(14)


@pytest.fixture(scope="module")
def shared(data):
    return train_models(data, recipe(shared=True, epochs=6), tasks=("joint",))


def test_an_epoch_has_the_steps_of_both_in_their_own_order(data) -> None:
    pctr, pcvr = models()
    tasks = [
        click_task(pctr, data, recipe(), prior_of(data, recipe())),
        conversion_task(pcvr, data, recipe().training),
    ]
    joint = joint_task(*tasks, seed=0)
    turns = joint.plan(3)
    for number, task in enumerate(tasks):
        own = [turn.what for turn in turns if turn.task == number]
        for found, expected in zip(own, task.plan(3), strict=True):
            assert str(found) == str(expected)
    order = [[turn.task for turn in joint.plan(epoch)] for epoch in (3, 3, 4)]
    assert order[0] == order[1] != order[2]
    halves = np.array_split(order[0], 2)
    assert all(0 < half.mean() < 1 for half in halves)  # mixed, not one behind the other


def test_without_a_trunk_each_model_learns_what_it_learns_alone(data) -> None:
    """The steps are the same and touch one model each. AdamW does not see a loss' unit but for its
    epsilon, and the norm at which gradients are cut is out of reach, so little may differ."""
    plain = recipe(schedule="constant", gradient_norm=1e9, learning_rate=3e-3)
    joint = train_models(data, plain, tasks=("joint",))
    alone = train_models(data, plain)
    pctr = click_task(alone.pctr, data, plain, prior_of(data, plain))
    pcvr = conversion_task(alone.pcvr, data, plain.training)
    relative = pctr.validate() / pctr.base_loss + pcvr.validate() / pcvr.base_loss
    assert joint.history["joint"]["best_validation_loss"] == pytest.approx(relative, rel=2e-3)
    steps = [alone.history[name]["steps"] for name in ("pctr", "pcvr")]
    assert joint.history["joint"]["steps"] == sum(steps)


def test_a_shared_trunk_learns_both_and_stays_one(data, shared) -> None:
    assert (
        shared.history["joint"]["best_validation_loss"] < 1.6
    )  # 2 is to know the base rates alone
    for name in SHARED_FIELDS:
        ours, theirs = (getattr(m.encoder.embedding, name) for m in (shared.pctr, shared.pcvr))
        assert ours is theirs
    layers = [model.encoder.blocks.layers for model in (shared.pctr, shared.pcvr)]
    assert layers[0][0] is layers[1][0]
    assert layers[0][-1] is not layers[1][-1]


def test_both_models_of_a_joint_training_are_kept_and_exported(data, shared, tmp_path) -> None:
    chosen = recipe(shared=True, epochs=6)
    made = completed(shared, data, chosen)
    assert made.metrics["test"]["pctr_auroc"] > 0.7
    assert made.metrics["test"]["pcvr_auroc"] > 0.65
    save(made, tmp_path / "checkpoint")
    again = load(tmp_path / "checkpoint")
    for name, model in made.models().items():
        for weight, value in model.state_dict().items():
            assert torch.equal(value, again.models()[name].state_dict()[weight]), weight
    export(tmp_path / "checkpoint", tmp_path / "repository")
    assert (tmp_path / "repository" / "pcvr").is_dir()
    # and the trunk is one again after the way over two files
    assert again.pctr.encoder.embedding.item is again.pcvr.encoder.embedding.item


def test_separate_tasks_on_a_shared_trunk_are_refused(data) -> None:
    with pytest.raises(ValueError, match="would train the trunk twice, expected joint"):
        train_models(data, recipe(shared=True))


def test_training_starts_from_a_checkpoint_that_fits(data, shared) -> None:
    start = completed(shared, data, recipe(shared=True, epochs=6))
    frozen = recipe(shared=True, epochs=1, learning_rate=1e-9)
    again = train_models(data, frozen, tasks=("joint",), start=start)
    was, now = (h["joint"]["best_validation_loss"] for h in (shared.history, again.history))
    assert now == pytest.approx(was, abs=1e-4)
    with pytest.raises(ConfigurationError, match="shared_trunk=True, expected False"):
        train_models(data, recipe(), start=start)

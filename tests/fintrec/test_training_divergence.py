"""A training that goes astray ends early, and says where and what is left."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fintrec.learning import base_rates
from fintrec.learning.divergence import LIMIT, PATIENCE, Watch
from fintrec.learning.fingerprint import made_of
from fintrec.learning.run_state import Run
from fintrec.learning.tasks import click_task, conversion_task
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.training import TrainingFailed, prior_of, train_models
from tests.fintrec.tiny import config, models, training_set


def recipe(**training: object) -> Recipe:
    settings = {"epochs": 8, "learning_rate": 1e-2, "batch_size": 8, "label_stride": 6, **training}
    return Recipe(name="test", model=config(dropout=0.0), training=TrainingConfig(**settings))


@pytest.fixture(scope="module")
def data():
    return training_set(14)


WHERE = r"; epoch \d, step \d+, learning rate \d+"


@pytest.mark.parametrize(
    ("rate", "task", "said"),
    [
        (1e3, "pctr", r"(loss|gradient norm) is (nan|inf), expected a finite number"),
        (1e3, "pcvr", r"(loss|gradient norm) is (nan|inf), expected a finite number"),
        (3.0, "pctr", rf"for {PATIENCE} steps above {LIMIT:g} times the 1\.9\d* of the base rates"),
    ],
)
def test_a_learning_rate_far_too_high_ends_the_training(data, rate, task, said) -> None:
    steps: list[int] = []
    with pytest.raises(TrainingFailed, match=rf"{task}: .*{said}{WHERE}"):
        train_models(
            data,
            recipe(learning_rate=rate),
            tasks=(task,),
            report=lambda told: steps.append(told.step),
        )
    assert steps[-1] < 2 * PATIENCE  # of 144 and 312


def test_a_number_that_is_none_in_the_data_ends_it_and_names_the_last_good_state(
    data, tmp_path
) -> None:
    """The page is planted when the standardisation has been fitted, as in a log that grows bad."""
    static = data.train.static.copy()
    bad = replace(data, train=replace(data.train, static=static))
    run = Run(tmp_path, made_of(bad, recipe()), save_steps=5)

    def plant(told) -> None:
        if told.step == 12:
            static[:] = np.nan

    with pytest.raises(TrainingFailed) as failed:
        train_models(bad, recipe(), tasks=("pcvr",), run=run, report=plant)
    assert str(failed.value).startswith(
        "pcvr: loss is nan, expected a finite number; epoch 1, step 13, learning rate 0.0"
    )
    path = tmp_path / "state-pcvr.pt"
    assert str(failed.value).endswith(f"the last good state, of step 10, is {path}")
    assert torch.load(path, weights_only=True)["at"]["step"] == 10


def test_data_without_a_number_from_the_start_says_so(data) -> None:
    static = np.full_like(data.train.static, np.nan)
    bad = replace(data, train=replace(data.train, static=static))
    with pytest.raises(TrainingFailed, match="pctr: loss is nan, .*epoch 1, step 1, learning rate"):
        train_models(bad, recipe(), tasks=("pctr",))


def test_one_bad_batch_is_forgiven_and_a_loss_that_stays_is_not() -> None:
    watch = Watch(base_loss=1.0)
    losses = [1.0] * 30 + [40.0] + [1.0] * 200
    assert all(watch.trouble_of(loss) is None for loss in losses)
    assert watch.is_calm
    bad = [watch.trouble_of(1.5 * LIMIT) is not None for _ in range(3 * PATIENCE)]
    assert PATIENCE < bad.index(True) < 2 * PATIENCE
    assert not watch.is_calm
    assert Watch(None).trouble_of(1e9) is None
    assert "loss is inf" in str(Watch(None).trouble_of(float("inf")))


def test_the_loss_of_the_base_rates_is_that_of_a_model_that_knows_nothing_else(data) -> None:
    """A slow twin: both objectives over all training examples, with heads that give their bias."""
    chosen, prior = recipe(), prior_of(data, recipe())
    pctr, pcvr = models()
    from fintrec.popularity import measure

    clicks = click_task(pctr, data, chosen, prior)
    conversions = conversion_task(pcvr, data, chosen.training)
    popularity = measure(data)
    for task, bias in (
        (clicks, base_rates.click_logits(popularity)),
        (conversions, base_rates.conversion_logits(popularity)),
    ):
        head = task.model.item_head
        with torch.no_grad():
            for weight in (head.output.weight, head.by_category.weight):
                weight.zero_()
            head.output.bias.copy_(bias)
            sums = sum(task.objective(task.batch(planned)).double() for planned in task.plan(1))
        assert task.base_loss == pytest.approx(float(sums[0, 0] / sums[0, 1]), rel=1e-4)

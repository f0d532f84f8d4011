"""The loop learns, keeps the best weights, obeys its budget and repeats itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from features.errors import ConfigurationError
from fintrec.checkpoint import load, save
from fintrec.evaluation import score
from fintrec.export import export
from fintrec.learning.loop import Progress, Task, TrainingFailed, fit
from fintrec.learning.preparation import prepare
from fintrec.models.config import ModelConfig, Recipe, TrainingConfig
from fintrec.popularity import measure
from fintrec.training import NoExamples, train, train_models
from tests.fintrec.tiny import config, models, training_set


def recipe(**training: object) -> Recipe:
    settings = {"epochs": 8, "learning_rate": 1e-2, "batch_size": 8, "label_stride": 6, **training}
    return Recipe(name="test", model=config(dropout=0.0), training=TrainingConfig(**settings))


@pytest.fixture(scope="module")
def data():
    return training_set(14)


@pytest.fixture(scope="module")
def trained(data):
    seen: list[Progress] = []
    return train(data, recipe(), report=seen.append), seen


def test_both_models_beat_the_base_rates_on_later_days(trained) -> None:
    checkpoint, _ = trained
    test = checkpoint.metrics["test"]
    assert test["pctr_recall_at_1"] > 0.3  # 1 of 7 by chance
    assert test["pctr_auroc"] > 0.75
    assert test["pcvr_auroc"] > 0.7
    assert test["pctr_next_item_log_loss"] < np.log(7)
    assert test["pctr_calibration_error"] < 0.15
    assert test["pages"] == 14 * 4


def test_progress_is_reported_for_both_models(trained) -> None:
    _, seen = trained
    for name in ("pctr", "pcvr"):
        own = [progress for progress in seen if progress.model == name]
        assert [p.step for p in own if p.validation is None] == list(
            range(1, len([p for p in own if p.validation is None]) + 1)
        )
        assert len([p for p in own if p.validation is not None]) == 8
        assert all(0 <= p.share < 1 for p in own)


def test_the_same_seed_gives_the_same_weights(data) -> None:
    short = recipe(epochs=1)
    one, two = train(data, short), train(data, short)
    other = train(data, recipe(epochs=1, seed=1))
    for name, value in one.pctr.state_dict().items():
        assert torch.equal(value, two.pctr.state_dict()[name]), name
    assert one.calibration == two.calibration
    assert not torch.equal(one.pcvr.item_head.output.weight, other.pcvr.item_head.output.weight)


def test_a_model_alone_is_the_same_as_beside_the_other(data) -> None:
    short = recipe(epochs=1)
    both, alone = train_models(data, short), train_models(data, short, tasks=("pcvr",))
    assert alone.pctr is None
    assert list(alone.history) == ["pcvr"]
    for name, value in both.pcvr.state_dict().items():
        assert torch.equal(value, alone.pcvr.state_dict()[name]), name
    with pytest.raises(ValueError, match="tasks"):
        train_models(data, short, tasks=("pcvr", "pctr"))


@pytest.mark.parametrize("task", ["pctr", "pcvr"])
def test_a_checkpoint_of_one_model_comes_back_and_is_not_served(task, data, tmp_path) -> None:
    made = train(data, recipe(epochs=1), tasks=(task,))
    other = "pcvr" if task == "pctr" else "pctr"
    assert f"{task}_log_loss" in made.metrics["test"]
    assert not any(name.startswith(other) for name in made.metrics["test"])
    save(made, tmp_path)
    again = load(tmp_path)
    assert list(again.models()) == [task]
    assert (again.calibration is None) == (task == "pcvr")
    with pytest.raises(ConfigurationError, match=f"holds {task}, serving needs"):
        export(tmp_path, tmp_path / "repository")


def test_sampled_pages_train_a_model_with_the_base_rates_of_all_pages(data) -> None:
    trained = train_models(data, recipe(epochs=6, page_rate=0.3), tasks=("pcvr",))
    few, all_pages = trained.history["pcvr"]["steps"], 6 * len(data.train) / 8
    assert few < 0.7 * all_pages
    scored = score(None, trained.pcvr, data, data.train, np.arange(len(data.train)))
    predicted = 1 / (1 + np.exp(-scored.pcvr_logits.astype(float)))
    assert predicted.mean() == pytest.approx(scored.converted.mean(), rel=0.15)


def test_training_without_a_single_conversion_says_so(data) -> None:
    nothing = replace(
        data.train,
        converted_indptr=np.zeros_like(data.train.converted_indptr),
        converted_items=data.train.converted_items[:0],
    )
    with pytest.raises(NoExamples, match="needs conversions"):
        train_models(replace(data, train=nothing), recipe(epochs=1), tasks=("pcvr",))
    unknown = replace(data.validation, observed_until_ms=0)
    with pytest.raises(NoExamples, match="needs known labels"):
        train_models(replace(data, validation=unknown), recipe(epochs=1), tasks=("pcvr",))


class Line(torch.nn.Module):
    """Loss = (weight - target)^2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, target: torch.Tensor) -> torch.Tensor:
        return torch.stack(((self.weight - target) ** 2, torch.tensor(1.0)))[None]


def line_task(losses: list[float], num_batches: int = 2) -> Task:
    model = Line()
    remaining = iter(losses)
    target = torch.tensor(1.0)
    return Task(
        "line",
        model,
        model,
        lambda _: [target] * num_batches,
        lambda planned: planned,
        lambda: next(remaining),
    )


def test_the_weights_with_the_lowest_validation_loss_are_kept() -> None:
    best = line_task([3.0, 1.0, 2.0])
    stopped = line_task([3.0, 1.0])
    settings = {"learning_rate": 0.1, "schedule": "constant"}
    found = fit(best, TrainingConfig(epochs=3, **settings))
    fit(stopped, TrainingConfig(epochs=2, **settings))
    assert (found["best_epoch"], found["epochs"], found["steps"]) == (2, 3, 6)
    assert torch.equal(best.model.weight, stopped.model.weight)


def test_a_time_budget_ends_the_training_and_still_validates() -> None:
    clock = iter(np.arange(0.0, 1000.0, 10.0))  # ten seconds pass at each look
    task = line_task([1.0] * 9, num_batches=100)
    found = fit(task, TrainingConfig(epochs=50), minutes=1.0, now=lambda: float(next(clock)))
    # looks at 0 (start) and after each step, at 10, ... 60 s: the sixth ends the minute
    assert found["steps"] == 6
    assert found["epochs"] == 1
    assert found["best_validation_loss"] == 1.0


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    task = line_task([1.0])
    bad = replace(task, plan=lambda _: [torch.tensor(torch.inf)])
    with pytest.raises(TrainingFailed, match="line: loss is inf"):
        fit(bad, TrainingConfig(epochs=1))


def test_standardisation_is_fitted_on_training_rows_and_biases_on_base_rates(data) -> None:
    pctr, pcvr = models()
    popularity = measure(data)
    prepare(pctr, pcvr, data, popularity, seed=0)
    expected = data.train.static.astype(np.float32)
    np.testing.assert_allclose(
        pctr.item_head.static_scale.mean.numpy(), expected.mean(0), atol=1e-5
    )
    assert pctr.encoder.embedding.dynamic_scale.mean.abs().sum() > 0
    assert torch.equal(
        pctr.encoder.embedding.dynamic_scale.std, pcvr.encoder.embedding.dynamic_scale.std
    )
    cvr = torch.sigmoid(pcvr.item_head.output.bias)
    np.testing.assert_allclose(cvr.detach().numpy(), popularity.cvr, rtol=1e-4)
    ctr = torch.exp(pctr.item_head.output.bias)
    np.testing.assert_allclose(ctr.detach().numpy(), popularity.ctr, rtol=1e-4)


def test_a_data_set_without_clicks_says_so(data) -> None:
    empty = replace(data.train, clicked=np.zeros_like(data.train.clicked))
    with pytest.raises(NoExamples, match="needs clicks"):
        train(replace(data, train=empty), recipe(epochs=1))


def test_a_short_context_trains() -> None:
    data = training_set(6)
    short = Recipe(
        name="short",
        model=ModelConfig(d_model=16, num_heads=2, window=1),
        training=TrainingConfig(epochs=1, batch_size=32),
    )
    assert train(data, short).metrics["training"]["pctr"]["steps"] > 0

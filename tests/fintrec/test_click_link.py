"""pCTR by each shown item (`click_link=sigmoid`): its examples, loss, base rates and calibration."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from features.encoding import encode_histories
from features.errors import ConfigurationError
from features.history import as_of
from fintrec.batches import grouped, impression_batch, impression_windows
from fintrec.calibration import Calibration, click_level, next_click_level
from fintrec.learning import base_rates
from fintrec.learning.tasks import click_task
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.objectives import ImpressionObjective, mean_loss
from fintrec.popularity import measure
from fintrec.training import NoExamples, completed, prior_of, train_models
from tests.fintrec.tiny import config, models, training_set


def recipe(**training: object) -> Recipe:
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 5e-3, "label_stride": 6, **training}
    model = config(dropout=0.0, click_link="sigmoid")
    return Recipe(name="each", model=model, training=TrainingConfig(**settings))


@pytest.fixture(scope="module")
def data():
    return training_set(8)


def test_every_page_that_shows_an_item_is_a_step_once(data) -> None:
    shown = data.train.shown.copy()
    shown[3] = -1
    decisions = replace(data.train, shown=shown)
    windows = impression_windows(data, decisions, 6)
    pages = [page for window in windows for page, _, _ in window.steps]
    assert sorted(pages) == [page for page in range(len(decisions)) if page != 3]


def test_the_loss_is_that_of_each_page_s_own_history_and_shown_items(data) -> None:
    pctr, _ = models(click_link="sigmoid")
    objective = ImpressionObjective(pctr).eval()
    windows = impression_windows(data, data.train, 6)
    (bucket, chosen), *_ = grouped(np.array([w.length for w in windows]), 5, None)
    batch = impression_batch(data, data.train, [windows[place] for place in chosen], bucket)
    own, number = 0.0, 0
    with torch.inference_mode():
        sums = objective(batch)
        for place in chosen:
            for page, _, _ in windows[place].steps:
                rows = as_of(data.logs[data.train.user[page]], data.train.end[page])
                arrays = encode_histories([rows]).arrays
                parts = (arrays.tokens_BTC, arrays.times_BT, arrays.dynamic_BTF)
                state = pctr.encoder.hidden(*map(torch.from_numpy, parts))
                step = [step for step, other in enumerate(_pages(windows, chosen)) if other == page]
                context, request = batch.context_LX[step], batch.request_LR[step]
                probability = torch.sigmoid(pctr.head(state, context, request))[0].numpy()
                for item, clicked in zip(
                    data.train.shown[page], data.train.clicked[page], strict=True
                ):
                    if item >= 0:
                        own -= np.log(probability[item] if clicked else 1 - probability[item])
                        number += 1
    assert float(sums[0, 1]) == number
    assert float(sums[0, 0]) == pytest.approx(own, rel=1e-4)


def _pages(windows, chosen) -> list[int]:
    return [page for place in chosen for page, _, _ in windows[place].steps]


def test_base_rates_start_it_and_are_its_unit(data) -> None:
    pctr, _ = models(click_link="sigmoid")
    task = click_task(pctr, data, recipe(), prior_of(data, recipe()))
    head = task.model.item_head
    with torch.no_grad():
        for weight in (head.output.weight, head.by_category.weight):
            weight.zero_()
        head.output.bias.copy_(base_rates.impression_logits(measure(data)))
        sums = sum(task.objective(task.batch(planned)).double() for planned in task.plan(1))
    assert task.base_loss == pytest.approx(float(mean_loss(sums)), rel=1e-4)


def test_it_learns_who_clicks_at_all() -> None:
    """Half of the users click everything, half nothing: no softmax over items can say so."""
    data, rates = training_set(10), {}
    middle = np.median(data.train.static[:, 0])
    for link in ("softmax", "sigmoid"):
        parts = {}
        for period in ("train", "validation", "test"):
            decisions = getattr(data, period)
            keen = decisions.static[:, :1] > middle
            parts[period] = replace(decisions, clicked=keen & (decisions.shown >= 0))
        told, chosen = replace(data, **parts), recipe()
        chosen = replace(chosen, model=replace(chosen.model, click_link=link))
        checkpoint = completed(train_models(told, chosen, ("pctr",)), told, chosen)
        assert checkpoint.calibration.link == link
        rates[link] = checkpoint.metrics["test"]["pctr_auroc"]
    assert rates["softmax"] < 0.7
    assert rates["sigmoid"] > 0.9


def test_weights_of_another_link_are_refused(data) -> None:
    short = recipe(epochs=1)
    start = completed(train_models(data, short, ("pctr",)), data, short)
    other = replace(short, model=replace(short.model, click_link="softmax"))
    with pytest.raises(ConfigurationError, match="click_link=sigmoid, expected softmax"):
        train_models(data, other, ("pctr",), start=start)


def test_without_clicks_it_says_so(data) -> None:
    none = replace(data, train=replace(data.train, clicked=data.train.clicked & False))
    with pytest.raises(NoExamples, match="pCTR needs clicks: training has 0 pages with one"):
        train_models(none, recipe(), ("pctr",))


def test_level_is_the_log_of_an_items_own_sigmoid() -> None:
    logits = np.array([[0.0, -30.0, 800.0]], np.float32)
    level = click_level(logits, "sigmoid")
    np.testing.assert_allclose(level, [[np.log(0.5), -30.0, 0.0]], atol=1e-12)
    shares = np.log([[0.5, 0.25, 0.25]])
    both = np.exp(level + shares)
    np.testing.assert_allclose(
        np.exp(next_click_level(logits, shares, "sigmoid")), both / both.sum(), rtol=1e-9
    )
    same = next_click_level(logits, shares, "softmax")
    np.testing.assert_array_equal(same, click_level(logits + shares))


def test_a_calibration_keeps_its_link_and_refuses_another() -> None:
    own = Calibration("x", a=0.8, b=-0.1, link="sigmoid")
    assert Calibration.from_dict(own.to_record()) == own
    assert "link" not in Calibration("x").to_dict()
    logits = np.array([[0.3, -2.0]])
    z = np.log(1 / (1 + np.exp(-logits)))
    np.testing.assert_allclose(own.apply(logits), 1 / (1 + np.exp(-(0.8 * z - 0.1))), atol=1e-8)
    with pytest.raises(ValueError, match="link 'probit', expected softmax or sigmoid"):
        Calibration("x", link="probit")

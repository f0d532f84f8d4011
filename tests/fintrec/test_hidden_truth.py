"""Probabilities against the true ones of a simulated log."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fintrec import datasets, logs
from fintrec.bank import truth
from fintrec.calibration import Calibration, sigmoid
from fintrec.checkpoint import Checkpoint, save
from fintrec.experiments.hidden_truth import (
    Truth,
    compared,
    judge_checkpoint,
    judge_clicks,
    judge_conversions,
)
from fintrec.experiments.hidden_truth_report import main, put
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.popularity import measure
from tests.fintrec.tiny import config


@pytest.fixture(scope="module")
def data(bank_log: Path) -> datasets.TrainingSet:
    return datasets.build_training_set(bank_log, datasets.demo())


@pytest.fixture(scope="module")
def known(bank_log: Path, data: datasets.TrainingSet) -> Truth:
    return Truth(bank_log, data)


def pages_of(data: datasets.TrainingSet) -> np.ndarray:
    return np.arange(len(data.test), dtype=np.int64)[::2]


def test_predictions_that_are_the_truth_reach_the_floor_and_a_constant_explains_nothing() -> None:
    rng = np.random.default_rng(0)
    true = rng.beta(1, 20, 5000)
    label = rng.random(5000) < true
    perfect = compared(true, true, label)
    assert perfect["mean_absolute_error"] == perfect["bias"] == 0
    assert perfect["expected_log_loss"] == perfect["entropy"]
    assert (perfect["explained"], perfect["slope"]) == pytest.approx((1, 1), abs=1e-4)
    assert perfect["log_loss"] == pytest.approx(perfect["entropy"], rel=0.1)
    constant = compared(np.full(5000, true.mean()), true, label)
    assert constant["explained"] == pytest.approx(0, abs=1e-6)
    assert constant["mean_absolute_error"] == constant["mean_absolute_error_of_constant"]
    assert constant["observed"] == pytest.approx(label.mean(), abs=1e-6)


def test_overconfidence_and_bias_are_seen_without_any_label() -> None:
    logits = np.random.default_rng(0).normal(-3, 1, 4000)
    found = compared(sigmoid(2 * logits + 3 + 0.5), sigmoid(logits), None)
    assert found["slope"] == pytest.approx(0.5, abs=1e-3)
    assert found["intercept"] == pytest.approx(-1.75, abs=1e-2)
    assert "observed" not in found
    assert found["bias"] > 0
    assert found["explained"] < 0.9
    deciles = found["by_prediction"]
    assert deciles[-1]["bias"] > 0.05
    assert deciles[0]["bias"] < 0
    assert sum(one["examples"] for one in deciles) == 4000
    assert compared(np.zeros(0), np.zeros(0), None) == {"examples": 0}


def test_impressions_of_a_training_set_find_their_truth(data, known) -> None:
    decisions = data.test
    page, slot = np.nonzero(decisions.shown >= 0)
    shown = known.exposures(decisions, page, slot)
    np.testing.assert_array_equal(shown.clicked, decisions.clicked[page, slot])
    np.testing.assert_array_equal(shown.time_ms, decisions.time_ms[page])
    assert 0 < shown.click.min() <= shown.click.max() < 1
    later = replace(decisions, time_ms=decisions.time_ms + 1)
    with pytest.raises(ValueError, match="impressions are not in the truth"):
        known.exposures(later, page, slot)


def test_true_click_probabilities_are_perfect_and_shuffled_ones_are_not(data, known) -> None:
    decisions, pages = data.test, pages_of(data)
    row, slot = np.nonzero(decisions.shown[pages] >= 0)
    shown = known.exposures(decisions, pages[row], slot)
    predicted = np.full((len(pages), len(data.items)), 0.5)
    predicted[row, decisions.shown[pages[row], slot]] = shown.click
    found = judge_clicks(known, decisions, pages, predicted)
    assert found["mean_absolute_error"] == 0
    assert found["explained"] == pytest.approx(1, abs=1e-4)
    assert found["log_loss"] == found["log_loss_of_truth"]
    rng = np.random.default_rng(0)
    predicted[row, decisions.shown[pages[row], slot]] = rng.permutation(shown.click)
    assert judge_clicks(known, decisions, pages, predicted)["explained"] < 0


def test_conversions_are_judged_by_the_recorded_truth_and_by_foresight(
    bank_log: Path, data, known
) -> None:
    pages = pages_of(data)
    shape = (len(pages), len(data.items))
    found = judge_conversions(known, data, data.test, pages, np.full(shape, 0.004))
    again = judge_conversions(known, data, data.test, pages, np.full(shape, 0.5))
    for name in ("shown_caused", "shown_any_cause", "all_any_cause"):
        assert found[name]["mean_true"] == again[name]["mean_true"]
        assert found[name]["expected_log_loss"] < again[name]["expected_log_loss"]
    assert found["all_any_cause"]["examples"] == int(
        datasets.label_known(data, data.test)[pages].sum()
    )
    assert found["shown_caused"]["examples"] == int((data.test.shown[pages] >= 0).sum())
    # With the catalogue's own windows the recorded probabilities are the truth themselves.
    whole = datasets.build_training_set(bank_log, replace(datasets.demo(), label_days=None))
    every = np.arange(len(whole.test), dtype=np.int64)
    shape = (len(every), len(whole.items))
    mine = judge_conversions(Truth(bank_log, whole), whole, whole.test, every, np.zeros(shape))
    table = truth.read_days(bank_log, truth.IMPRESSIONS)
    click, if_clicked, if_not, user, time_ms = (
        table[name].to_numpy()
        for name in (
            "click_probability",
            "conversion_probability_if_clicked",
            "conversion_probability_if_not",
            "user_id",
            "event_time_ms",
        )
    )
    judged = set(
        zip(
            np.array(whole.users)[whole.test.user].tolist(),
            whole.test.time_ms.tolist(),
            strict=True,
        )
    )
    kept = np.array([pair in judged for pair in zip(user, time_ms, strict=True)])
    caused = (click * if_clicked + (1 - click) * if_not)[kept]
    assert mine["shown_caused"]["examples"] == len(caused)
    assert mine["shown_caused"]["mean_true"] == pytest.approx(caused.mean(), abs=2e-6)


@pytest.fixture(scope="module")
def checkpoint(data) -> Checkpoint:
    recipe = Recipe(name="small", model=config(), training=TrainingConfig())
    return Checkpoint(
        recipe,
        data.vocabulary,
        data.content_types,
        Pctr(data.vocabulary, recipe.model).eval(),
        Pcvr(data.vocabulary, recipe.model).eval(),
        Calibration("by-hand", 0.01, -3.0),
        measure(data),
        {},
    )


def test_a_checkpoint_is_judged_and_the_document_told(
    bank_log: Path, data, checkpoint, tmp_path: Path
) -> None:
    found = judge_checkpoint(bank_log, checkpoint, data, pages=50)
    assert found["pages"] == 50
    assert found["clicks"]["explained"] == pytest.approx(0, abs=0.3)  # nearly a constant
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results:hidden-truth -->\nold\n<!-- /results:hidden-truth -->\n")
    save(checkpoint, tmp_path / "checkpoint")
    arguments = [str(bank_log), str(tmp_path / "checkpoint"), "--pages", "50"]
    out = tmp_path / "out.json"
    ran = CliRunner().invoke(
        main, [*arguments, "--out", str(out), "--markdown", str(page)], catch_exceptions=False
    )
    assert ran.exit_code == 0
    result = json.loads(out.read_text())
    assert result["clicks"] == found["clicks"]
    assert f"{found['clicks']['mean_true']:.4f}" in page.read_text()
    assert "old" not in page.read_text()
    assert page.read_text().startswith("before\n<!-- results:hidden-truth -->\n")
    with pytest.raises(ValueError, match="expected the marks"):
        put(page, "another", "")


def test_a_log_without_its_truth_is_refused(bank_log: Path, data, tmp_path: Path) -> None:
    alone = tmp_path / "log"
    shutil.copytree(bank_log, alone)
    with pytest.raises(logs.LogError, match="expected a log of `fintrec simulate`"):
        Truth(alone, data)

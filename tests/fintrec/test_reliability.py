"""The reliability table, its intervals, its picture, and the report beside a checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from features.spec import DAY_MS
from fintrec import calibration_report
from fintrec.calibration import Calibration, sigmoid
from fintrec.calibration_choice import Impressions
from fintrec.checkpoint import Checkpoint
from fintrec.evaluation import Scored
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.popularity import measure
from fintrec.reliability import as_rows, draw, reliability, wilson
from tests.fintrec.tiny import config, models, training_set


@pytest.mark.parametrize(("positives", "examples"), [(0, 7), (3, 11), (7, 7), (40, 9000)])
def test_wilson_equals_another_library(positives: int, examples: int) -> None:
    found = binomtest(positives, examples).proportion_ci(0.95, method="wilson")
    assert wilson(positives, examples) == pytest.approx((found.low, found.high), abs=1e-6)
    with pytest.raises(ValueError, match="N > 0"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="expected 0 <= positives <= N"):
        wilson(8, 7)


def test_intervals_of_honest_probabilities_hold_the_prediction_about_19_times_of_20() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(40):
        probability = rng.beta(1, 30, 4000)
        table = reliability(probability, rng.random(4000) < probability)
        inside += [one.low <= one.predicted <= one.high for one in table]
    assert 0.90 < np.mean(inside) < 0.99


def test_the_table_counts_everything_once() -> None:
    rng = np.random.default_rng(0)
    probability, label = rng.beta(1, 9, 500), rng.random(500) < 0.1
    for bins in ("mass", "width", "positives"):
        table = reliability(probability, label, 8, bins)
        assert sum(one.examples for one in table) == 500
        assert sum(one.positives for one in table) == label.sum()
        assert sum(one.predicted * one.examples for one in table) == pytest.approx(
            probability.sum()
        )
        for one in table:
            assert one.lowest <= one.predicted <= one.highest
            assert one.low <= one.observed <= one.high
    assert json.loads(json.dumps(as_rows(table)))[0]["examples"] == table[0].examples
    with pytest.raises(ValueError, match="N > 0"):
        reliability([], [])


def test_a_picture_is_made_also_where_bins_have_no_positive(tmp_path: Path) -> None:
    probability = np.linspace(0.001, 0.5, 400)
    label = probability > 0.4
    tables = {
        "some": reliability(probability, label),
        "none": reliability(probability, np.zeros(400, bool)),
    }
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, "pCTR: test, n = 400", tables, "a click")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_report_tells_before_from_after() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(-5, 1, 20_000)
    clicked = rng.random(20_000) < sigmoid(0.8 * level + 1.5)
    shown = Impressions(level, np.zeros(20_000, int), clicked, np.arange(20_000))
    found = calibration_report.of_clicks(shown, Calibration("true", 0.8, 1.5))
    assert found["after"]["slope"] == pytest.approx(1, abs=0.06)
    assert found["after"]["predicted_over_observed"] == pytest.approx(1, abs=0.05)
    assert found["before"]["predicted_over_observed"] < 0.5
    assert found["after"]["calibration_error"] < found["before"]["calibration_error"]
    assert found["after"]["log_loss_lift"] > 0 > found["before"]["log_loss_lift"]


def scored_truth(num_pages: int, known_share: float) -> tuple[Scored, np.ndarray]:
    """Logits that are the truth; labels that are not known are False, as a training set has them."""
    rng = np.random.default_rng(3)
    logits = rng.normal(-3, 1, (num_pages, 7)).astype(np.float32)
    happened = rng.random(logits.shape) < sigmoid(logits.astype(float))
    known = rng.random(logits.shape) < known_share
    return Scored(np.arange(num_pages), logits, logits, happened & known, known), happened


def test_conversions_are_judged_on_complete_labels_by_type_and_by_window() -> None:
    data = replace(training_set(2), window_ms=np.array([DAY_MS] * 3 + [30 * DAY_MS] * 4, np.int64))
    scored, _ = scored_truth(3000, 0.4)
    shown = np.random.default_rng(0).permuted(np.tile(np.arange(7), (3000, 1)), axis=1)[:, :5]
    shown[:, 3:] = -1
    found = calibration_report.of_conversions(scored, data, shown)
    honest, naive = found["complete_labels"], found["incomplete_as_negative"]
    assert honest["predicted_over_observed"] == pytest.approx(1, abs=0.06)
    assert naive["predicted_over_observed"] == pytest.approx(1 / 0.4, rel=0.1)
    assert set(found["by_content_type"]) == {"marketing", "servicing"}
    assert set(found["by_window_days"]) == {"1", "30"}
    for groups in (found["by_content_type"], found["by_window_days"]):
        assert sum(group["examples"] for group in groups.values()) == honest["examples"]
    of_shown = found["shown_items"]
    assert of_shown["examples"] == np.take_along_axis(scored.known, shown[:, :3], axis=1).sum()
    assert of_shown["positives"] == np.take_along_axis(scored.converted, shown[:, :3], axis=1).sum()
    assert found["labels"]["complete"] + found["labels"]["incomplete"] == 3000 * 7


def test_a_report_without_any_complete_label_is_still_written() -> None:
    scored, _ = scored_truth(20, 0.0)
    found = calibration_report.of_conversions(scored, training_set(2), np.full((20, 5), -1))
    assert found["complete_labels"] == found["shown_items"] == {"examples": 0}
    assert found["incomplete_as_negative"]["positives"] == 0
    assert found["incomplete_as_negative"]["slope"] is None


def test_the_report_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    data = training_set(14)
    pctr, pcvr = models()
    recipe = Recipe(name="small", model=config(), training=TrainingConfig(evaluation_rows=40))
    calibration = Calibration("by hand", 0.9, 1.0, offsets=(0, 5, -5, 0, 0, 0, 0), limit=17.0)
    checkpoint = Checkpoint(
        recipe, data.vocabulary, data.content_types, pctr, pcvr, calibration, measure(data), {}
    )
    report = calibration_report.write(tmp_path, checkpoint, data, "the test's bank")
    assert json.loads((tmp_path / "reliability.json").read_text()) == report
    assert report["pages"] == 40
    assert report["pctr"]["after"]["examples"] == 40 * 3
    assert Calibration.from_dict(report["calibration"]) == calibration
    names = {path.name for path in tmp_path.glob("*.png")}
    assert {"reliability_pctr.png", "reliability_pcvr.png"} <= names

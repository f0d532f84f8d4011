"""Metrics against loops that anyone can check."""

import math
from itertools import pairwise

import numpy as np
import pytest

from fintrec.metrics import (
    auroc,
    binned,
    brier,
    calibration_error,
    calibration_line,
    log_loss,
    log_loss_lift,
    recall_at,
)


def slow_auroc(score: list[float], label: list[bool]) -> float:
    positives = [s for s, y in zip(score, label, strict=True) if y]
    negatives = [s for s, y in zip(score, label, strict=True) if not y]
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_log_loss_equal_their_slow_twins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(1, 9, 60) / 10  # many ties
    label = rng.random(60) < 0.3
    assert auroc(score, label) == pytest.approx(slow_auroc(score.tolist(), label.tolist()))
    expected = [-math.log(p if y else 1 - p) for p, y in zip(score, label, strict=True)]
    assert log_loss(score, label) == pytest.approx(sum(expected) / 60)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_recall_equals_its_slow_twin(k: int) -> None:
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 5, (40, 7)).astype(float)
    target = rng.integers(0, 7, 40)
    hits = [
        int(t) in sorted(range(7), key=lambda i: (-row[i], i))[:k]
        for row, t in zip(scores, target, strict=True)
    ]
    assert recall_at(scores, target, k) == pytest.approx(sum(hits) / 40)


def test_calibration_error_of_honest_and_dishonest_probabilities() -> None:
    label = np.array([False] * 9 + [True])
    assert calibration_error(np.full(10, 0.1), label, 1) == pytest.approx(0)
    assert calibration_error(np.full(10, 0.6), label, 1) == pytest.approx(0.5)
    # two bins: predicted 0.2 and 0.8, observed 0 and 0.2
    probability = np.array([0.2] * 5 + [0.8] * 5)
    assert calibration_error(probability, label, 2) == pytest.approx((0.2 + 0.6) / 2)


def test_calibration_error_of_equal_width_bins_weighs_them_by_their_size() -> None:
    probability = np.array([0.05] * 8 + [0.95] * 2)
    label = np.array([False] * 8 + [True, False])
    # bins 0..0.1 and 0.9..1: gaps 0.05 of eight, 0.45 of two
    found = calibration_error(probability, label, 10, bins="width")
    assert found == pytest.approx((8 * 0.05 + 2 * 0.45) / 10)
    # of equal mass the first bin is the first half: gaps 0.05, and |0.41 - 0.2|
    assert calibration_error(probability, label, 2) == pytest.approx((0.05 + 0.21) / 2)


@pytest.mark.parametrize("bins", ["mass", "width", "positives"])
def test_every_example_is_in_one_bin_and_bins_ascend(bins: str) -> None:
    probability = np.random.default_rng(0).beta(0.5, 5, 1000).round(2)
    probability[:3] = 0, 1, 1
    parts = binned(probability, 10, bins)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1000))
    for lower, upper in pairwise(parts):
        assert probability[lower].max() <= probability[upper].min()
    if bins == "width":
        assert {int(min(p * 10, 9)) for p in probability} == {
            int(min(probability[part[0]] * 10, 9)) for part in parts
        }
    if bins == "positives":
        sums = [probability[part].sum() for part in parts]
        assert max(sums) - min(sums) < 2.1
        assert [p.tolist() for p in binned(np.zeros(3), 10, bins)] == [[0, 1, 2]]


def test_brier_and_lift_of_known_values() -> None:
    assert brier([0.1, 0.8], [False, True]) == pytest.approx((0.01 + 0.04) / 2)
    label = np.array([True, False, False, False])
    assert log_loss_lift(np.full(4, 0.25), label) == pytest.approx(0)
    assert log_loss_lift(np.array([0.9, 0.05, 0.05, 0.05]), label) > 0.8
    assert log_loss_lift(np.full(4, 0.9), label) < 0
    assert math.isnan(log_loss_lift([0.1, 0.2], [False, False]))


def test_calibration_line_of_honest_overconfident_and_biased_probabilities() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(-2, 1.5, 40_000)
    label = rng.random(40_000) < 1 / (1 + np.exp(-honest))

    def line(logit: np.ndarray) -> tuple[float, float]:
        return calibration_line(1 / (1 + np.exp(-logit)), label)

    assert line(honest) == pytest.approx((1, 0), abs=0.06)
    assert line(2 * honest) == pytest.approx((0.5, 0), abs=0.06)  # overconfident
    assert line(honest - 1) == pytest.approx((1, 1), abs=0.06)  # too low
    assert all(math.isnan(value) for value in calibration_line([0.1, 0.2], [True, True]))


def test_certainty_that_is_wrong_costs_a_finite_loss() -> None:
    assert math.isfinite(log_loss([0.0, 1.0], [True, False]))


def test_one_class_alone_has_no_auroc() -> None:
    assert math.isnan(auroc([0.1, 0.2], [True, True]))


def test_shapes_must_fit() -> None:
    for function in (auroc, log_loss, calibration_error, brier, calibration_line, log_loss_lift):
        with pytest.raises(ValueError, match="shapes"):
            function([0.1, 0.2], [True])
        with pytest.raises(ValueError, match="N > 0"):
            function([], [])
    with pytest.raises(ValueError, match="targets"):
        recall_at([[0.1, 0.2]], [0, 1], 1)


def test_a_prediction_that_is_no_number_is_refused_not_counted() -> None:
    for function in (auroc, log_loss, calibration_error, brier, calibration_line, log_loss_lift):
        with pytest.raises(ValueError, match="1 of 3 predictions are NaN"):
            function([0.1, math.nan, 0.3], [False, True, False])
    # Nothing is greater than NaN, so it would rank first.
    with pytest.raises(ValueError, match="1 of 4 predictions are NaN"):
        recall_at([[0.1, 0.2], [math.nan, 0.2]], [0, 0], 1)

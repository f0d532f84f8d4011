"""Metrics against loops that anyone can check."""

import math

import numpy as np
import pytest

from fintrec.metrics import auroc, calibration_error, log_loss, recall_at


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


def test_certainty_that_is_wrong_costs_a_finite_loss() -> None:
    assert math.isfinite(log_loss([0.0, 1.0], [True, False]))


def test_one_class_alone_has_no_auroc() -> None:
    assert math.isnan(auroc([0.1, 0.2], [True, True]))


def test_shapes_must_fit() -> None:
    for function in (auroc, log_loss, calibration_error):
        with pytest.raises(ValueError, match="shapes"):
            function([0.1, 0.2], [True])
        with pytest.raises(ValueError, match="N > 0"):
            function([], [])
    with pytest.raises(ValueError, match="targets"):
        recall_at([[0.1, 0.2]], [0, 1], 1)

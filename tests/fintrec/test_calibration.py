"""Logits to probabilities."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fintrec.calibration import (
    MIN_SLOPE,
    Calibration,
    click_level,
    conversion_probabilities,
    fit,
    probabilities,
)


def test_level_is_the_log_softmax() -> None:
    logits = np.array([[0.0, 1.0, -2.0], [800.0, 0.0, -800.0]], np.float32)
    level = click_level(logits)
    shares = [np.exp(v) for v in (0.0, 1.0, -2.0)]
    np.testing.assert_allclose(level[0], [np.log(s / sum(shares)) for s in shares])
    np.testing.assert_allclose(level[1], [0.0, -800.0, -1600.0])
    np.testing.assert_allclose(click_level(logits + 5), level, atol=1e-4)


@pytest.mark.parametrize(("a", "b"), [(1.0, -2.0), (0.4, 0.5), (2.5, 1.0)])
def test_fit_equals_unpenalised_logistic_regression(a: float, b: float) -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(-4, 1.5, 5000)
    clicked = rng.random(5000) < 1 / (1 + np.exp(-(a * level + b)))
    found = fit(level, clicked)
    positives = clicked.sum()
    target = np.where(clicked, (positives + 1) / (positives + 2), 1 / (5002 - positives))
    twin = LogisticRegression(C=1e10, tol=1e-12).fit(
        np.concatenate((level, level))[:, None],
        np.repeat([True, False], 5000),
        sample_weight=np.concatenate((target, 1 - target)),
    )
    assert found.a == pytest.approx(twin.coef_[0, 0], abs=1e-3)
    assert found.b == pytest.approx(twin.intercept_[0], abs=3e-3)


def test_slope_stays_positive_when_the_model_ranks_backwards() -> None:
    rng = np.random.default_rng(1)
    level = rng.normal(-3, 1, 2000)
    clicked = rng.random(2000) < 1 / (1 + np.exp(level + 3))
    found = fit(level, clicked)
    assert found.a == MIN_SLOPE
    mean = float(found.apply(np.tile(level[:, None], (1, 1)) * 0).mean())
    assert 0 < mean < 1
    # with a flat slope the level is the base rate
    predicted = 1 / (1 + np.exp(-(found.a * level + found.b)))
    assert predicted.mean() == pytest.approx(clicked.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("level", "clicked"),
    [
        ([], []),
        ([-2.0], [False]),
        ([-2.0, -2.0, -2.0], [False, False, True]),
        ([-3.0, -1.0], [True, True]),
        ([-5.0, -1.0], [False, True]),
    ],
)
def test_poor_samples_still_give_finite_positive_slopes(level: list, clicked: list) -> None:
    found = fit(np.array(level, float), np.array(clicked, bool))
    assert found.a > 0
    assert np.isfinite([found.a, found.b]).all()


def test_calibrated_probabilities_are_monotone_rounded_and_survive_json() -> None:
    calibration = Calibration("platt-x", 0.123456789, -1.987654321)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    logits = np.random.default_rng(2).normal(size=(5, 9)).astype(np.float32)
    pctr, pcvr = probabilities(again, logits, logits)
    assert pctr.dtype == pcvr.dtype == np.float64
    np.testing.assert_array_equal(pctr, np.round(pctr, 8))
    np.testing.assert_array_equal(np.argsort(pctr, axis=1), np.argsort(logits, axis=1))
    np.testing.assert_allclose(pcvr, 1 / (1 + np.exp(-logits.astype(float))), atol=1e-8)
    np.testing.assert_array_equal(probabilities(again, logits[2:3], logits[2:3])[0], pctr[2:3])


def test_extreme_logits_do_not_overflow() -> None:
    assert conversion_probabilities(np.array([[-1e4, 0.0, 1e4]])).tolist() == [[0.0, 0.5, 1.0]]


def test_a_calibration_that_turns_the_order_is_refused() -> None:
    for a, b in ((0.0, 1.0), (-1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="a > 0"):
            Calibration("x", a, b)
    with pytest.raises(ValueError, match="shape"):
        fit(np.zeros(3), np.zeros(2, bool))

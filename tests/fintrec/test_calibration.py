"""Logits to probabilities."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fintrec.calibration import (
    MIN_SLOPE,
    Calibration,
    Knots,
    click_level,
    conversion_probabilities,
    probabilities,
)
from fintrec.calibration_fit import fit


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
    assert calibration.to_dict() == {"version": "platt-x", "a": 0.123456789, "b": -1.987654321}
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
    for broken in ({"c": -0.1}, {"offsets": (1,), "slopes": (0,)}, {"offsets": (), "slopes": (1,)}):
        with pytest.raises(ValueError, match="expected"):
            Calibration("x", **broken)
    for level, logit in (((), ()), ((1, 1), (0, 0)), ((1, 2), (1, 0)), ((1, 2), (1,))):
        with pytest.raises(ValueError, match="expected"):
            Knots(level, logit)


counted = st.integers(-32_000, 32_000)
NUM_ITEMS = 3


@st.composite
def maps(draw: st.DrawFn) -> Calibration:
    """Any map that may be written down."""
    knots = None
    if draw(st.booleans()):
        level = draw(st.sets(counted, min_size=1, max_size=12))
        logit = draw(st.lists(counted, min_size=len(level), max_size=len(level)))
        knots = Knots(tuple(sorted(level)), tuple(sorted(logit)))
    offsets = draw(st.just(()) | st.tuples(*[counted] * NUM_ITEMS))
    slopes = draw(st.just(()) | st.tuples(*[st.integers(1, 32_000)] * NUM_ITEMS)) if offsets else ()
    return Calibration(
        "any",
        draw(st.floats(MIN_SLOPE, 1e3)),
        draw(st.floats(-1e3, 1e3)),
        draw(st.floats(0, 1e3)),
        knots,
        offsets,
        slopes,
        17.0,
        {"reason": "drawn"},
    )


@given(maps(), st.lists(st.floats(-1e4, 0.0), min_size=2, max_size=30))
def test_every_map_is_monotone_in_the_level_for_each_item_and_inside_0_and_1(made, levels):
    level = np.sort(np.array(levels))
    found = made.probability(np.tile(level[:, None], (1, NUM_ITEMS)))
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert (found < 1).all()
    assert (np.diff(found, axis=0) >= -1.1e-8).all()  # the last decimal may fall either way


@given(maps())
def test_a_map_survives_the_manifest_and_the_audit_record(made):
    assert Calibration.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    recorded = json.loads(json.dumps(made.to_record()))
    assert "choice" not in recorded
    logits = np.random.default_rng(0).normal(size=(4, NUM_ITEMS)).astype(np.float32) * 9
    again = Calibration.from_dict(recorded).apply(logits)
    assert again.tobytes() == made.apply(logits).tobytes()
    assert again[2:3].tobytes() == made.apply(logits[2:3]).tobytes()


def slow_map(made: Calibration, level: float, item: int) -> float:
    """The module's formula, a number at a time."""
    value = level
    if made.knots:
        points = [
            (x / 1000, y / 1000) for x, y in zip(made.knots.level, made.knots.logit, strict=True)
        ]
        if level <= points[0][0]:
            value = points[0][1] + MIN_SLOPE * (level - points[0][0])
        elif level >= points[-1][0]:
            value = points[-1][1] + MIN_SLOPE * (level - points[-1][0])
        for (x, y), (x2, y2) in pairwise(points):
            if x <= level <= x2:
                value = y + (y2 - y) * (level - x) / (x2 - x)
    value = made.a * value + made.b - made.c * math.log(1 - math.exp(min(level, -1e-12)))
    if made.slopes:
        value *= made.slopes[item] / 1000
    if made.offsets:
        value += made.offsets[item] / 1000
    value = min(max(value, -17.0), 17.0)
    return 1 / (1 + math.exp(-value))


@given(maps(), st.floats(-40, -1e-3), st.integers(0, NUM_ITEMS - 1))
def test_a_map_is_its_formula(made, level, item):
    found = made.probability(np.array([level]), np.array([item]))[0]
    assert found == pytest.approx(slow_map(made, level, item), rel=1e-6, abs=2e-8)


def test_a_map_of_other_items_is_refused_not_broadcast() -> None:
    one = Calibration("x", offsets=(5,))
    with pytest.raises(ValueError, match="2 items, the calibration x has 1"):
        one.apply(np.zeros((1, 2), np.float32))
    assert one.apply(np.zeros((3, 1), np.float32)).shape == (3, 1)


def test_two_hundred_items_of_their_own_add_little_to_an_audit_record() -> None:
    offsets, slopes = tuple(range(-100, 100)), tuple(range(900, 1100))
    plain = Calibration("beta-by-item-0123456789ab", 0.9, 1.2, 0.3, limit=17.0)
    size = len(json.dumps(replace(plain, offsets=offsets).to_record()))
    assert size - len(json.dumps(plain.to_record())) < 560
    assert len(json.dumps(replace(plain, offsets=offsets, slopes=slopes).to_record())) < 1250

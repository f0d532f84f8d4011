"""Logistic regression with few inputs, bounds and a stated pull: what calibration is made of.

Shapes: P inputs, N examples, K items
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

WEAK: Final = 1e-6  # a pull that only keeps the system solvable where nothing varies
_STEPS: Final = 100


def sigmoid(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


def logit(probability: npt.ArrayLike) -> FloatArray:
    """log(p / (1 - p))."""
    inside = np.asarray(probability, np.float64)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def regression(
    inputs_PN: FloatArray,
    target_N: FloatArray,
    start_P: Sequence[float],
    pull_P: Sequence[float],
    lowest_P: Sequence[float | None],
) -> FloatArray:
    """Weights of the lowest log loss, each at or above its bound; targets may lie within 0 and 1.

    `pull` is the strength of a quadratic pull to `start`: 1 / variance of a Gaussian prior. The
    loss is convex, so that the optimum under bounds has some weights on their bound and the others
    free; every such choice is tried.
    """
    start, pull = np.array(start_P, np.float64), np.array(pull_P, np.float64)
    bounded = [place for place, low in enumerate(lowest_P) if low is not None]
    best: tuple[float, FloatArray] | None = None
    for on_bound in product((False, True), repeat=len(bounded)):
        weights, free = start.copy(), np.ones(len(start), bool)
        for place, fixed in zip(bounded, on_bound, strict=True):
            if fixed:
                weights[place], free[place] = lowest_P[place], False
        loss = _descend(weights, free, inputs_PN, target_N, start, pull)
        inside = all(weights[place] >= (lowest_P[place] or 0.0) for place in bounded)
        if inside and (best is None or loss < best[0]):
            best = loss, weights
        if best is not None and not any(on_bound):
            break
    assert best is not None
    return best[1]


def _descend(
    weights: FloatArray,
    free: npt.NDArray[np.bool_],
    inputs: FloatArray,
    target: FloatArray,
    start: FloatArray,
    pull: FloatArray,
) -> float:
    """Newton steps on the free weights, in place; returns the loss."""
    block: Any = np.ix_(free, free)
    loss = _loss(weights, inputs, target, start, pull)
    for _ in range(_STEPS):
        guess = sigmoid(weights @ inputs)
        gradient = inputs @ (guess - target) + pull * (weights - start)
        curvature = (inputs * (guess * (1 - guess))) @ inputs.T + np.diag(pull)
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(curvature[block], gradient[free])
        size = 1.0
        while size > 1e-10:
            tried = weights - size * step
            tried_loss = _loss(tried, inputs, target, start, pull)
            if tried_loss <= loss:
                break
            size /= 2
        if size <= 1e-10 or loss - tried_loss < 1e-13 * (1 + abs(loss)):
            break
        weights[:], loss = tried, tried_loss
    return loss


def _loss(
    weights: FloatArray, inputs: FloatArray, target: FloatArray, start: FloatArray, pull: FloatArray
) -> float:
    value = weights @ inputs
    entropy = np.logaddexp(0.0, value) - target * value
    return float(entropy.sum() + 0.5 * (pull * (weights - start) ** 2).sum())


def corrections(
    base_N: FloatArray,
    target_N: FloatArray,
    group_N: npt.NDArray[np.int64],
    num_groups: int,
    offset_std: float,
    slope_std: float,
    least_slope: float,
) -> tuple[FloatArray, FloatArray]:
    """Per group `logit p = offset + slope * base`: offsets (K,) and slopes (K,).

    Gaussian priors hold a group to offset 0 and slope 1: a group without examples stays there, and
    one with few moves little. `slope_std` 0 leaves every slope at 1; no slope is below
    `least_slope`. The offset's prior is at the mean of `base`, where the data are.
    """
    centre = float(base_N.mean()) if len(base_N) else 0.0
    ahead = base_N - centre
    shift, turn = np.zeros(num_groups), np.zeros(num_groups)
    for _ in range(_STEPS):
        guess = sigmoid(base_N + shift[group_N] + turn[group_N] * ahead)
        error, weight = guess - target_N, guess * (1 - guess)
        sums: list[FloatArray] = [
            np.bincount(group_N, values, num_groups).astype(np.float64)
            for values in (error, error * ahead, weight, weight * ahead, weight * ahead**2)
        ]
        first, second = sums[0] + shift / offset_std**2, sums[1]
        level, mixed, turned = sums[2] + 1 / offset_std**2, sums[3], sums[4]
        if slope_std:
            second, turned = second + turn / slope_std**2, turned + 1 / slope_std**2
            stuck = (turn <= least_slope - 1) & (second > 0)
            mixed = np.where(stuck, 0.0, mixed)
            second = np.where(stuck, 0.0, second)
            scale = level * turned - mixed**2
            step = (turned * first - mixed * second) / scale
            turn_step = (level * second - mixed * first) / scale
        else:
            step, turn_step = first / level, np.zeros(num_groups)
        # Rare events make the first steps too long: no step leaves where the curve was seen.
        shift -= np.clip(step, -1, 1)
        turn = np.maximum(turn - np.clip(turn_step, -0.5, 0.5), least_slope - 1)
        if max(np.abs(step).max(initial=0.0), np.abs(turn_step).max(initial=0.0)) < 1e-9:
            break
    return shift + centre - (1 + turn) * centre, 1 + turn

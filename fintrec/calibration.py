"""From logits to honest probabilities; the only place where a logit becomes one.

- pCTR: the softmax of eq. 2 says which item is clicked *given a click*, so its logits have no
  level. z = logit - logsumexp over the K items fixes the level, and Platt's sigmoid(a z + b), fitted
  on validation impressions, turns it into P(click given shown). a > 0 keeps the order.
- pCVR: trained with BCE, so its sigmoid is the probability (FinTRec section 3.2)

float64, rounded to `DECIMALS`, so that a replay agrees to the byte.

Shapes: B batch, K items, N impressions
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Float: Final = np.float64
FloatArray = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32] | npt.NDArray[np.float64]

DECIMALS: Final = 8
MIN_SLOPE: Final = 1e-3
_STEPS: Final = 100


def click_level(logits_BK: Logits) -> FloatArray:
    """z: log softmax over the items, (B, K)."""
    logits = np.asarray(logits_BK, Float)
    highest = logits.max(axis=1, keepdims=True)
    level: FloatArray = logits - highest
    level -= np.log(np.exp(level).sum(axis=1, keepdims=True))
    return level


def sigmoid(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt's map of one pCTR model version."""

    version: str
    a: float
    b: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.a) and np.isfinite(self.b) and self.a > 0):
            raise ValueError(f"calibration a={self.a}, b={self.b}: expected finite numbers, a > 0")

    def apply(self, logits_BK: Logits) -> FloatArray:
        """pCTR, (B, K): the probability of a click on each item, given that it is shown."""
        return np.round(sigmoid(self.a * click_level(logits_BK) + self.b), DECIMALS)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Calibration":
        """Inverse of `to_dict`."""
        return cls(str(data["version"]), float(data["a"]), float(data["b"]))


def conversion_probabilities(logits_BK: Logits) -> FloatArray:
    """pCVR, (B, K)."""
    return np.round(sigmoid(np.asarray(logits_BK, Float)), DECIMALS)


def probabilities(
    calibration: Calibration, pctr_logits_BK: Logits, pcvr_logits_BK: Logits
) -> tuple[FloatArray, FloatArray]:
    """pCTR and pCVR of a batch, each (B, K)."""
    return calibration.apply(pctr_logits_BK), conversion_probabilities(pcvr_logits_BK)


def fit(level_N: FloatArray, clicked_N: npt.NDArray[np.bool_]) -> Calibration:
    """Platt's map of impressions: z of the shown item, and whether it was clicked.

    Minimises the log loss by Newton steps under a >= MIN_SLOPE. Targets are Platt's smoothed ones,
    so a sample without clicks (or without impressions) still has a finite answer.
    """
    level = np.asarray(level_N, Float)
    clicked = np.asarray(clicked_N, bool)
    if level.shape != clicked.shape or level.ndim != 1:
        raise ValueError(f"level has shape {level.shape}, clicked {clicked.shape}: expected (N,)")
    positives = int(clicked.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(clicked) - positives + 2)
    target = np.where(clicked, high, low)
    slope, offset = _newton(level, target, None)
    if slope < MIN_SLOPE:
        # The loss is convex: the constrained optimum lies on the border.
        slope, offset = _newton(level, target, MIN_SLOPE)
    named = hashlib.sha256(json.dumps([slope, offset]).encode()).hexdigest()[:12]
    return Calibration(f"platt-{named}", slope, offset)


def _newton(level: FloatArray, target: FloatArray, fixed: float | None) -> tuple[float, float]:
    """Logistic regression of `target` on (level, 1), or on 1 alone with a fixed slope."""
    centre = float(level.mean()) if len(level) else 0.0
    inputs = np.stack((level - centre, np.ones_like(level)))
    free = slice(0, 2) if fixed is None else slice(1, 2)
    weights = np.array([1.0 if fixed is None else fixed, 0.0])
    # A weak pull to (start, 0) keeps the system solvable when nothing varies.
    start, pull = weights.copy(), 1e-6
    loss = _loss(weights, inputs, target, start, pull)
    for _ in range(_STEPS):
        guess = sigmoid(weights @ inputs)
        gradient = inputs @ (guess - target) + pull * (weights - start)
        curvature = (inputs * (guess * (1 - guess))) @ inputs.T + pull * np.eye(2)
        step = np.zeros(2)
        step[free] = np.linalg.solve(curvature[free, free], gradient[free])
        size = 1.0
        while size > 1e-10:
            tried = weights - size * step
            tried_loss = _loss(tried, inputs, target, start, pull)
            if tried_loss <= loss:
                break
            size /= 2
        if size <= 1e-10 or loss - tried_loss < 1e-13 * (1 + abs(loss)):
            break
        weights, loss = tried, tried_loss
    return float(weights[0]), float(weights[1] - weights[0] * centre)


def _loss(
    weights: FloatArray, inputs: FloatArray, target: FloatArray, start: FloatArray, pull: float
) -> float:
    logit = weights @ inputs
    entropy = np.logaddexp(0.0, logit) - target * logit
    return float(entropy.sum() + 0.5 * pull * ((weights - start) ** 2).sum())

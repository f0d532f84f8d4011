"""From logits to honest probabilities; the only place where a logit becomes one.

- pCTR: the softmax of eq. 2 says which item is clicked *given a click*, so its logits have no
  level. z = logit - logsumexp over the K items fixes the level, and one monotone map of z, fitted
  on validation impressions (`fintrec/calibration_choice.py`), gives P(click given shown):

      logit p_k = offset_k + slope_k * (a f(z) + b - c log(1 - e^z))

  Platt: f(z) = z, c = 0. Beta (Kull et al. 2017): c > 0; its log p is z. Isotonic: f interpolates
  between knots, a = 1, b = c = 0. offset_k and slope_k are an item's own, 0 and 1 where it has none.
  a > 0, c >= 0, slope_k > 0 and ascending knots keep the order of each item.
  Of a pCTR with a sigmoid link (`fintrec/models/config.py`) z is the log of each item's own sigmoid;
  the map and its fit are the same.
- pCVR: trained with BCE, so its sigmoid is the probability (FinTRec section 3.2)

float64, rounded to `DECIMALS`, so that a replay agrees to the byte.

Shapes: B batch, K items
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fintrec.logistic import sigmoid

Float: Final = np.float64
FloatArray = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32] | npt.NDArray[np.float64]

DECIMALS: Final = 8
MIN_SLOPE: Final = 1e-3
STEPS: Final = 1000  # of 1, in which knots, offsets and slopes are counted, each an int16
LIMIT: Final = 17.0  # of a fitted map's logit: 4e-8 < p < 1 - 4e-8, which rounding leaves inside
_CLOSEST: Final = -1e-12  # z at most, in log(1 - e^z)


def click_level(logits_BK: Logits, link: str = "softmax") -> FloatArray:
    """z: log softmax over the items, or with link `sigmoid` the log of each item's own, (B, K)."""
    logits = np.asarray(logits_BK, Float)
    if link == "sigmoid":
        return -np.logaddexp(0.0, -logits)
    highest = logits.max(axis=1, keepdims=True)
    level: FloatArray = logits - highest
    level -= np.log(np.exp(level).sum(axis=1, keepdims=True))
    return level


@dataclass(frozen=True, slots=True)
class Knots:
    """A monotone map by straight lines between points, counted in `STEPS`; both tuples ascend.

    Outside the knots it goes on with slope `MIN_SLOPE`: nearly level, yet the order stays.
    """

    level: tuple[int, ...]
    logit: tuple[int, ...]
    _points: tuple[FloatArray, FloatArray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        level, logit = np.array(self.level, Float) / STEPS, np.array(self.logit, Float) / STEPS
        if level.shape != logit.shape or not len(level):
            raise ValueError(f"{len(level)} knots with {len(logit)} values: expected as many, > 0")
        if (np.diff(level) <= 0).any() or (np.diff(logit) < 0).any():
            raise ValueError("knots: expected ascending levels, and logits that never fall")
        object.__setattr__(self, "_points", (level, logit))

    def __call__(self, level: FloatArray) -> FloatArray:
        """The map of any number of levels."""
        points, values = self._points
        within = np.clip(level, points[0], points[-1])
        return np.interp(within, points, values) + MIN_SLOPE * (level - within)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The map of one pCTR model version; its formula is this module's.

    `offsets` and `slopes` count in `STEPS`, in the order of the K items; empty means none.
    `limit` bounds the logit, so that p is never 0 or 1; maps of early versions have none. `link` is
    the model's, of which z is taken. `choice` says how the map was chosen and plays no part in it.
    """

    version: str
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    knots: Knots | None = None
    offsets: tuple[int, ...] = ()
    slopes: tuple[int, ...] = ()
    limit: float | None = None
    choice: Mapping[str, Any] = field(default_factory=dict, hash=False)
    link: str = "softmax"
    _items: tuple[FloatArray, FloatArray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        a, b, c = self.a, self.b, self.c
        if not (np.isfinite([a, b, c]).all() and a > 0 and c >= 0):
            raise ValueError(
                f"calibration a={a}, b={b}, c={c}: expected finite numbers, a > 0, c >= 0"
            )
        if self.slopes and min(self.slopes) <= 0:
            raise ValueError(f"calibration has a slope of {min(self.slopes)}, expected all above 0")
        if self.slopes and len(self.slopes) != len(self.offsets):
            raise ValueError(
                f"calibration has {len(self.slopes)} slopes, {len(self.offsets)} offsets: "
                "expected as many"
            )
        if self.link not in ("softmax", "sigmoid"):
            raise ValueError(f"calibration has link {self.link!r}, expected softmax or sigmoid")
        own = np.array(self.offsets, Float) / STEPS, np.array(self.slopes, Float) / STEPS
        object.__setattr__(self, "_items", own)

    @property
    def kind(self) -> str:
        """Its family, such as `beta` or `platt by item`."""
        family = "isotonic" if self.knots else "beta" if self.c else "platt"
        return f"{family} by item" if self.offsets else family

    def apply(self, logits_BK: Logits) -> FloatArray:
        """pCTR, (B, K): the probability of a click on each item, given that it is shown."""
        return self.probability(click_level(logits_BK, self.link))

    def probability(self, level: FloatArray, item: Any = slice(None)) -> FloatArray:
        """pCTR of levels z whose last axis is the items, or the items `item` of it."""
        value = self.a * (self.knots(level) if self.knots else level) + self.b
        if self.c:
            value -= self.c * np.log(-np.expm1(np.minimum(level, _CLOSEST)))
        if self.offsets:
            offsets, slopes = self._items
            if isinstance(item, slice) and level.shape[-1] != len(offsets):
                raise ValueError(
                    f"{level.shape[-1]} items, the calibration {self.version} has {len(offsets)}"
                )
            if len(slopes):
                value *= slopes[item]
            value += offsets[item]
        if self.limit is not None:
            value = np.clip(value, -self.limit, self.limit)
        return np.round(sigmoid(value), DECIMALS)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what an early version did not have is left out where it is not used."""
        found: dict[str, Any] = {"version": self.version, "a": self.a, "b": self.b}
        if self.c:
            found["c"] = self.c
        if self.knots:
            found["knots"] = [_packed(self.knots.level), _packed(self.knots.logit)]
        for name in ("offsets", "slopes"):
            if values := getattr(self, name):
                found[name] = _packed(values)
        if self.limit is not None:
            found["limit"] = self.limit
        if self.link != "softmax":
            found["link"] = self.link
        if self.choice:
            found["choice"] = dict(self.choice)
        return found

    def to_record(self) -> dict[str, Any]:
        """The form of an audit record: all that `apply` uses, without how it was chosen."""
        return replace(self, choice={}).to_dict()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Calibration":
        """Inverse of `to_dict` and `to_record`; ValueError where the numbers make no map."""
        knots, limit = data.get("knots"), data.get("limit")
        return cls(
            version=str(data["version"]),
            a=float(data["a"]),
            b=float(data["b"]),
            c=float(data.get("c", 0.0)),
            knots=Knots(*map(_unpacked, knots)) if knots else None,
            offsets=_unpacked(data.get("offsets", "")),
            slopes=_unpacked(data.get("slopes", "")),
            limit=None if limit is None else float(limit),
            link=str(data.get("link", "softmax")),
            choice=dict(data.get("choice", {})),
        )


def _packed(values: tuple[int, ...]) -> str:
    """Base64 of int16, little-endian: 200 items are 536 characters of an audit record."""
    return base64.b64encode(np.array(values, "<i2").tobytes()).decode()


def _unpacked(text: str) -> tuple[int, ...]:
    return tuple(np.frombuffer(base64.b64decode(text, validate=True), "<i2").tolist())


def next_click_level(logits_LK: Logits, shares_LK: FloatArray, link: str) -> FloatArray:
    """log P(next click) of eq. 2, (L, K): of what is clicked when shown, and where it is shown."""
    return click_level(
        (click_level(logits_LK, link) if link == "sigmoid" else logits_LK) + shares_LK
    )


def conversion_probabilities(logits_BK: Logits) -> FloatArray:
    """pCVR, (B, K)."""
    return np.round(sigmoid(np.asarray(logits_BK, Float)), DECIMALS)


def probabilities(
    calibration: Calibration, pctr_logits_BK: Logits, pcvr_logits_BK: Logits
) -> tuple[FloatArray, FloatArray]:
    """pCTR and pCVR of a batch, each (B, K)."""
    return calibration.apply(pctr_logits_BK), conversion_probabilities(pcvr_logits_BK)

"""Which map of pCTR is used: cross-validated on validation impressions, with stated fallbacks.

Every candidate is fitted on four fifths of the users and judged by its log loss on the rest, five
times. The lowest mean wins, a tie the simpler one; the winner is fitted on all. What was tried and
why it ended so stays in the calibration's `choice`.

With too few clicks the answer is simpler, never none:

    no impression                     z as it is: slope 1, offset 0
    fewer than MIN_CLICKS clicks      slope 1, only the level is fitted
    one user, or few clicks           Platt
    otherwise                         the candidates whose own minimum is reached

Shapes: N impressions, K items
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fintrec.calibration import LIMIT, Calibration, FloatArray
from fintrec.calibration_fit import (
    SLOPE_STD,
    BoolArray,
    IntArray,
    by_item,
    fit,
    fit_beta,
    fit_isotonic,
    fit_level,
    named,
)

FOLDS: Final = 5
MIN_CLICKS: Final = 10
_DIGITS: Final = 7
Fit = Callable[[npt.ArrayLike, npt.ArrayLike], Calibration]


class Impressions(NamedTuple):
    """Items that were shown: z, place among the K items, whether clicked, and to whom."""

    level: FloatArray  # (N,)
    item: IntArray  # (N,)
    clicked: BoolArray  # (N,)
    user: IntArray  # (N,)

    def of(self, rows: npt.NDArray[Any]) -> "Impressions":
        """Some of them."""
        return Impressions(*(column[rows] for column in self))


@dataclass(frozen=True, slots=True)
class Family:
    """A map of all items; `min_clicks` below which it is not tried."""

    name: str
    fit: Fit
    min_clicks: int


@dataclass(frozen=True, slots=True)
class ByItem:
    """An item's own part on top of a family, by the strength of its priors."""

    name: str
    offset_std: float
    slope_std: float
    min_clicks: int


FAMILIES: Final = (
    Family("platt", fit, MIN_CLICKS),
    Family("beta", fit_beta, 30),
    Family("isotonic", fit_isotonic, 100),
)
BY_ITEM: Final = (
    ByItem("offset 0.25", 0.25, 0.0, 50),
    ByItem("offset 1", 1.0, 0.0, 50),
    ByItem("offset 1, slope", 1.0, SLOPE_STD, 200),
)


def choose(
    shown: Impressions,
    num_items: int,
    seed: int = 0,
    folds: int = FOLDS,
    link: str = "softmax",
) -> Calibration:
    """The map for impressions that no model was trained on; `choice` of it says why this one.

    Folds are of users, drawn by `seed`. `link` is the one that the levels were taken by.
    """
    found = _chosen(shown, num_items, seed, folds)
    return found if link == "softmax" else named(replace(found, link=link))


def _chosen(shown: Impressions, num_items: int, seed: int, folds: int) -> Calibration:
    clicks, users = int(shown.clicked.sum()), np.unique(shown.user)
    said: dict[str, Any] = {"impressions": len(shown.level), "clicks": clicks, "users": len(users)}
    few = _fallback(shown, clicks, len(users))
    if few is not None:
        found, reason = few
        return replace(found, choice={**said, "chosen": "fallback", "reason": reason})
    folds = min(folds, len(users))
    part = np.random.default_rng(seed).permutation(np.arange(len(users)) % folds)
    fold = part[np.searchsorted(users, shown.user)]
    losses = _held_out(shown, fold, folds, num_items, clicks)
    scores = _scores(losses, shown.user)
    best = min(scores, key=lambda name: scores[name]["log_loss"])
    rows = np.ones(len(shown.level), bool)
    found = next(
        made for name, made in _candidates(shown.of(rows), num_items, clicks) if name == best
    )
    said |= {"folds": folds, "seed": seed, "chosen": best, "scores": scores}
    said |= {"left_out": _left_out(clicks), "reason": _reason(best, scores, clicks)}
    return replace(found, choice=said)


def _fallback(shown: Impressions, clicks: int, num_users: int) -> tuple[Calibration, str] | None:
    if not len(shown.level):
        return named(Calibration("", limit=LIMIT)), "no impression: z as it is"
    if clicks < MIN_CLICKS:
        why = f"{clicks} clicks, a slope needs {MIN_CLICKS}: only the level is fitted"
        return fit_level(shown.level, shown.clicked), why
    if num_users < 2:
        why = "one user, folds need two: Platt without a comparison"
        return fit(shown.level, shown.clicked), why
    return None


def _candidates(
    shown: Impressions, num_items: int, clicks: int
) -> Iterator[tuple[str, Calibration]]:
    """Simplest first; `clicks` of the whole sample decide which are tried in every fold."""
    wholes = [
        (family.name, family.fit(shown.level, shown.clicked))
        for family in FAMILIES
        if clicks >= family.min_clicks
    ]
    yield from wholes
    for own in BY_ITEM:
        if clicks < own.min_clicks:
            continue
        for name, whole in wholes:
            yield (
                f"{name} + {own.name}",
                by_item(whole, *shown[:3], num_items, own.offset_std, own.slope_std),
            )


def _held_out(
    shown: Impressions, fold: IntArray, folds: int, num_items: int, clicks: int
) -> dict[str, FloatArray]:
    """Log loss of every impression by maps that have not seen its user."""
    losses: dict[str, FloatArray] = {}
    for number in range(folds):
        out = fold == number
        held = shown.of(out)
        for name, made in _candidates(shown.of(~out), num_items, clicks):
            probability = made.probability(held.level, held.item)
            loss = -np.where(held.clicked, np.log(probability), np.log1p(-probability))
            losses.setdefault(name, np.zeros(len(fold)))[out] = loss
    return losses


def _scores(losses: Mapping[str, FloatArray], user: IntArray) -> dict[str, dict[str, float]]:
    """Mean loss, its difference to the simplest candidate's, and that one's standard error by user."""
    simplest = next(iter(losses.values()))
    _, place = np.unique(user, return_inverse=True)
    found = {}
    for name, loss in losses.items():
        more = loss - simplest
        by_user = np.bincount(place, more - more.mean())
        found[name] = {
            "log_loss": round(float(loss.mean()), _DIGITS),
            "more_than_platt": round(float(more.mean()), _DIGITS),
            "standard_error": round(float(np.sqrt((by_user**2).sum()) / len(more)), _DIGITS),
        }
    return found


def _left_out(clicks: int) -> dict[str, str]:
    return {
        one.name: f"needs {one.min_clicks} clicks"
        for one in (*FAMILIES, *BY_ITEM)
        if clicks < one.min_clicks
    }


def _reason(best: str, scores: Mapping[str, Mapping[str, float]], clicks: int) -> str:
    if len(scores) == 1:
        return f"{clicks} clicks are too few for any other map"
    loss, apart = scores[best]["log_loss"], scores[best]["more_than_platt"]
    return (
        f"lowest cross-validated log loss of {len(scores)}: {loss}, "
        f"{apart:+} against Platt's (standard error {scores[best]['standard_error']})"
    )

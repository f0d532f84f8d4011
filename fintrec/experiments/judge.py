"""Metrics of predictions on the judged pages, with intervals over users.

- all: log loss over (page, item) with complete labels, the paper's metric of pCVR
- shown: the same over the items that the page showed; marketing: over marketing items
- AUROC and calibration error over all (page, item)
- clicks: log loss, AUROC and calibration error over the items shown

Users are the clusters: their pages resemble each other. An interval says how far a number would
move with other users of the same bank and the same trained models. It says nothing of other
training seeds (their range stands beside it) nor of other banks.

Shapes: N pages, K items, U users, Q quantities
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fintrec.experiments.bank_data import BoolArray, IntArray, Judged
from fintrec.experiments.rows import Task
from fintrec.intervals import bootstrap_rows, bootstrap_sums, user_sums
from fintrec.metrics import auroc, binned, calibration_error, log_loss, losses

FloatArray = npt.NDArray[np.float64]
_NUM_BINS: Final = 15
_AUROC_REPLICATES: Final = 200  # each sorts nothing but still runs over every example


@dataclass(frozen=True, slots=True)
class Scope:
    """Some (page, item) with their labels: places in the pages, in the items, and users."""

    page: IntArray
    item: IntArray
    label: BoolArray
    user: IntArray

    def of(self, predicted_NK: npt.NDArray[Any]) -> FloatArray:
        """Predictions of the examples."""
        return predicted_NK[self.page, self.item].astype(np.float64)


def scopes(judged: Judged, task: Task, content_types: tuple[str, ...]) -> dict[str, Scope]:
    """The examples that a task is judged on, by name; the first is the one that ranks rows."""
    if task == "pctr":
        page, slot = np.nonzero(judged.shown >= 0)
        item = judged.shown[page, slot].astype(np.int64)
        return {"shown": Scope(page, item, judged.clicked[page, slot], judged.user[page])}
    marketing = np.array(content_types) == "marketing"
    shown = np.zeros_like(judged.known)
    page, slot = np.nonzero(judged.shown >= 0)
    shown[page, judged.shown[page, slot]] = True
    masks = {"all": judged.known, "shown": shown, "marketing": np.ones_like(shown) & marketing}
    return {name: _scope(judged, mask & judged.known) for name, mask in masks.items()}


def _scope(judged: Judged, mask: BoolArray) -> Scope:
    page, item = np.nonzero(mask)
    return Scope(page, item, judged.converted[page, item], judged.user[page])


def point_metrics(
    predicted_NK: npt.NDArray[Any], found: Mapping[str, Scope]
) -> dict[str, float | None]:
    """Metrics without intervals, for a cell's file."""
    out: dict[str, float | None] = {}
    for name, scope in found.items():
        if not len(scope.label):
            continue
        chance = scope.of(predicted_NK)
        out[f"log_loss_{name}"] = round(log_loss(chance, scope.label), 7)
        area = auroc(chance, scope.label)
        out[f"auroc_{name}"] = None if np.isnan(area) else round(area, 5)
        out[f"ece_{name}"] = round(calibration_error(chance, scope.label, _NUM_BINS), 7)
    return out


def loss_sums(predicted_NK: npt.NDArray[Any], scope: Scope) -> FloatArray:
    """Sum of losses and number of examples by user, (U, 2)."""
    chance = scope.of(predicted_NK)
    return user_sums(scope.user, losses(chance, scope.label), np.ones(len(chance)))


def loss_interval(sums_by_seed: list[FloatArray]) -> dict[str, Any]:
    """Mean log loss over seeds, its interval over users, and the range over seeds."""
    per_seed = [float(sums[:, 0].sum() / sums[:, 1].sum()) for sums in sums_by_seed]
    mean = np.mean(sums_by_seed, axis=0)
    found = bootstrap_sums(mean, _ratio)
    return {**found.to_dict(), "seeds": per_seed}


def loss_change(sums_by_seed: list[FloatArray], base_by_seed: list[FloatArray]) -> dict[str, Any]:
    """How much lower the mean log loss is than a base row's, as a share of the base's: paired.

    0.3 means 30 % below. Means over seeds, resampled over the same users.
    """
    mine, base = np.mean(sums_by_seed, axis=0), np.mean(base_by_seed, axis=0)
    return bootstrap_sums(np.column_stack((mine[:, 0], base[:, 0])), _below).to_dict()


def loss_way(
    sums_by_seed: list[FloatArray], start_by_seed: list[FloatArray], end_by_seed: list[FloatArray]
) -> dict[str, Any]:
    """How far the mean log loss is on the way from one row's to another's: 0 at the start, 1 at the
    end. Paired, as `loss_change`.
    """
    parts = (np.mean(sums, axis=0)[:, 0] for sums in (sums_by_seed, start_by_seed, end_by_seed))
    return bootstrap_sums(np.column_stack(list(parts)), _way).to_dict()


def verdict(sums_by_seed: list[FloatArray], base_by_seed: list[FloatArray]) -> str:
    """`better` or `worse` than the base where the paired interval leaves out 0 and the ranges over
    seeds do not touch, else `level`.
    """
    change = loss_change(sums_by_seed, base_by_seed)
    mine, base = (loss_interval(sums)["seeds"] for sums in (sums_by_seed, base_by_seed))
    if change["low"] > 0 and max(mine) < min(base):
        return "better"
    if change["high"] < 0 and min(mine) > max(base):
        return "worse"
    return "level"


def _ratio(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[:, 0] / sums[:, 1])


def _below(sums: FloatArray) -> FloatArray:
    return np.asarray(1 - sums[:, 0] / sums[:, 1])


def _way(sums: FloatArray) -> FloatArray:
    return np.asarray((sums[:, 1] - sums[:, 0]) / (sums[:, 1] - sums[:, 2]))


def auroc_interval(predicted_NK: npt.NDArray[Any], scope: Scope) -> dict[str, Any]:
    """AUROC of one seed with its interval over users."""
    chance = scope.of(predicted_NK)
    order = np.argsort(chance, kind="stable")
    sorted_label, sorted_chance = scope.label[order], chance[order]
    first = np.flatnonzero(np.diff(sorted_chance, prepend=-1.0) > 0)
    found = bootstrap_rows(
        lambda weight: _weighted_auroc(weight[order], sorted_label, first),
        scope.user,
        replicates=_AUROC_REPLICATES,
    )
    return found.to_dict()


def _weighted_auroc(weight_N: FloatArray, label_N: BoolArray, first: IntArray) -> float:
    """AUROC of examples in the order of their scores, each counted `weight` times; ties half."""
    positive = np.add.reduceat(weight_N * label_N, first)
    negative = np.add.reduceat(weight_N * ~label_N, first)
    below = np.cumsum(negative) - negative
    total = positive.sum() * negative.sum()
    return float((positive * (below + negative / 2)).sum() / total) if total else float("nan")


def ece_interval(predicted_NK: npt.NDArray[Any], scope: Scope) -> dict[str, Any]:
    """Calibration error over bins of equally many examples, with its interval over users.

    The bins are those of all examples, and stay. The error is a sum of absolute values, so noise
    only raises it and the interval lies above the value where the true error is small.
    """
    chance = scope.of(predicted_NK)
    bin_of = np.zeros(len(chance), np.int64)
    for at, part in enumerate(binned(chance, _NUM_BINS, "mass")):
        bin_of[part] = at
    gap = chance - scope.label
    sums = user_sums(
        scope.user,
        *(np.where(bin_of == at, gap, 0.0) for at in range(_NUM_BINS)),
        np.ones(len(chance)),
    )
    return bootstrap_sums(sums, lambda s: np.asarray(np.abs(s[:, :-1]).sum(1) / s[:, -1])).to_dict()

"""Scores of pages through the served path (stored float16 states), and the metrics on them.

Shapes: N pages, K items, B batch
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fintrec.batches import conversion_batches
from fintrec.calibration import (
    Calibration,
    click_level,
    conversion_probabilities,
    next_click_level,
)
from fintrec.calibration_choice import Impressions
from fintrec.datasets import Decisions, TrainingSet
from fintrec.exposure import ExposurePrior
from fintrec.learning.tasks import sampled
from fintrec.metrics import (
    auroc,
    brier,
    calibration_error,
    calibration_line,
    log_loss,
    log_loss_lift,
    recall_at,
)
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr

_BATCH = 64
Logits = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Scored(NamedTuple):
    """Logits of pages and what happened after them."""

    pages: IntArray  # (N,), places in the decisions
    pctr_logits: Logits  # (N, K), or (N, 0) where there is no such model
    pcvr_logits: Logits  # (N, K), or (N, 0)
    converted: npt.NDArray[np.bool_]  # (N, K)
    known: npt.NDArray[np.bool_]  # (N, K), where the conversion label is complete
    link: str = "softmax"  # of pCTR's logits (`fintrec/models/config.py`)


@torch.inference_mode()
def score(
    pctr: Pctr | None, pcvr: Pcvr | None, data: TrainingSet, decisions: Decisions, pages: IntArray
) -> Scored:
    """Score pages with the models there are, as they are served, each on the device it is on."""
    link = "softmax" if pctr is None else pctr.link
    parts = []
    for chosen, batch in conversion_batches(data, decisions, pages, _BATCH, None):
        history, page = batch[:3], batch[3:5]
        parts.append(
            (
                chosen,
                _logits(pctr, history, page),
                _logits(pcvr, history, page),
                batch.target_BK.numpy() > 0,
                batch.known_BK.numpy() > 0,
            )
        )
    if not parts:
        nothing = np.zeros((0, len(data.items)), np.float32)
        return Scored(pages, nothing, nothing, nothing > 0, nothing > 0, link)
    found, pctr_logits, pcvr_logits, happened, known = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    return Scored(found, pctr_logits, pcvr_logits, happened, known, link)


def _logits(
    model: Pctr | Pcvr | None, history: tuple[Tensor, ...], page: tuple[Tensor, ...]
) -> Logits:
    if model is None:
        return np.zeros((len(page[0]), 0), np.float32)
    device = next(model.parameters()).device
    placed = (part.to(device) for part in (*history, *page))
    logits: Logits = model.eval()(*placed).cpu().numpy()
    return logits


class Scores:
    """A version's models on drawn pages of a data set's periods; no draw is scored twice.

    Metrics, calibration report and card judge one checkpoint one after the other, mostly on the
    same pages, and scoring is most of what that costs.
    """

    def __init__(self, pctr: Pctr | None, pcvr: Pcvr | None, data: TrainingSet) -> None:
        self._pctr, self._pcvr, self._data = pctr, pcvr, data
        self._found: dict[tuple[str, bytes], Scored] = {}

    def of(self, period: str, limit: int, seed: int) -> Scored:
        """At most `limit` pages of a period (one of PERIODS), drawn by `seed` as `sampled` does."""
        decisions: Decisions = getattr(self._data, period)
        pages = sampled(decisions, limit, seed)
        key = period, pages.tobytes()
        if key not in self._found:
            self._found[key] = score(self._pctr, self._pcvr, self._data, decisions, pages)
        return self._found[key]


def impressions(scored: Scored, decisions: Decisions) -> Impressions:
    """Every shown item of the pages: the calibration's input."""
    shown = decisions.shown[scored.pages]
    row, position = np.nonzero(shown >= 0)
    item = shown[row, position].astype(np.int64)
    return Impressions(
        level=click_level(scored.pctr_logits, scored.link)[row, item],
        item=item,
        clicked=decisions.clicked[scored.pages][row, position],
        user=decisions.user[scored.pages][row].astype(np.int64),
    )


def evaluate(
    scored: Scored,
    decisions: Decisions,
    calibration: Calibration | None,
    prior: ExposurePrior,
) -> dict[str, Any]:
    """Metrics of the models on scored pages; None where there is nothing to measure.

    `prior` is the one of the click objective: the next click (eq. 2 and 3) depends on what is
    shown, the impression metrics do not.
    """
    shown, clicked = decisions.shown[scored.pages], decisions.clicked[scored.pages]
    row, position = np.nonzero((shown >= 0) & clicked)
    target = shown[row, position]
    found: dict[str, Any] = {
        "pages": len(scored.pages),
        "clicks": len(target),
        "conversions": int(scored.converted[scored.known].sum()),
    }
    if len(target) and scored.pctr_logits.size:
        request_LR = torch.from_numpy(decisions.request[scored.pages[row]])
        shares_LK = prior.rows(request_LR).numpy()
        level = next_click_level(scored.pctr_logits[row], shares_LK, scored.link)
        found["pctr_next_item_log_loss"] = float(-level[np.arange(len(target)), target].mean())
        for k in (1, 5):
            found[f"pctr_recall_at_{k}"] = recall_at(level, target, k)
    row, position = np.nonzero(shown >= 0)
    if len(row) and calibration is not None:
        pctr = calibration.apply(scored.pctr_logits)[row, shown[row, position]]
        found |= _binary("pctr", pctr, clicked[row, position])
    if scored.known.any() and scored.pcvr_logits.size:
        pcvr = conversion_probabilities(scored.pcvr_logits)
        found |= _binary("pcvr", pcvr[scored.known], scored.converted[scored.known])
    return {name: _rounded(value) for name, value in found.items()}


def _binary(
    name: str, probability: npt.NDArray[np.float64], label: npt.NDArray[np.bool_]
) -> dict[str, float]:
    slope, intercept = calibration_line(probability, label)
    return {
        f"{name}_log_loss": log_loss(probability, label),
        f"{name}_log_loss_lift": log_loss_lift(probability, label),
        f"{name}_auroc": auroc(probability, label),
        f"{name}_brier": brier(probability, label),
        f"{name}_calibration_error": calibration_error(probability, label),
        f"{name}_calibration_slope": slope,
        f"{name}_calibration_intercept": intercept,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value

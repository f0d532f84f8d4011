"""How honest a checkpoint's probabilities are on the test period, written beside it.

    reliability.json        metrics and tables of pCTR before and after calibration, and of pCVR
                            overall, by content type, by attribution window
    reliability_pctr.png    before: the softmax share, read as if it were a probability
    reliability_pcvr.png    with complete labels only, with all, and of the items that pages showed
    reliability_pcvr_types.png

pCVR has no calibrator (FinTRec section 3.2). A label whose attribution window ends after the log is
neither a conversion nor none, so it is left out; taking it for "no conversion" is measured beside.

Shapes: N impressions, B pages, K items
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS
from fintrec.calibration import DECIMALS, Calibration, conversion_probabilities
from fintrec.calibration_choice import Impressions
from fintrec.checkpoint import Checkpoint, code_version
from fintrec.datasets import TrainingSet
from fintrec.evaluation import Scored, Scores, impressions
from fintrec.machine import describe
from fintrec.metrics import (
    auroc,
    brier,
    calibration_error,
    calibration_line,
    log_loss,
    log_loss_lift,
)
from fintrec.reliability import Bin, as_rows, draw, reliability
from fintrec.result_files import write_json

FILE: Final = "reliability.json"
PAGES: Final = 4096  # at most, that a report is made on: scoring more takes longer than it tells
_DRAWN_GROUP: Final = 50  # conversions of a group, below which its points are noise


def judged(probability_N: npt.ArrayLike, label_N: npt.ArrayLike) -> dict[str, Any]:
    """Every metric of calibration, and the reliability table; None where there is no answer."""
    probability, label = np.asarray(probability_N, np.float64), np.asarray(label_N, bool)
    if not len(label):
        return {"examples": 0}
    slope, intercept = calibration_line(probability, label)
    found = {
        "mean_predicted": float(probability.mean()),
        "observed": float(label.mean()),
        "predicted_over_observed": float(probability.sum() / label.sum()) if label.any() else None,
        "log_loss": log_loss(probability, label),
        "log_loss_lift": log_loss_lift(probability, label),
        "brier": brier(probability, label),
        "calibration_error": calibration_error(probability, label),
        "calibration_error_equal_width": calibration_error(probability, label, bins="width"),
        "slope": slope,
        "intercept": intercept,
        "auroc": auroc(probability, label),
    }
    rounded = {
        name: round(value, 6) if value is not None and np.isfinite(value) else None
        for name, value in found.items()
    }
    return {"examples": len(label), "positives": int(label.sum()), **rounded} | {
        "bins": as_rows(reliability(probability, label))
    }


def of_clicks(shown: Impressions, calibration: Calibration) -> dict[str, Any]:
    """pCTR of impressions `before` and `after` calibration."""
    before, after = _click_probabilities(shown, calibration)
    return {"before": judged(before, shown.clicked), "after": judged(after, shown.clicked)}


def _click_probabilities(
    shown: Impressions, calibration: Calibration
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    share: npt.NDArray[np.float64] = np.exp(shown.level).round(DECIMALS)
    return share, calibration.probability(shown.level, shown.item)


def of_conversions(
    scored: Scored, data: TrainingSet, shown_NS: npt.NDArray[np.int32]
) -> dict[str, Any]:
    """pCVR of all (page, item): complete labels, all labels, and complete ones by group.

    `shown_NS` are the items of the scored pages, -1 for none: those are judged apart, because pCVR
    is not told of them (docs/adr/0018-pcvr-is-not-told-what-the-page-shows.md).
    """
    probability = conversion_probabilities(scored.pcvr_logits)
    known, shown = scored.known, np.zeros_like(scored.known)
    page, slot = np.nonzero(shown_NS >= 0)
    shown[page, shown_NS[page, slot]] = True

    def of(which: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return judged(probability[which], scored.converted[which])

    kinds = np.array(data.content_types)
    days = np.round(np.asarray(data.window_ms) / DAY_MS, 3)
    return {
        "labels": {"complete": int(known.sum()), "incomplete": int((~known).sum())},
        "complete_labels": of(known),
        "incomplete_as_negative": of(np.ones_like(known)),
        "shown_items": of(known & shown),
        "by_content_type": {str(kind): of(known & (kinds == kind)) for kind in np.unique(kinds)},
        "by_window_days": {f"{day:g}": of(known & (days == day)) for day in np.unique(days)},
    }


def write(
    directory: Path,
    checkpoint: Checkpoint,
    data: TrainingSet,
    source: str = "",
    scores: Scores | None = None,
) -> dict[str, Any]:
    """Judge test pages and write the report's files; returns what `reliability.json` holds.

    Pages are drawn by the recipe's seed, at most `PAGES` and the recipe's `evaluation_rows`; those
    that `scores` of the checkpoint on this data has are not scored again.
    `source` names the data in titles. A checkpoint with one model has that model's part alone.
    """
    training = checkpoint.recipe.training
    scores = scores or Scores(checkpoint.pctr, checkpoint.pcvr, data)
    scored = scores.of("test", min(PAGES, training.evaluation_rows), training.seed)
    report: dict[str, Any] = {
        "machine": describe(),
        "code": code_version(),
        "model": checkpoint.recipe.name,
        "data": source,
        "seed": training.seed,
        "pages": len(scored.pages),
    }
    if checkpoint.pctr is not None and checkpoint.calibration is not None:
        report["calibration"] = checkpoint.calibration.to_dict()
        report["pctr"] = of_clicks(impressions(scored, data.test), checkpoint.calibration)
    if checkpoint.pcvr is not None:
        report["pcvr"] = of_conversions(scored, data, data.test.shown[scored.pages])
    write_json(directory / FILE, report)
    _draw(directory, report)
    return report


def _draw(directory: Path, report: Mapping[str, Any]) -> None:
    of = f"{report['model']} on {report['data'] or 'its data'}, test period"
    clicks, goals = report.get("pctr"), report.get("pcvr")
    if clicks and clicks["after"]["examples"]:
        kind = Calibration.from_dict(report["calibration"]).kind
        _picture(
            directory / "reliability_pctr.png",
            f"pCTR\n{of}",
            {"before": clicks["before"], f"after ({kind})": clicks["after"]},
            "a click",
        )
    if goals and goals["complete_labels"]["examples"]:
        parts = {
            "complete labels": goals["complete_labels"],
            "incomplete taken for none": goals["incomplete_as_negative"],
        }
        if goals["shown_items"].get("positives", 0) >= _DRAWN_GROUP:
            parts["complete, items shown"] = goals["shown_items"]
        _picture(
            directory / "reliability_pcvr.png",
            f"pCVR, no calibrator\n{of}",
            parts,
            "a conversion",
        )
        kinds = goals["by_content_type"]
        large = {k: v for k, v in kinds.items() if v.get("positives", 0) >= _DRAWN_GROUP}
        if large:
            _picture(
                directory / "reliability_pcvr_types.png",
                f"pCVR by content type, complete labels\n{of}",
                large,
                "a conversion",
            )


def _picture(path: Path, title: str, parts: Mapping[str, Mapping[str, Any]], event: str) -> None:
    tables = {
        f"{name}: n = {found['examples']:,}, {found['positives']:,} positive": [
            Bin(**row) for row in found["bins"]
        ]
        for name, found in parts.items()
    }
    total = max(found["examples"] for found in parts.values())
    draw(path, f"{title}, n = {total:,}", tables, event)

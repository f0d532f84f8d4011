"""What a checkpoint is and how good: `card.json` and, made of it, `MODEL_CARD.md` beside the weights.

Data window, sizes, recipe, metrics with intervals over users, calibration, fairness slices, cost of
training, hashes, intended use and limits (after Mitchell et al. 2019, "Model Cards for Model
Reporting"). `judged.npz` holds sums by user of the test losses, so that two models judged on the
same pages can be compared in pairs; users are there by a hash.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.spec import registry_fingerprint
from fintrec import datasets, judged
from fintrec.card_data import log_facts
from fintrec.card_files import CARD, FORMAT, SUMS, TEXT, checkpoint_sha256
from fintrec.card_text import card_text
from fintrec.checkpoint import Checkpoint
from fintrec.code_version import code_version
from fintrec.datasets import PERIODS, Decisions, TrainingSet
from fintrec.evaluation import Scored, Scores
from fintrec.exposure import exposure_prior, no_prior
from fintrec.fairness import AGE, MIN_POSITIVES, MIN_USERS, groups_of, slices
from fintrec.intervals import user_sums
from fintrec.judged import Judged
from fintrec.learning import fingerprint
from fintrec.machine import describe, peak_memory_bytes
from fintrec.manifest import file_sha256

# That a card judges of each period: scoring them is what it costs, and test is what is quoted.
MAX_PAGES: Final = {"validation": 512, "test": 2_048}
PAGES_SEED: Final = 0  # not the recipe's: models that differ in it are compared on the same pages
MODELS: Final = ("pctr", "pcvr")
IntArray = npt.NDArray[np.int64]


def write(
    directory: Path,
    checkpoint: Checkpoint,
    data: TrainingSet,
    source: Path | None = None,
    scores: Scores | None = None,
    started_from: str | None = None,
) -> dict[str, Any]:
    """Judge a checkpoint saved in `directory` on its own data, write its card and return it.

    `source` is the LOG_DIR or DATASET_DIR that `data` came from, if it came from one. Pages that
    `scores` of the checkpoint on this data has are not scored again. `started_from` is the hash of
    the checkpoint whose weights its training started with.
    """
    scores = scores or Scores(checkpoint.pctr, checkpoint.pcvr, data)
    parts = {name: _judge(checkpoint, data, name, scores) for name in PERIODS[1:]}
    test = parts["test"]
    _write_sums(directory, test, data)
    groups = groups_of(data, data.test, source)
    card = {
        "format": FORMAT,
        "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "recipe": checkpoint.recipe.to_dict(),
        "data": _data(data, source),
        "models": _models(checkpoint, directory),
        "judged": {name: part.counts for name, part in parts.items()},
        "metrics": {name: part.metrics for name, part in parts.items()},
        "calibration": _calibration(checkpoint, test),
        "fairness": {
            "period": "test",
            "min_users": MIN_USERS,
            "min_positives": MIN_POSITIVES,
            "attributes": [group.attribute for group in groups],
            "missing": [] if any(group.attribute == AGE for group in groups) else [AGE],
            "slices": {name: slices(rows, groups) for name, rows in test.rows.items() if len(rows)},
        },
        "cost": _cost(checkpoint),
        "hashes": {
            "checkpoint": checkpoint_sha256(directory),
            "code": code_version(),
            "feature_registry": registry_fingerprint(),
            "vocabulary": vocabulary_sha256(checkpoint),
            "judged": file_sha256(directory / SUMS),
            **({} if started_from is None else {"started_from": started_from}),
        },
    }
    write_files(directory, card)
    return card


def write_files(directory: Path, card: Mapping[str, Any]) -> None:
    """Put a card beside its checkpoint, in both forms."""
    _replace(directory / CARD, (json.dumps(card, indent=1) + "\n").encode())
    _replace(directory / TEXT, card_text(card).encode())


def vocabulary_sha256(checkpoint: Checkpoint) -> str:
    """Hash of the names and items that a checkpoint has embeddings for."""
    return fingerprint.vocabulary_sha256(checkpoint.vocabulary)


class _Part:
    """One period as a card judges it."""

    def __init__(self, counts: dict[str, Any]) -> None:
        self.counts = counts
        self.rows: dict[str, Judged] = {}
        self.by_row: dict[str, tuple[IntArray, npt.NDArray[np.float64]]] = {}  # user and value
        self.metrics: dict[str, Any] = {}


def _judge(checkpoint: Checkpoint, data: TrainingSet, period: str, scores: Scores) -> _Part:
    config, decisions = checkpoint.recipe.training, getattr(data, period)
    scored = scores.of(period, min(MAX_PAGES[period], config.evaluation_rows), PAGES_SEED)
    part = _Part(_counts(scored, decisions, data))
    if checkpoint.pctr is not None and checkpoint.calibration is not None:
        part.rows["pctr"] = judged.judged_clicks(scored, decisions, checkpoint.calibration)
        _next_clicks(part, scored, decisions, data, config.exposure_prior)
    if checkpoint.pcvr is not None:
        part.rows["pcvr"] = judged.judged_conversions(scored, decisions)
    for name, rows in part.rows.items():
        if len(rows):
            part.by_row[f"{name}_log_loss"] = (rows.user, rows.losses)
            part.metrics |= {
                f"{name}_log_loss": judged.log_loss_interval(rows),
                f"{name}_auroc": judged.auroc_interval(rows),
                f"{name}_calibration_error": judged.calibration_error_interval(rows),
            }
    part.metrics = {name: found and found.to_dict() for name, found in part.metrics.items()}
    return part


def _next_clicks(
    part: _Part, scored: Scored, decisions: Decisions, data: TrainingSet, uses_prior: bool
) -> None:
    prior = exposure_prior(data) if uses_prior else no_prior(len(data.items))
    user, loss, rank = judged.next_clicks(scored, decisions, prior)
    if len(user):
        part.by_row["pctr_next_item_log_loss"] = (user, loss)
        part.metrics["pctr_next_item_log_loss"] = judged.mean_interval(loss, user)
        for k in (1, 5):
            hits = (rank < k).astype(np.float64)
            part.by_row[f"pctr_recall_at_{k}"] = (user, hits)
            part.metrics[f"pctr_recall_at_{k}"] = judged.mean_interval(hits, user)


def _counts(scored: Scored, decisions: Decisions, data: TrainingSet) -> dict[str, Any]:
    pages = np.sort(scored.pages)
    shown, clicked = decisions.shown[pages], decisions.clicked[pages]
    digest = hashlib.sha256()
    for values in (decisions.time_ms[pages], shown, clicked):
        digest.update(np.ascontiguousarray(values).tobytes())
    digest.update("\n".join(data.users[user] for user in _known(decisions, pages, data)).encode())
    return {
        "pages": len(pages),
        "of_pages": len(decisions),
        "users": len(np.unique(decisions.user[pages])),
        "impressions": int((shown >= 0).sum()),
        "clicks": int((clicked & (shown >= 0)).sum()),
        "labels": int(scored.known.sum()),
        "conversions": int(scored.converted[scored.known].sum()),
        "pages_sha256": digest.hexdigest(),
    }


def _known(decisions: Decisions, pages: IntArray, data: TrainingSet) -> list[int]:
    """Users of the pages, none where the data set does not name them."""
    return decisions.user[pages].tolist() if data.users else []


def _data(data: TrainingSet, source: Path | None) -> dict[str, Any]:
    return {
        "kind": _kind(source),
        "name": source.resolve().name if source is not None else "",
        "log": log_facts(source),
        "hash": fingerprint.data_hash(data),
        "users": len(data.logs),
        "items": len(data.items),
        "periods": {name: _period(getattr(data, name)) for name in PERIODS},
        "exclusions": dict(data.exclusions),
    }


def _kind(source: Path | None) -> str:
    if source is None:
        return "memory"
    return "data set" if datasets.is_dataset(source) else "log"


def _period(decisions: Decisions) -> dict[str, Any]:
    shown = decisions.shown >= 0
    return {
        "first_ms": int(decisions.time_ms.min()) if len(decisions) else None,
        "last_ms": int(decisions.time_ms.max()) if len(decisions) else None,
        "pages": len(decisions),
        "users": len(np.unique(decisions.user)),
        "impressions": int(shown.sum()),
        "clicks": int((decisions.clicked & shown).sum()),
        "conversions": len(decisions.converted_items),
    }


def _models(checkpoint: Checkpoint, directory: Path) -> dict[str, Any]:
    found = {}
    for name in MODELS:
        model = getattr(checkpoint, name)
        if model is not None:
            found[name] = {
                "parameters": sum(values.numel() for values in model.parameters()),
                "weights_sha256": file_sha256(directory / f"{name}.safetensors"),
            }
    return found


def _calibration(checkpoint: Checkpoint, test: _Part) -> dict[str, Any]:
    fitted = checkpoint.calibration
    told: Mapping[str, Any] = {} if fitted is None else fitted.to_dict()
    return {
        "version": told.get("version"),
        "kind": str(told.get("kind", str(told.get("version", "none")).partition("-")[0])),
        "choice": told.get("choice") or told.get("reason"),
        "period": "test",
        "reliability": {
            name: judged.reliability(rows) for name, rows in test.rows.items() if len(rows)
        },
    }


def _cost(checkpoint: Checkpoint) -> dict[str, Any]:
    training = checkpoint.metrics.get("training", {})
    plain = {
        name: {key: value for key, value in told.items() if isinstance(value, int | float | str)}
        for name, told in training.items()
        if isinstance(told, Mapping)
    }
    return {
        "training": plain,
        "peak_memory_mb": round(peak_memory_bytes() / 1e6),
        "machine": describe(),
    }


def _write_sums(directory: Path, test: _Part, data: TrainingSet) -> None:
    """Sums by user of every metric that is a mean; written before the card that they belong to."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, (user, value) in test.by_row.items():
        places, owner = np.unique(user, return_inverse=True)
        hashes = np.array([_user_hash(place, data) for place in places.tolist()], np.uint64)
        columns[f"{name}_user"] = np.sort(hashes)
        sums = user_sums(hashes[owner], value, np.ones(len(value)))
        columns[f"{name}_sum"], columns[f"{name}_rows"] = sums.T
    partial = directory / f".{SUMS}"
    with partial.open("wb") as file:
        np.savez_compressed(file, **columns)  # type: ignore[arg-type]
    os.replace(partial, directory / SUMS)


def _user_hash(place: int, data: TrainingSet) -> int:
    name = data.users[place] if data.users else str(place)
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)

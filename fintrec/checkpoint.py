"""A trained model version on disk: safetensors beside JSON that says what they mean.

DIR/checkpoint.json       recipe, vocabulary, calibration, base rates, metrics, versions
DIR/pctr.safetensors
DIR/pcvr.safetensors

A checkpoint may hold one model alone, for experiments; serving needs both. Models on one trunk have
its weights in both files, so either file is a whole model.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from features.errors import ConfigurationError
from features.spec import registry_fingerprint
from features.vocabulary import Vocabulary
from fintrec.calibration import Calibration
from fintrec.code_version import code_version as code_version
from fintrec.models.config import Recipe
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.models.trunk import build_models
from fintrec.popularity import Popularity

FORMAT: Final = 2  # 1 had `use_time` where `time_encoding` is now
METADATA: Final = "checkpoint.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The models of one version and everything that serving them needs.

    A model that was not trained is None, and without pCTR so is its calibration.
    """

    recipe: Recipe
    vocabulary: Vocabulary
    content_types: tuple[str, ...]  # of vocabulary.items
    pctr: Pctr | None
    pcvr: Pcvr | None
    calibration: Calibration | None
    popularity: Popularity
    metrics: Mapping[str, Any]

    def models(self) -> dict[str, Pctr | Pcvr]:
        """The models there are, by name."""
        both: dict[str, Pctr | Pcvr | None] = {"pctr": self.pctr, "pcvr": self.pcvr}
        return {name: model for name, model in both.items() if model is not None}

    def served(self) -> tuple[Pctr, Pcvr, Calibration]:
        """What serving needs; ConfigurationError when this checkpoint has only a part of it."""
        if self.pctr is None or self.pcvr is None or self.calibration is None:
            raise ConfigurationError(
                f"the checkpoint holds {' and '.join(self.models()) or 'no model'}, serving needs "
                "pctr, pcvr and a calibration: train with --tasks both or --tasks joint"
            )
        return self.pctr, self.pcvr, self.calibration


def save(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint; the metadata comes last, so a torn write is not a checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / METADATA).unlink(missing_ok=True)
    for name in ("pctr", "pcvr"):
        (directory / f"{name}.safetensors").unlink(missing_ok=True)
    for name, model in checkpoint.models().items():
        save_file(model.state_dict(), directory / f"{name}.safetensors")
    metadata = {
        "format": FORMAT,
        "registry": registry_fingerprint(),
        "code": code_version(),
        "torch": installed("torch"),
        "recipe": checkpoint.recipe.to_dict(),
        "vocabulary": checkpoint.vocabulary.to_dict(),
        "content_types": list(checkpoint.content_types),
        "models": list(checkpoint.models()),
        "calibration": checkpoint.calibration and checkpoint.calibration.to_dict(),
        "popularity": checkpoint.popularity.to_dict(),
        "metrics": dict(checkpoint.metrics),
    }
    partial = directory / f".{METADATA}.partial"
    partial.write_text(json.dumps(metadata, indent=1) + "\n")
    os.replace(partial, directory / METADATA)


def load(directory: Path) -> Checkpoint:
    """Read a checkpoint; ConfigurationError when it is none, or was made for other features."""
    path = directory / METADATA
    if not path.is_file():
        raise ConfigurationError(f"{directory}: no {METADATA}, expected a checkpoint directory")
    data = json.loads(path.read_text())
    if data.get("format") != FORMAT:
        raise ConfigurationError(
            f"{path}: format is {data.get('format')!r}, expected {FORMAT}: train again"
        )
    if data["registry"] != registry_fingerprint():
        raise ConfigurationError(
            f"{path}: trained on feature registry {data['registry'][:12]}, this code has "
            f"{registry_fingerprint()[:12]}: train again, or use the code {data['code']}"
        )
    recipe = Recipe.from_dict(data["recipe"])
    calibration = Calibration.from_dict(data["calibration"]) if data["calibration"] else None
    if calibration is not None and calibration.link != recipe.model.click_link:
        raise ConfigurationError(
            f"{path}: its calibration is of link {calibration.link}, expected that of its recipe, "
            f"{recipe.model.click_link}"
        )
    vocabulary = Vocabulary.from_dict(data["vocabulary"])
    pctr, pcvr = build_models(vocabulary, recipe.model)
    held = set(data["models"])
    for name, model in (("pctr", pctr), ("pcvr", pcvr)):
        if name in held:
            _load_weights(model, directory / f"{name}.safetensors")
    return Checkpoint(
        recipe,
        vocabulary,
        tuple(data["content_types"]),
        pctr.eval() if "pctr" in held else None,
        pcvr.eval() if "pcvr" in held else None,
        calibration,
        Popularity.from_dict(data["popularity"]),
        data["metrics"],
    )


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing beside its {METADATA}")
    load_checked(model, load_file(path), str(path))


def load_checked(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Fill a model; ConfigurationError names the source and the first shapes that do not fit."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(set(expected.items()) ^ set(found.items()))
    if wrong:
        raise ConfigurationError(f"{source}: weights do not fit the recipe, first at {wrong[:2]}")
    model.load_state_dict(weights)

"""The data that a model card is of, built again from where they came from."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from features.errors import ConfigurationError
from fintrec import datasets, logs
from fintrec.datasets import PERIODS, TrainingSet

_FIELDS: Final = ("user", "time_ms", "request", "static", "shown", "clicked", "converted_items")
_LOG_FACTS: Final = ("made_by", "size", "seed", "num_users", "start_ms", "end_ms")


def data_sha256(data: TrainingSet) -> str:
    """Hash of the items and of all decisions."""
    digest = hashlib.sha256(json.dumps(data.items).encode())
    for name in PERIODS:
        part = getattr(data, name)
        for field in _FIELDS:
            digest.update(np.ascontiguousarray(getattr(part, field)).tobytes())
    return digest.hexdigest()


def log_facts(source: Path | None) -> dict[str, Any]:
    """Who made a LOG_DIR, or the log of a DATASET_DIR, its size and seed, as its manifest says."""
    if source is None:
        return {}
    is_dataset = datasets.is_dataset(source)
    found = datasets.read_manifest(source)["log"] if is_dataset else logs.read_manifest(source)
    return {name: found[name] for name in _LOG_FACTS if name in found}


def training_set_of(card: Mapping[str, Any], source: Path) -> TrainingSet:
    """The training set that a card is of, from its LOG_DIR or DATASET_DIR.

    A log is split as `fintrec train` splits it. ConfigurationError if other data come of it.
    """
    data, sha256 = _rebuilt(card, source)
    if sha256 != card["data"]["sha256"]:
        raise ConfigurationError(
            f"{source}: its decisions have the hash {sha256[:12]}, the card is of "
            f"{card['data']['sha256'][:12]} ({card['data']['kind']} {card['data']['name']!r}): "
            "expected the same data"
        )
    return data


def rebuilt_sha256(card: Mapping[str, Any], source: Path) -> str:
    """Hash of the training set of a LOG_DIR or DATASET_DIR, split as the card's if that is possible."""
    return _rebuilt(card, source)[1]


def _rebuilt(card: Mapping[str, Any], source: Path) -> tuple[TrainingSet, str]:
    """The first that has the card's hash, else the first."""
    if datasets.is_dataset(source):
        data = datasets.load_training_set(source)
        return data, data_sha256(data)
    first: tuple[TrainingSet, str] | None = None
    for config in (datasets.demo(), datasets.paper()):
        try:
            data = datasets.build_training_set(source, config)
        except ValueError as refused:
            if first is None:
                raise ConfigurationError(f"{source}: {refused}") from refused
            break  # too short for that split, so the card is not of it
        found = data, data_sha256(data)
        if found[1] == card["data"]["sha256"]:
            return found
        first = first or found
    assert first is not None
    return first

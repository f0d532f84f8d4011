"""The data that a model card is of, built again from where they came from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from features.errors import ConfigurationError
from fintrec import datasets, logs
from fintrec.datasets import TrainingSet
from fintrec.learning.fingerprint import data_hash

_LOG_FACTS: Final = ("made_by", "size", "seed", "num_users", "start_ms", "end_ms")


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
    data, found = _rebuilt(card, source)
    if found != card["data"]["hash"]:
        raise ConfigurationError(
            f"{source}: its training set has the hash {found}, the card is of "
            f"{card['data']['hash']} ({card['data']['kind']} {card['data']['name']!r}): "
            "expected the same data"
        )
    return data


def rebuilt_hash(card: Mapping[str, Any], source: Path) -> str:
    """Hash of the training set of a LOG_DIR or DATASET_DIR, split as the card's if that is possible."""
    return _rebuilt(card, source)[1]


def _rebuilt(card: Mapping[str, Any], source: Path) -> tuple[TrainingSet, str]:
    """The first that has the card's hash, else the first."""
    if datasets.is_dataset(source):
        data = datasets.load_training_set(source)
        return data, data_hash(data)
    first: tuple[TrainingSet, str] | None = None
    for config in (datasets.demo(), datasets.paper()):
        try:
            data = datasets.build_training_set(source, config)
        except ValueError as refused:
            if first is None:
                raise ConfigurationError(f"{source}: {refused}") from refused
            break  # too short for that split, so the card is not of it
        found = data, data_hash(data)
        if found[1] == card["data"]["hash"]:
            return found
        first = first or found
    assert first is not None
    return first

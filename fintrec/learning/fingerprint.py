"""What a training is made of, as plain JSON: all that its numbers depend on, each part by name."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from features.spec import registry_fingerprint
from features.vocabulary import Vocabulary
from fintrec.checkpoint import code_version
from fintrec.datasets import TrainingSet
from fintrec.learning.compute import CPU, Compute
from fintrec.models.config import Recipe


def made_of(
    data: TrainingSet,
    recipe: Recipe,
    minutes: float | None = None,
    compute: Compute = CPU,
    start: str | None = None,
) -> dict[str, Any]:
    """The parts of a training of this recipe on this data, by this code on this machine.

    `start` is the hash of the checkpoint whose weights it starts with.
    """
    settings = recipe.to_dict()
    return {
        **{f"recipe.{name}": value for name, value in settings["model"].items()},
        **{f"recipe.{name}": value for name, value in settings["training"].items()},
        "minutes": minutes,
        "start": start,
        **compute.to_dict(),
        "data": data_hash(data),
        "vocabulary": vocabulary_sha256(data.vocabulary)[:12],
        "feature registry": registry_fingerprint()[:12],
        "code": code_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }


def vocabulary_sha256(vocabulary: Vocabulary) -> str:
    """Hash of the names and items that a model has embeddings for."""
    text = json.dumps(vocabulary.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def data_hash(data: TrainingSet) -> str:
    """Of every row and label of a training set; its vocabulary apart, which is a part of its own."""
    digest = hashlib.blake2b(digest_size=6)
    for field in dataclasses.fields(data):
        if field.name != "vocabulary":
            _add(digest, field.name, getattr(data, field.name))
    return digest.hexdigest()


def _add(digest: "hashlib.blake2b", name: str, value: object) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _add(digest, f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        digest.update(f"{name} {len(value)}".encode())
        for one in value:
            _add(digest, "", one)
    elif isinstance(value, Mapping):
        digest.update(f"{name} {json.dumps(dict(value), sort_keys=True)}".encode())
    else:
        digest.update(f"{name} {value!r}".encode())

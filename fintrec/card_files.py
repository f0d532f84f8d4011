"""The files of a model card, as those read them who need no torch.

CHECKPOINT/card.json       what a card says
CHECKPOINT/MODEL_CARD.md   the same for people
CHECKPOINT/judged.npz      test losses summed by user
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.errors import ConfigurationError
from fintrec.manifest import file_sha256

FORMAT: Final = 2
CARD, TEXT, SUMS = "card.json", "MODEL_CARD.md", "judged.npz"
CHECKPOINT: Final = "checkpoint.json"  # as in fintrec/checkpoint.py, which imports torch
Sums = dict[str, npt.NDArray[Any]]


def read_card(directory: Path) -> dict[str, Any]:
    """The card of a checkpoint; ConfigurationError without one, or when it is of another.

    A card is of the checkpoint beside it if the hash of weights and metadata says so; the error
    names the file that differs.
    """
    path = directory / CARD
    if not path.is_file():
        raise ConfigurationError(
            f"{directory}: no {CARD}, expected a checkpoint that `fintrec train` wrote with its card"
        )
    card = parsed_card(path)
    found = checkpoint_sha256(directory)
    if card["hashes"]["checkpoint"] != found:
        raise ConfigurationError(
            f"{path}: is the card of checkpoint {card['hashes']['checkpoint'][:12]}, beside it lies "
            f"{found[:12]}: {_what_differs(directory, card)}; restore the file, or train again"
        )
    return card


def _what_differs(directory: Path, card: Mapping[str, Any]) -> str:
    weights = {f"{name}.safetensors": told for name, told in card["models"].items()}
    for name, told in weights.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        found = file_sha256(path)
        if found != told["weights_sha256"]:
            return f"{name} has SHA-256 {found[:12]}, the card {told['weights_sha256'][:12]}"
    for path in sorted(directory.glob("*.safetensors")):
        if path.name not in weights:
            return f"{path.name} is none of the card's models"
    return f"{CHECKPOINT} is not the one that was judged"


def parsed_card(path: Path) -> dict[str, Any]:
    """A card file, of whatever checkpoint; ConfigurationError when it is none of this format."""
    try:
        card: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as broken:
        raise ConfigurationError(f"{path}: not JSON ({broken})") from broken
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ConfigurationError(f"{path}: not a model card of format {FORMAT}: train again")
    return card


def read_sums(directory: Path) -> Sums | None:
    """Test losses by user, or None without them.

    Of each metric three columns: `<metric>_user` (hashes, ascending), `_sum` and `_rows`.
    """
    path = directory / SUMS
    if not path.is_file():
        return None
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def checkpoint_sha256(directory: Path) -> str:
    """One hash of a checkpoint's metadata and weights; ConfigurationError if it is none."""
    if not (directory / CHECKPOINT).is_file():
        raise ConfigurationError(f"{directory}: no {CHECKPOINT}, expected a checkpoint directory")
    digest = hashlib.sha256()
    for path in sorted([directory / CHECKPOINT, *directory.glob("*.safetensors")]):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()

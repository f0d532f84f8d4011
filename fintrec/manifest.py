"""What a served model version is: the manifest beside the artefacts in the model repository.

It lies inside the version folder of `encode`, because Triton takes every folder at the top of a
repository for a model. No torch here: the workers read it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from features.encoding import BUCKETS
from features.errors import ConfigurationError
from features.spec import registry_fingerprint
from features.vocabulary import Vocabulary
from fintrec.calibration import Calibration
from fintrec.popularity import Popularity

SERVED: Final = ("encode", "head", "pctr", "pcvr")
FILE: Final = "manifest.json"
_LATER: Final = ("checkpoint", "restores")  # manifests written before them are still read


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version N of the four served models. `sha256` maps repository paths to their hashes."""

    version: int
    registry: str
    vocabulary: Vocabulary
    content_types: tuple[str, ...]
    calibration: Calibration
    popularity: Popularity
    d_model: int
    state_width: int  # of the stored state h_ctr | h_cvr
    window: int
    buckets: tuple[int, ...]
    recipe: Mapping[str, Any]
    metrics: Mapping[str, Any]
    code: str
    torch: str
    sha256: Mapping[str, str]
    checkpoint: str = ""  # its hash, fintrec/card_files.py
    restores: int | None = None  # the version whose models these are, after a rollback

    @property
    def items(self) -> tuple[str, ...]:
        """The K items in output order."""
        return self.vocabulary.items

    def model_sha256(self, name: str) -> str:
        """Hash of one served model's TorchScript file."""
        return self.sha256[f"{name}/{self.version}/model.pt"]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {
            "vocabulary": self.vocabulary.to_dict(),
            "content_types": list(self.content_types),
            "calibration": self.calibration.to_dict(),
            "popularity": self.popularity.to_dict(),
            "buckets": list(self.buckets),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Manifest":
        """Inverse of `to_dict`; fields of later code are ignored."""
        data = {"state_width": 2 * data["d_model"]} | dict(data)  # manifests before it have none
        plain = {name: data[name] for name in cls.__slots__ if name not in _LATER or name in data}
        return cls(
            **plain
            | {
                "vocabulary": Vocabulary.from_dict(data["vocabulary"]),
                "content_types": tuple(data["content_types"]),
                "calibration": Calibration.from_dict(data["calibration"]),
                "popularity": Popularity.from_dict(data["popularity"]),
                "buckets": tuple(data["buckets"]),
            }
        )


def versions(repository: Path) -> list[int]:
    """Complete model versions of a repository, ascending."""
    found = (repository / SERVED[0]).glob(f"*/{FILE}")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdecimal())


def load_manifest(repository: Path, version: int | None = None) -> Manifest:
    """Manifest of a version, by default the newest.

    ConfigurationError if there is none, or if it was made for another feature registry.
    """
    known = versions(repository)
    chosen = version if version is not None else (known[-1] if known else 0)
    if chosen not in known:
        raise ConfigurationError(
            f"{repository}: no model version {version or ''}, found {known}: run `fintrec export`"
        )
    path = repository / SERVED[0] / str(chosen) / FILE
    manifest = Manifest.from_dict(json.loads(path.read_text()))
    if manifest.registry != registry_fingerprint():
        raise ConfigurationError(
            f"{path}: made for feature registry {manifest.registry[:12]}, "
            f"this code has {registry_fingerprint()[:12]}"
        )
    if manifest.buckets != BUCKETS:
        raise ConfigurationError(f"{path}: buckets {manifest.buckets}, this code has {BUCKETS}")
    return manifest


def verify(manifest: Manifest, repository: Path) -> None:
    """Compare every file with its hash; ConfigurationError names the first that differs."""
    for name, expected in manifest.sha256.items():
        path = repository / name
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing, its manifest lists it")
        if file_sha256(path) != expected:
            raise ConfigurationError(f"{path}: SHA-256 differs from its manifest's")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

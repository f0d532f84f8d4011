"""Which model versions are served, and what their manifests say; followed while requests flow."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import orjson

from features.errors import ConfigurationError, ModelUnavailable
from features.records import CONTENT_TYPES
from fintrec.calibration import Calibration
from fintrec.catalogue import ItemPriors
from fintrec.manifest import Manifest, load_manifest
from streams.metrics import MODEL_VERSION

logger = logging.getLogger(__name__)
POLL_S = 1.0


class Versions(Protocol):
    """Says which versions are ready (`streams/triton.py`)."""

    def ready_versions(self) -> list[int]:
        """Ascending; raises ModelUnavailable."""


@dataclass(frozen=True)
class ServedModel:
    """One model version as the workers use it."""

    version: int
    manifest: Manifest

    @cached_property
    def priors(self) -> ItemPriors:
        """Output columns, popularity and content-type priors."""
        items, popularity = self.manifest.items, self.manifest.popularity
        return ItemPriors(
            {item: column for column, item in enumerate(items)},
            dict(zip(items, zip(popularity.ctr, popularity.cvr, strict=True), strict=True)),
            {kind: popularity.prior(kind) for kind in CONTENT_TYPES},
        )

    @property
    def calibration(self) -> Calibration:
        """pCTR calibration of this version."""
        return self.manifest.calibration

    @cached_property
    def names(self) -> dict[str, str]:
        """`models` of a slate."""
        return {"pctr": str(self.version), "pcvr": str(self.version)}

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """What every audit record of this version says of it."""
        hashes = {name: self.manifest.model_sha256(name) for name in ("encode", "head")}
        return {
            "model_artefacts": orjson.Fragment(
                orjson.dumps({"version": self.version, "sha256": hashes})
            ),
            "calibration": orjson.Fragment(orjson.dumps(self.calibration.to_record())),
        }


class ModelVersions:
    """The versions that are ready on Triton, with their manifests out of the repository.

    `active` is the newest; `None` while there is none or Triton has not been reached yet. A poll
    that fails leaves what is known: a server that is down has not changed its versions.
    """

    def __init__(self, triton: Versions, repository: Path) -> None:
        self._triton = triton
        self._repository = repository
        self._task: asyncio.Task[None] | None = None
        self._refused: set[int] = set()
        self.served: Mapping[int, ServedModel] = {}
        self.on_change: Callable[[], None] = lambda: None

    @property
    def active(self) -> ServedModel | None:
        """The version that new hidden states are computed with."""
        return self.served[max(self.served)] if self.served else None

    def poll(self) -> None:
        """Ask Triton once. Raises ModelUnavailable."""
        ready = self._triton.ready_versions()
        served = {
            version: self.served.get(version) or self._load(version)
            for version in ready
            if version not in self._refused
        }
        found = {version: model for version, model in served.items() if model is not None}
        changed = set(found) != set(self.served)
        self.served = found
        if changed:
            logger.info("model versions ready=%s", sorted(found))
            MODEL_VERSION.set(max(found, default=0))
            self.on_change()

    def _load(self, version: int) -> ServedModel | None:
        try:
            manifest = load_manifest(self._repository, version)
        except (ConfigurationError, KeyError, TypeError, ValueError, OSError) as refused:
            # A manifest that cannot be read must not end the watch over the other versions.
            self._refused.add(version)
            logger.error("model version not used version=%d reason=%s", version, refused)
            return None
        return ServedModel(version, manifest)

    async def start(self) -> None:
        """Poll once, then follow in the background; a Triton that is down is no error here."""
        try:
            await asyncio.to_thread(self.poll)
        except ModelUnavailable as silent:
            logger.warning("no model versions yet reason=%s", silent)
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await asyncio.to_thread(self.poll)
            except ModelUnavailable as silent:
                logger.debug("model versions not polled reason=%s", silent)

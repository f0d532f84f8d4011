"""The state of a running training on disk, so that one that was killed goes on exactly.

    RUN/state-<task>.pt    weights, best weights, optimiser, random state, place in the plan

A state is written whole or not at all (written beside, synced, renamed), at every epoch's end and
every `save_seconds`. It says what the training is made of: recipe, data, vocabulary, feature registry,
code, processes, threads. A training made of anything else does not go on from it, since its curve
would be neither the one nor the other.
"""

import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from features.errors import ConfigurationError

FORMAT: Final = 1
State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A directory that trainings keep their states and curves in.

    `made_of` is plain JSON by name (`fintrec/learning/fingerprint.py`). `save_steps`, where it is
    set, saves by steps rather than by seconds.
    """

    directory: Path
    made_of: Mapping[str, Any]
    save_seconds: float = 60.0
    save_steps: int | None = None

    def path(self, task: str) -> Path:
        """Where a task's state lies."""
        return self.directory / f"state-{task}.pt"

    def read(self, task: str) -> State | None:
        """The state there is; ConfigurationError when it is of a training made of something else."""
        path = self.path(task)
        if not path.is_file():
            return None
        if not zipfile.is_zipfile(path):
            raise ConfigurationError(f"{path} is no readable state, expected one: delete it")
        state: State = torch.load(path, weights_only=True, map_location="cpu")
        if state.get("format") != FORMAT:
            raise ConfigurationError(
                f"{path}: format is {state.get('format')!r}, expected {FORMAT}: delete it"
            )
        found, expected = state["made_of"], dict(self.made_of)
        names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
        if names:
            told = "; ".join(
                f"{name} is {found.get(name)!r}, expected {expected.get(name)!r}" for name in names
            )
            raise ConfigurationError(
                f"{path} is the state of another training: {told}: take another run directory, or "
                "delete this one"
            )
        return state

    def write(self, task: str, state: State) -> None:
        """Replace the state on disk."""
        path = self.path(task)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, "made_of": dict(self.made_of), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def finish(self, tasks: Iterable[str]) -> None:
        """Delete the tasks' states: what they led to is kept elsewhere. The curves stay."""
        for task in tasks:
            self.path(task).unlink(missing_ok=True)

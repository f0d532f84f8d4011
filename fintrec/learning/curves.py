"""The curve of a training: one JSON line a step and an evaluation, and what is drawn of them.

    RUN/curve-<task>.jsonl    as it goes; cut back to the state that a resumed run starts from
    RUN/curve-<task>.png      anew after each epoch
    RUN/tensorboard/<task>/   the same numbers as scalars: tensorboard --logdir RUN/tensorboard

A line: step, epoch, share, loss, validation (null but after an evaluation), learning_rate, tokens,
seconds, as in `fintrec/learning/progress.py`.
"""

import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.errors import ConfigurationError
from fintrec.learning.progress import Progress

_SMOOTHED_OVER: Final = 50  # parts of a curve that one point of the smoothed line averages over
_COLOURS: Final = ("#b8c4d6", "#1f5fa8", "#c8502c")


class Curve:
    """The lines and scalars of one task; `kept` bytes of an earlier run's lines stay.

    ConfigurationError when the file is shorter than that.
    """

    def __init__(self, directory: Path, task: str, kept: int = 0, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"curve-{task}.jsonl"
        self._task = task
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < kept:
            raise ConfigurationError(
                f"{self.path} has {size} bytes, its state was written after {kept}: "
                "take another run directory, or delete this one"
            )
        self._file = self.path.open("ab")
        self._file.truncate(kept)
        scalars = directory / "tensorboard" / task
        if not step:
            shutil.rmtree(scalars, ignore_errors=True)
        self._scalars = SummaryWriter(scalars, purge_step=step + 1 if step else None, flush_secs=10)

    def append(self, progress: Progress) -> None:
        """One line, seen by a reader at once."""
        row = {name: value for name, value in asdict(progress).items() if name != "model"}
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        told = {"loss": progress.loss, "learning_rate": progress.learning_rate}
        if progress.validation is not None:
            told = {"validation": progress.validation}
        for name, value in told.items():
            self._scalars.add_scalar(name, value, progress.step)

    def position(self) -> int:
        """Bytes of the lines so far, which are safe on disk afterwards."""
        os.fsync(self._file.fileno())
        self._scalars.flush()
        return self._file.tell()

    def draw(self) -> None:
        """Write the picture beside the lines."""
        draw(self.path.with_suffix(".png"), {self._task: read_curve(self.path)})

    def close(self) -> None:
        """Write what is left."""
        self._file.close()
        self._scalars.close()


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a curve; one that was cut in its middle is left out."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def draw(path: Path, curves: dict[str, list[dict[str, Any]]]) -> None:
    """Training and validation loss over steps, one picture a task, side by side (PNG)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(curves), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (task, rows) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), place + 1)
        steps = [row for row in rows if row["validation"] is None]
        evaluations = [row for row in rows if row["validation"] is not None]
        x = np.array([row["step"] for row in steps], float)
        loss = np.array([row["loss"] for row in steps], float)
        size = max(1, math.ceil(len(steps) / _SMOOTHED_OVER))
        each, mean, best = _COLOURS
        axes.plot(x, loss, color=each, linewidth=0.6, label="loss of a step")
        if size > 1:
            label = f"mean of {size} steps"
            axes.plot(_means(x, size), _means(loss, size), color=mean, label=label)
        axes.plot(
            [row["step"] for row in evaluations],
            [row["validation"] for row in evaluations],
            "o-",
            color=best,
            label="validation, after an epoch",
        )
        axes.set(title=task, xlabel="step", ylabel="loss")
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _means(values: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Means of `size` values in a row; the last of what is left."""
    starts = np.arange(0, len(values), size)
    if not len(values):
        return values
    return np.add.reduceat(values, starts) / np.diff([*starts.tolist(), len(values)])

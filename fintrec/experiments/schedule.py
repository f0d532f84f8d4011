"""Runs the cells that are not there yet, each in a process of its own, some at a time.

A cell's file is written whole or not at all, so a run that was killed goes on by being started
again. A cell that fails leaves its output in a log file and ends the run once the others are done.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from features.errors import FintrecError
from fintrec.experiments.rows import Cell
from fintrec.experiments.setting import CELLS, cell_path

POLL_S: Final = 0.2
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class CellFailed(FintrecError):
    """A cell's process ended with an error; the message names its log."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Where a run stands; `seconds_left` is None before anything is known."""

    done: int
    total: int
    running: tuple[str, ...]
    seconds_left: float | None


@dataclass(slots=True)
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    started: float


def missing(out: Path, cells: list[Cell]) -> list[Cell]:
    """Cells without a result, in order."""
    return [cell for cell in cells if not cell_path(out, cell).exists()]


def run(
    out: Path,
    table: str,
    cells: list[Cell],
    estimate: Callable[[Cell], float],
    jobs: int,
    report: Callable[[Tick], None],
) -> None:
    """Run the missing cells, `jobs` at a time; CellFailed names the first that ended badly.

    Ended in any way, no process of its own is left behind.
    """
    waiting = missing(out, cells)
    running: list[_Running] = []
    failed: list[Cell] = []
    total = len(cells)
    speed = _Speed(estimate)
    (out / CELLS).mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < jobs and not failed:
                cell = waiting.pop(0)
                running.append(_Running(cell, _started(out, table, cell), time.monotonic()))
            if failed and not running:
                break
            time.sleep(POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                speed.learn(one.cell, time.monotonic() - one.started)
                if one.process.returncode or not cell_path(out, one.cell).exists():
                    failed.append(one.cell)
            names = tuple(one.cell.name for one in running)
            left = speed.left([one.cell for one in running] + waiting, jobs)
            report(Tick(total - len(waiting) - len(running) - len(failed), total, names, left))
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()
    if failed:
        raise CellFailed(
            f"{failed[0].name}: its process ended with an error, see {log_path(out, failed[0])}"
        )


class _Speed:
    """How this machine compares with the estimates, from the cells that are done."""

    def __init__(self, estimate: Callable[[Cell], float]) -> None:
        self._estimate = estimate
        self._took, self._expected = 0.0, 0.0

    def learn(self, cell: Cell, seconds: float) -> None:
        """A cell took so long."""
        self._took += seconds
        self._expected += self._estimate(cell)

    def left(self, cells: list[Cell], jobs: int) -> float:
        """Seconds until these are done; running ones count whole."""
        ratio = self._took / self._expected if self._expected else 1.0
        return sum(self._estimate(cell) for cell in cells) * ratio / jobs


def log_path(out: Path, cell: Cell) -> Path:
    """Where a cell's process writes what it has to say."""
    return out / CELLS / f"{cell.name}.log"


def _started(out: Path, table: str, cell: Cell) -> subprocess.Popen[bytes]:
    environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
    with log_path(out, cell).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fintrec.experiments.cell", str(out), table, cell.name],
            stdout=log,
            stderr=log,
            env=environment,
        )

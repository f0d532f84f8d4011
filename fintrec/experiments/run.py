"""From nothing to a table's cells: simulate, build the data set, run what is missing.

Every step leaves its result in the experiment's folder and is skipped when it is there, so a run
that was killed is gone on with by the same command.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from features.errors import FintrecError
from fintrec import datasets
from fintrec.experiments import schedule
from fintrec.experiments.rows import TABLES, Cell, cells
from fintrec.experiments.schedule import Tick
from fintrec.experiments.setting import DATASET, LOG, Setting, claim

_PAGES_A_SECOND: Final = 420.0  # of training a transformer of the recipe at window 120, one thread
_LOAD_S: Final = 12.0
_CLICKS_S: Final = 150.0
_WIDTH: Final = 64  # of the recipe's one block, a tenth of whose time are products of its width
_PAGES: Final = 400_000  # of a bank of size `small`


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do: the cells, those still missing, and how long these should take."""

    cells: list[Cell]
    missing: list[Cell]
    seconds: float


def plan(out: Path, table: str, setting: Setting, jobs: int) -> Plan:
    """The plan of a run into `out`; the estimate is for as many free cores as jobs."""
    every = cells(TABLES[table], setting.seeds)
    missing = schedule.missing(out, every)
    seconds = sum(estimated_seconds(cell, setting) for cell in missing) / jobs
    if not datasets.is_dataset(out / DATASET):
        seconds += _bank_seconds(setting)
    return Plan(every, missing, seconds)


def estimated_seconds(cell: Cell, setting: Setting) -> float:
    """What a cell takes on one free core of the machine that docs/experiments.md names."""
    kind, row = cell.row.kind, cell.row
    share = _bank_seconds(setting) / 60
    if kind == "rates":
        return _LOAD_S * share
    if kind == "neighbours":
        return 60.0 * share
    if kind == "floor":
        return 90.0 * share
    if kind == "forest":
        return _LOAD_S * share + setting.forest.num_trees * setting.forest.num_examples / 250_000
    if kind == "boosting":
        return _LOAD_S * share + setting.boosting.num_trees * setting.boosting.num_examples / 2e6
    recipe = setting.recipe_for(row.changes, cell.seed)
    model, epochs = recipe.model, recipe.training.epochs
    size = 0.9 + 0.1 * model.num_layers * (model.d_model / _WIDTH) ** 2
    clicks = _CLICKS_S * share * epochs * size
    num_pages = min(setting.train_pages_for(row.changes), int(_PAGES * share))
    pages = num_pages / _PAGES_A_SECOND * (0.1 + 0.9 * model.window / 120) * epochs * size
    pages += _LOAD_S * share
    if row.tasks == ("joint",):
        return clicks + pages
    return clicks if row.task == "pctr" else pages


def _bank_seconds(setting: Setting) -> float:
    return {"tiny": 4.0, "demo": 10.0}.get(setting.size, 60.0)


def run(
    out: Path,
    table: str,
    setting: Setting,
    jobs: int,
    stage: Callable[[str], None],
    report: Callable[[Tick], None],
) -> None:
    """Make all that is missing in `out`; raises where a step or a cell fails."""
    claim(out, setting)
    if not datasets.is_dataset(out / DATASET):
        _bank(out, setting, stage)
    stage("cells")
    every = cells(TABLES[table], setting.seeds)
    schedule.run(out, table, every, lambda c: estimated_seconds(c, setting), jobs, report)


def _bank(out: Path, setting: Setting, stage: Callable[[str], None]) -> None:
    """Simulate the bank and build its data set; both folders appear whole."""
    if not (out / LOG / "manifest.json").exists():
        stage("simulated bank")
        _simulate(out / LOG, setting)
    stage("data set")
    datasets.build_dataset(out / LOG, out / DATASET, setting.dataset)


def _simulate(log_dir: Path, setting: Setting) -> None:
    """Run the verb in a process: what plays the bank stays out of what trains on it."""
    end = datetime.fromtimestamp(setting.end_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    words = [
        *("--size", setting.size, "--seed", str(setting.bank_seed), "--end", end),
        *("--out", str(log_dir), "--json"),
        *(("--users", str(setting.users)) if setting.users is not None else ()),
    ]
    program = "from fintrec.commands.simulate import simulate; simulate()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FintrecError(f"{log_dir}: the bank was not simulated: {done.stderr.strip()[-500:]}")

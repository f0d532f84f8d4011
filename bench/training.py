"""Speed of training and scoring: padded against bucketed batches, and steps against bare products.

    python -m bench.training --real-data ../shared/data --profile bench/results/profile
    python -m bench.training --device cuda --recipe paper --profile bench/results/profile
    python -m bench.training --no-run --markdown docs/performance.md

A bank is simulated and made a training set; `--dataset` takes one that is there. `--real-data` adds
BPIC 2012 through its adapter and Amazon Beauty's item sequences, whose histories are short. How it
measures: `bench/training_measure.py`. Every case is a file of its own in `--out`, so a run that was
cut off goes on, and the section is made of all that are there. The last line is JSON.
"""

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import click
import torch
from rich.console import Console

from bench.pages import markdown_option
from bench.training_measure import (
    Clock,
    Row,
    clock_of,
    encoded_ahead,
    large_product,
    padding,
    scores_against_products,
    steps_against_products,
)
from bench.training_profile import profiled
from bench.training_report import section
from bench.training_work import (
    Scorer,
    Trainer,
    Work,
    scoring_works,
    sequence_work,
    training_works,
)
from fintrec.adapters import bpic2012
from fintrec.bank.simulate import SIZES, simulate
from fintrec.datasets import DatasetConfig, TrainingSet, build_training_set, load_training_set
from fintrec.learning.compute import Compute, Precision, loader_workers_of
from fintrec.models.config import RECIPES, Recipe
from fintrec.public.sequence_training import DecoderRecipe
from fintrec.result_files import ResultFolder, read_cells, typed_command, write_section

END_MS: Final = 1_795_564_800_000  # 2026-11-25
PRECISIONS: Final = ("fp32", "bf16")
_BANK: Final = "simulated bank"
_BPIC: Final = "BPIC 2012"
_BEAUTY: Final = "Amazon Beauty"
_BANK_CONFIG: Final = DatasetConfig(validation_days=4, test_days=4, label_only_days=4, label_days=4)
_PROFILED_STEPS: Final = 5
_WIDE: Final = 256  # a model of this width is profiled for one step on a CPU
OUT: Final = "docs/results/training_speed"
console = Console(stderr=True)


@dataclass(frozen=True)
class Source:
    """The data sets, each made when it is asked for first."""

    bank_size: str
    dataset: Path | None
    real_data: Path | None

    @cached_property
    def bank(self) -> TrainingSet:
        """The simulated bank's training set."""
        if self.dataset is not None:
            return load_training_set(self.dataset)
        with tempfile.TemporaryDirectory(prefix="fintrec-bench-") as name:
            simulate(SIZES[self.bank_size], 0, END_MS, Path(name) / "log")
            return build_training_set(Path(name) / "log", _BANK_CONFIG)

    @cached_property
    def bpic(self) -> TrainingSet:
        """BPIC 2012's training set."""
        assert self.real_data is not None
        with tempfile.TemporaryDirectory(prefix="fintrec-bench-") as name:
            bpic2012.import_log(self.real_data / "bpic2012", Path(name) / "log")
            return build_training_set(Path(name) / "log", DatasetConfig())

    def works(self, recipe: Recipe) -> dict[str, list[Work]]:
        """What is trained and what is scored, padded and bucketed."""
        sets = {_BANK: self.bank} | ({} if self.real_data is None else {_BPIC: self.bpic})
        found: dict[str, list[Work]] = {"training": [], "scoring": []}
        for name, data in sets.items():
            found["training"] += training_works(name, data, recipe)
            found["scoring"] += scoring_works(name, data, recipe)
        if self.real_data is not None:
            path = self.real_data / "s3rec_amazon" / "Beauty.txt"
            found["training"].append(
                sequence_work(_BEAUTY, path, DecoderRecipe(), recipe.training.seed)
            )
        return found


@dataclass(frozen=True, slots=True)
class Case:
    """What a cell measures on, and how much of it."""

    device: str
    recipe: str
    precision: Precision
    threads: int
    batches: int
    steps: int
    repeats: int
    batch_size: int | None = None  # of a training step, where it is not the recipe's

    def name(self, kind: str) -> str:
        """The cell's name."""
        size = "" if self.batch_size is None else f"-batch{self.batch_size}"
        return f"{kind}-{self.device}-{self.recipe}-{self.precision}-{self.threads}{size}"

    def to_dict(self) -> Row:
        """JSON form."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def chosen(self) -> Recipe:
        """The recipe with its batch size."""
        found = RECIPES[self.recipe]()
        if self.batch_size is None:
            return found
        return found.with_settings({"batch_size": str(self.batch_size)})

    @property
    def compute(self) -> Compute:
        """Device and precision."""
        return Compute(torch.device(self.device), self.precision)

    @property
    def clock(self) -> Clock:
        """What it is timed by."""
        return clock_of(self.compute.device, self.threads)[1]

    def trainer(self, work: Work) -> Trainer:
        """A trainer of a work."""
        return Trainer(work, self.chosen.training, self.compute)


def padding_row(case: Case, what: str, work: Work) -> Row:
    """Both paddings of a work."""
    step = _trains(case, work) if what == "training" else _scores(case, work)
    return {
        "what": what,
        **padding(work, step, case.compute, case.clock, case.batches, case.repeats),
    }


def _trains(case: Case, work: Work) -> Any:
    sides = {side: case.trainer(work) for side in ("padded", "bucketed")}

    def step(side: str, batch: Any) -> None:
        for _ in sides[side].stages(batch):
            pass

    return step


def _scores(case: Case, work: Work) -> Any:
    model = work.module.to(case.compute.device).eval()

    @torch.inference_mode()
    def step(side: str, batch: Any) -> None:
        with case.compute.autocast():
            model(batch)

    return step


def product_rows(case: Case, source: Source, kind: str) -> dict[str, Any]:
    """Steps or scores of both models beside their bare products, and the peak of this device."""
    recipe, num_items = case.chosen, len(source.bank.items)
    peak = large_product(case.compute, case.clock, case.repeats)
    much = (case.clock, case.steps, case.repeats)
    if kind == "steps":
        rows = [
            steps_against_products(work, case.trainer(work), recipe, num_items, *much)
            for work in training_works(_BANK, source.bank, recipe)
        ]
    else:
        rows = [
            scores_against_products(work, recipe, num_items, case.compute, *much)
            for work in scoring_works(_BANK, source.bank, recipe)
        ]
    return {"rows": rows, "peak_gflop_per_s": peak}


def profiles(case: Case, source: Source, folder: Path) -> Row:
    """The operators of a step of both models."""
    recipe = case.chosen
    slow = recipe.model.d_model >= _WIDE and case.device == "cpu"
    num_steps = 1 if slow else _PROFILED_STEPS
    return {
        "models": [
            profiled(
                work, case.trainer(work), num_steps, folder, f"{case.name('profile')}-{work.model}"
            )
            for work in training_works(_BANK, source.bank, recipe)
        ]
    }


def score_profiles(case: Case, source: Source, folder: Path) -> Row:
    """The operators of both models scoring a batch."""
    return {
        "what": "scoring",
        "models": [
            profiled(
                work,
                Scorer(work, case.compute),
                _PROFILED_STEPS,
                folder,
                f"{case.name('profile_scores')}-{work.model}",
            )
            for work in scoring_works(_BANK, source.bank, case.chosen)
        ],
    }


def loader_rows(case: Case, source: Source, num_workers: int) -> dict[str, Any]:
    """Whole steps of both models, their batches encoded in between or ahead."""
    return {
        "rows": [
            encoded_ahead(
                work, case.trainer(work), num_workers, case.clock, 4 * case.batches, case.repeats
            )
            for work in training_works(_BANK, source.bank, case.chosen)
        ]
    }


def run(cases: Iterable[Case], source: Source, folder: ResultFolder, profile: Path | None) -> None:
    """Measure what the folder lacks. The first case also measures the paddings."""
    for number, case in enumerate(cases):
        torch.set_num_threads(case.threads)
        where = {"bank": source.bank_size, "device_name": device_name(case.device)}
        settings = {**case.to_dict(), **where}

        def cell(name: str, compute: Callable[[], Row], settings: Row = settings) -> None:
            found = folder.cell(name, settings, compute)
            console.print(f"{name}: {found['result']}")

        works_by_use = source.works(case.chosen) if not number else {}
        if case.batch_size is not None:
            works_by_use.pop("scoring", None)  # which has a batch size of its own
        for what, works in works_by_use.items():
            for work in works:
                name = f"{case.name('padding')}-{what}-{work.data}-{work.model}".replace(" ", "_")
                cell(name, partial(padding_row, case, what, work))
        for kind in ("steps", "scores") if case.batch_size is None else ("steps",):
            cell(case.name(kind), partial(product_rows, case, source, kind))
        if case.device == "cuda":
            workers = loader_workers_of(None, case.compute.device)
            cell(case.name("loader"), partial(loader_rows, case, source, workers))
        if profile is not None and case.threads == 1:
            cell(case.name("profile"), partial(profiles, case, source, profile))
            if case.batch_size is None:
                cell(case.name("profile_scores"), partial(score_profiles, case, source, profile))


def device_name(device: str) -> str:
    """What the driver calls a GPU; `CPU` for none."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--bank-size", default="demo", show_default=True, type=click.Choice(list(SIZES)))
@click.option("--dataset", type=FOLDER, help="A built training set instead of a simulated bank.")
@click.option("--real-data", type=FOLDER, help="Folder of bpic2012/ and s3rec_amazon/.")
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(list(RECIPES)))
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS))
@click.option("--threads", default="1", show_default=True, help="Of a CPU; several by commas.")
@click.option("--batch-size", "sizes", multiple=True, type=click.IntRange(1))
@click.option("--batches", default=40, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(3))
@click.option("--profile", type=click.Path(file_okay=False, path_type=Path))
@click.option("--out", default=OUT, type=click.Path(file_okay=False, path_type=Path))
@click.option("--run/--no-run", "runs", default=True, help="Measure, or only write the section.")
@markdown_option("training")
def main(
    bank_size: str,
    dataset: Path | None,
    real_data: Path | None,
    recipes: tuple[str, ...],
    device: str,
    precisions: tuple[Precision, ...],
    threads: str,
    sizes: tuple[int, ...],
    batches: int,
    steps: int,
    repeats: int,
    profile: Path | None,
    out: Path,
    runs: bool,
    markdown: Path | None,
) -> None:
    """Measure training and scoring, and write the section of all that was measured."""
    if runs and device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch finds no CUDA device, expected one")
    on_gpu = device == "cuda"
    cases = [
        Case(device, recipe, precision, int(number), batches, steps, repeats, size)
        for size in sizes or (None,)
        for number in threads.split(",")
        for recipe in recipes or (("paper",) if on_gpu else ("tiny_cpu", "table3", "paper"))
        for precision in precisions or (("bf16",) if on_gpu else ("fp32",))
    ]
    if runs:
        source = Source(bank_size, dataset, real_data)
        run(cases, source, ResultFolder(out, typed_command("python -m bench.training")), profile)
    cells = read_cells(out)
    if not cells:
        raise click.UsageError(f"{out} has no finished cell: run without --no-run first")
    if markdown is not None:
        write_section(markdown, "training", section(cells))
    print(json.dumps({"bench": "training", "cells": cells}))


if __name__ == "__main__":
    main()

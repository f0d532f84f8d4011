"""One cell of a table, in a process of its own: train, predict the judged pages, write one file.

python -m fintrec.experiments.cell OUT TABLE CELL

The predictions are written first, the JSON file last: a cell is finished when its JSON file is
there. Killed before, it is run again from the start.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fintrec.datasets import TrainingSet, converted, label_known
from fintrec.experiments import bank_data, judge
from fintrec.experiments.bank_data import Judged
from fintrec.experiments.rows import (
    TABLES,
    Cell,
    Period,
    Task,
    calibrated,
    cell_named,
    clicks_of,
)
from fintrec.experiments.setting import (
    CELLS,
    DATASET,
    LOG,
    Setting,
    predictions_path,
    read_setting,
)
from fintrec.result_files import ResultFolder

if TYPE_CHECKING:
    from fintrec.learning.progress import Progress, Report

_TELL_EVERY_S: Final = 60.0
Found = tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]


def run_cell(out: Path, table: str, cell: Cell) -> dict[str, Any]:
    """Run a cell and write its files; returns what its JSON file says."""
    setting = read_setting(out)
    folder = ResultFolder(
        out / CELLS, f"python -m fintrec.experiments.cell OUT {table} {cell.name}"
    )
    settings = {
        "row": cell.row.name,
        "seed": cell.seed,
        "task": cell.row.task,
        "experiment": setting.to_dict(),
        "changes": dict(cell.row.changes),
    }
    return folder.cell(cell.name, settings, lambda: _computed(out, setting, cell))


def _computed(out: Path, setting: Setting, cell: Cell) -> dict[str, Any]:
    data = bank_data.load(out)
    pages = bank_data.judged(data, setting)
    by_name, notes = predicted(out, setting, data, pages, cell)
    found = {}
    (out / CELLS).mkdir(exist_ok=True)
    for name, probability_NK in by_name.items():
        task: Task = "pctr" if name.startswith("clicks") else "pcvr"
        np.save(predictions_path(out, name), probability_NK.astype(np.float32))
        scopes = judge.scopes(pages, task, data.content_types)
        found[name] = judge.point_metrics(probability_NK, scopes)
    return {"metrics": found, "cpu_seconds": round(time.process_time(), 1), **notes}


def predicted(
    out: Path,
    setting: Setting,
    data: TrainingSet,
    pages: Judged,
    cell: Cell,
    period: Period = "test",
) -> Found:
    """Predictions (N, K) of pages of a period by name, the cell's own and of rows beside it, and
    what else is worth keeping.
    """
    kind = cell.row.kind
    if kind == "floor":
        from fintrec.experiments import floor

        return floor.predictions(out / LOG, data, pages), {}
    if kind == "rates":
        return {cell.name: _rates(data, pages, cell)}, {}
    if kind in ("forest", "boosting"):
        return _trees(out, setting, data, pages, cell, period)
    if kind == "neighbours":
        return _neighbours(setting, data, pages, cell, period)
    if kind == "model":
        return _model(setting, data, pages, cell, period)
    raise ValueError(f"{cell.row.name}: a row of kind {kind!r} has no cells")


def _rates(data: TrainingSet, pages: Judged, cell: Cell) -> npt.NDArray[Any]:
    from fintrec.baselines import popularity

    fit = popularity.clicks if cell.row.task == "pctr" else popularity.conversions
    return fit(data).predict(pages.pages)


def _trees(
    out: Path, setting: Setting, data: TrainingSet, pages: Judged, cell: Cell, period: Period
) -> Found:
    from fintrec.baselines import examples, trees
    from fintrec.baselines.design import Design, Pages, pages_of

    read = examples.read(out / DATASET, data)
    design = Design(data)

    def of(name: str) -> Pages:
        found = pages_of(getattr(data, name), read.features[name])
        has_items = cell.row.changes.get("item_history", False)
        return found.with_item_history(data, getattr(data, name)) if has_items else found

    train = of("train")
    config = setting.forest if cell.row.kind == "forest" else setting.boosting
    chosen = read.examples["train"].some(config.num_examples, np.random.default_rng(cell.seed))
    classifier = config.classifier(design.item_column(train), cell.seed)
    places = bank_data.held_out(data, setting)
    validation = trees.HeldOut(
        of("validation").taken(places),
        converted(data, data.validation, places),
        label_known(data, data.validation)[places],
    )
    model = trees.fit(classifier, design, train, chosen, validation)
    judged = of(period).taken(pages.pages)
    notes = {
        "settings": config.to_dict(),
        "examples": len(chosen),
        "positives": int(chosen.converted.sum()),
        "num_columns": len(design.names(train)),
    }
    return {cell.name: model.predict(judged)}, notes


def _neighbours(
    setting: Setting, data: TrainingSet, pages: Judged, cell: Cell, period: Period
) -> Found:
    from fintrec.baselines import neighbours

    model = neighbours.fit(data, bank_data.held_out(data, setting))
    notes = {"settings": model.config.to_dict(), "num_events": len(model.events_V)}
    return {cell.name: model.predict(data, getattr(data, period), pages.pages)}, notes


def _model(setting: Setting, data: TrainingSet, pages: Judged, cell: Cell, period: Period) -> Found:
    import torch

    from fintrec.baselines import per_item
    from fintrec.calibration import conversion_probabilities
    from fintrec.calibration_choice import choose
    from fintrec.evaluation import impressions, score
    from fintrec.learning.compute import CPU, auto
    from fintrec.training import train_models

    torch.set_num_threads(1)
    recipe = setting.recipe_for(cell.row.changes, cell.seed)
    tasks = cell.row.tasks or (cell.row.task,)
    thinned = bank_data.thinned(data, setting.train_pages_for(cell.row.changes))
    whole = thinned if tasks == ("pcvr",) else data  # clicks are few: all of them are learned from
    compute = auto() if cell.row.on_gpu else CPU
    trained = train_models(
        whole, recipe, tasks, report=_lines(), compute=compute, pages=thinned.train
    )
    pctr, pcvr = trained.pctr, trained.pcvr
    held = score(pctr, pcvr, data, data.validation, bank_data.held_out(data, setting))
    scored = score(pctr, pcvr, data, getattr(data, period), pages.pages)
    order = np.argsort(scored.pages)
    found = {}
    if pctr is not None:
        name = cell.name if cell.row.task == "pctr" else clicks_of(cell.name)
        shown = impressions(held, data.validation)
        calibration = choose(shown, len(data.items), cell.seed, link=held.link)
        found[name] = calibration.apply(scored.pctr_logits)[order]
    if pcvr is not None:
        found[cell.name] = conversion_probabilities(scored.pcvr_logits)[order]
        maps = per_item.fit(held.pcvr_logits.astype(np.float64), held.converted, held.known)
        mapped = maps.apply(scored.pcvr_logits.astype(np.float64))[order]
        found[calibrated(cell.name)] = mapped
    notes = {
        "settings": recipe.to_dict(),
        "tasks": list(tasks),
        "compute": compute.to_dict(),
        "train_pages": len(whole.train if pcvr is None else thinned.train),
        "training": trained.history,
    }
    return found, notes


def _lines() -> "Report":
    """A line of progress a minute, for the cell's log."""
    told = 0.0

    def report(progress: "Progress") -> None:
        nonlocal told
        if progress.validation is None and progress.seconds < told + _TELL_EVERY_S:
            return
        told = progress.seconds
        judged = "" if progress.validation is None else f", validation {progress.validation:.5f}"
        sys.stderr.write(
            f"{progress.model}: epoch {progress.epoch}, step {progress.step:,}, "
            f"{progress.share:.0%}, loss {progress.loss:.5f}{judged}, {progress.seconds:,.0f} s\n"
        )
        sys.stderr.flush()

    return report


def main() -> None:
    """Run the cell that the command line names."""
    out, table, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    setting = read_setting(out)
    run_cell(out, table, cell_named(TABLES[table], name, setting.seeds))


if __name__ == "__main__":
    main()

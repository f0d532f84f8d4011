"""Trials: how a table's recipe was chosen, on validation pages alone.

python -m fintrec.experiments.trials OUT FILE KIND [--pages N] [--seed S] [key=value ...]

OUT is the folder of an experiment whose data set is built. A trial trains one row, judges it on
validation pages that calibrate nothing, and appends one line to FILE as soon as it is done. No test
page is read. KIND is a kind of row; `clicks` and `clicks_rates` are those of pCTR. For trees a
key is a field of their configuration, for a model one of its recipe.
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fintrec.datasets import TrainingSet
from fintrec.experiments import bank_data, judge
from fintrec.experiments.cell import predicted
from fintrec.experiments.rows import Cell, Row
from fintrec.experiments.setting import Setting, table3
from fintrec.models.config import ModelConfig, TrainingConfig
from fintrec.result_files import markdown_table

JUDGED_PAGES: Final = 8_192
_ROWS: Final = {
    "rates": Row("rates", "base rates", "rates"),
    "neighbours": Row("neighbours", "recency-weighted item-kNN", "neighbours"),
    "forest": Row("forest", "forest", "forest"),
    "boosting": Row("boosting", "boosting", "boosting"),
    "model": Row("model", "FinTRec", "model"),
    "clicks_rates": Row("clicks_rates", "base rates", "rates", "pctr"),
    "clicks": Row("clicks", "FinTRec", "model", "pctr"),
}
_UNTOLD: Final = ("seed", "validation_rows", "evaluation_rows")
_SHOWN: Final = {
    "log loss": "log_loss_all",
    "marketing items": "log_loss_marketing",
    "items shown": "log_loss_shown",
    "AUROC": "auroc_all",
}


def run(
    out: Path,
    kind: str,
    changes: Mapping[str, str],
    seed: int,
    pages: int | None = None,
    setting: Setting | None = None,
    judged_pages: int = JUDGED_PAGES,
    data: TrainingSet | None = None,
) -> dict[str, Any]:
    """One trial: what was tried, what it cost, and its metrics by name of the predictions."""
    wanted = _setting(kind, changes, pages, setting or table3())
    row = _ROWS[kind]
    if row.kind == "model":
        row = replace(row, changes=dict(changes))
    data = bank_data.load(out) if data is None else data
    judged = bank_data.tried(data, wanted, judged_pages)
    begin = time.process_time()
    by_name, notes = predicted(out, wanted, data, judged, Cell(row, seed), "validation")
    seconds = time.process_time() - begin
    scopes = judge.scopes(judged, row.task, data.content_types)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "kind": kind,
        "changes": dict(changes),
        "seed": seed,
        "train_pages": notes.get("train_pages"),
        "judged_pages": len(judged.pages),
        "cpu_seconds": round(seconds, 1),
        "metrics": {
            "calibrated" if "calibrated" in name else "own": judge.point_metrics(one, scopes)
            for name, one in by_name.items()
        },
        "settings": notes.get("settings", {}),
        "training": notes.get("training", {}),
    }


def _setting(kind: str, changes: Mapping[str, str], pages: int | None, base: Setting) -> Setting:
    found = base if pages is None else replace(base, train_pages=pages)
    if kind not in ("forest", "boosting"):
        return found
    config = getattr(found, kind)
    typed = {name: type(getattr(config, name))(text) for name, text in changes.items()}
    return replace(found, **{kind: replace(config, **typed)})


def append(path: Path, trial: Mapping[str, Any]) -> None:
    """Add a line to a file of trials."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lines:
        lines.write(json.dumps(trial, allow_nan=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The trials of a file, in order."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def markdown(trials: Iterable[Mapping[str, Any]]) -> str:
    """The table of trials for a document, in the order in which they were made."""
    parts = []
    found = list(trials)
    for title, kinds in (
        ("conversions", ("rates", "neighbours", "forest", "boosting", "model")),
        ("clicks", ("clicks_rates", "clicks")),
    ):
        rows = [trial for trial in found if trial["kind"] in kinds]
        if rows:
            parts.append("\n".join([f"Trials of {title}:", "", *_table(rows)]))
    return "\n\n".join(parts)


def _table(trials: list[Mapping[str, Any]]) -> list[str]:
    is_click = trials[0]["kind"] in ("clicks", "clicks_rates")
    shown = {"log loss": "log_loss_shown", "AUROC": "auroc_shown"} if is_click else _SHOWN
    names = ["what", "changed", "seed", "pages trained", "CPU s", *shown]
    if not is_click:
        names.append("log loss, calibrated")
    first = next((trial for trial in trials if trial["train_pages"] is not None), None)
    return markdown_table(names, (_line(one, first, shown, not is_click) for one in trials))


def _changed(trial: Mapping[str, Any], first: Mapping[str, Any] | None) -> str:
    """In which settings a trial differs from the file's first of a model."""
    if first is None or trial["train_pages"] is None:
        changes = trial["changes"]
    else:
        mine, base = _flat(trial), _flat(first)
        changes = {name: value for name, value in mine.items() if base[name] != value}
    words = ", ".join(f"{name} {value}" for name, value in changes.items()) or "-"
    return words + (f" ({trial['note']})" if trial.get("note") else "")


def _flat(trial: Mapping[str, Any]) -> dict[str, Any]:
    settings = trial["settings"]  # of its day: a field may be newer, a choice may be gone
    both = {**asdict(ModelConfig()), **settings["model"]}
    both |= {**asdict(TrainingConfig()), **settings["training"]}
    return {name: value for name, value in both.items() if name not in _UNTOLD}


def _line(
    trial: Mapping[str, Any],
    first: Mapping[str, Any] | None,
    shown: Mapping[str, str],
    has_maps: bool,
) -> list[str]:
    own, maps = trial["metrics"]["own"], trial["metrics"].get("calibrated")
    line = [
        _ROWS[trial["kind"]].label,
        _changed(trial, first),
        str(trial["seed"]),
        "" if trial["train_pages"] is None else f"{trial['train_pages']:,}",
        f"{trial['cpu_seconds']:.0f}",
        *(f"{own[name]:.{4 if 'auroc' in name else 5}f}" for name in shown.values()),
    ]
    if has_maps:
        line.append("" if maps is None else f"{maps['log_loss_all']:.5f}")
    return line


def main() -> None:
    """Run the trial that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("kind", choices=list(_ROWS))
    parser.add_argument("--pages", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("changes", nargs="*", metavar="key=value")
    words = parser.parse_intermixed_args()  # key=value may stand behind the options
    changes = dict(word.split("=", 1) for word in words.changes)
    append(words.file, run(words.out, words.kind, changes, words.seed, words.pages))


if __name__ == "__main__":
    main()

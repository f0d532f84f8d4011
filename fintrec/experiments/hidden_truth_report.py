"""Hidden truth against a checkpoint, as a file and a section of a document.

python -m fintrec.experiments.hidden_truth_report LOG_DIR CHECKPOINT --out FILE.json
    --markdown docs/calibration.md
"""

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

SECTION: Final = "hidden-truth"


def markdown(result: Mapping[str, Any]) -> str:
    """The section: one table of totals, one of deciles."""
    clicks, goals = result["clicks"], result["conversions"]
    columns = {
        "click, given shown": clicks,
        "conversion caused by the exposure": goals["shown_caused"],
        "any cause, shown items": goals["shown_any_cause"],
        "any cause, all items": goals["all_any_cause"],
    }
    rows = [
        ("examples", "examples", 0),
        ("mean predicted", "mean_predicted", 4),
        ("mean of the truth (of foresight for any cause)", "mean_true", 4),
        ("observed rate, where labels are complete", "observed", 4),
        ("mean absolute error", "mean_absolute_error", 4),
        ("- of the constant rate", "mean_absolute_error_of_constant", 4),
        ("expected log loss", "expected_log_loss", 4),
        ("- of the truth itself (entropy)", "entropy", 4),
        ("- of the constant rate", "expected_log_loss_of_constant", 4),
        ("share explained", "explained", 3),
        ("slope", "slope", 2),
        ("intercept", "intercept", 2),
    ]
    lines = [
        f"Made by `{result['command']}` on {result['date']}, {result['machine']}, code "
        f"{result['code']}; {result['pages']:,} test pages, recipe {result['model']}, calibration "
        f"`{result['calibration']}`.",
        "",
        *_table(
            ["", *columns],
            [
                [name, *(_cell(found.get(key), digits) for found in columns.values())]
                for name, key, digits in rows
            ],
        ),
        "",
        "Deciles of clicks:",
        "",
        *_table(
            ["decile", "by truth: true", "predicted", "by prediction: true", "predicted"],
            [
                [
                    str(number),
                    *(_cell(one[key], 4) for one in pair for key in ("true", "predicted")),
                ]
                for number, pair in enumerate(
                    zip(clicks["by_truth"], clicks["by_prediction"], strict=True), start=1
                )
            ],
        ),
    ]
    return "\n".join(lines)


def _cell(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


def put(path: Path, name: str, text: str) -> None:
    """Put a section between its marks; ValueError where the document has none."""
    begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    old = path.read_text()
    if not pattern.search(old):
        raise ValueError(f"{path}: no {begin} ... {end}, expected the marks of the section")
    path.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", old))


@click.command()
@click.argument("log_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--pages", type=click.IntRange(1), default=4096, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write.")
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True))
@click.option("--machine", default="", help="What it ran on, for the document.")
def main(
    log_dir: Path, checkpoint: Path, pages: int, out: Path | None, page: Path | None, machine: str
) -> None:
    """Judge a checkpoint by the truth beside LOG_DIR, split as `fintrec train` splits it."""
    import os
    from datetime import UTC, datetime

    import torch

    from fintrec import datasets
    from fintrec.checkpoint import code_version, load
    from fintrec.experiments.hidden_truth import judge_checkpoint

    torch.set_num_threads(1)
    loaded = load(checkpoint)
    data = datasets.build_training_set(log_dir, datasets.demo())
    shown = ["python -m fintrec.experiments.hidden_truth_report", *map(shlex.quote, sys.argv[1:])]
    result = {
        "command": " ".join(shown),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine or f"{os.cpu_count()} cores",
        "code": code_version(),
        "model": loaded.recipe.name,
        "seed": loaded.recipe.training.seed,
        "calibration": loaded.calibration.version,
        **judge_checkpoint(log_dir, loaded, data, pages),
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    if page is not None:
        put(page, SECTION, markdown(result))
    click.echo(markdown(result))


if __name__ == "__main__":
    main()

"""What exposure changes and what models say of it, as a file and a section of a document.

python -m fintrec.experiments.hidden_truth_exposure_report OUT --out FILE.json
    --markdown docs/calibration.md

OUT is the folder of `fintrec reproduce table3`; every finished cell of conversions is judged.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from fintrec.machine import describe, in_words
from fintrec.result_files import markdown_table, write_json, write_section

MODULE: Final = "fintrec.experiments.hidden_truth_exposure_report"
SECTION: Final = "exposure"
_ROWS: Final = ("base_rates", "neighbours", "forest-0", "boosting-0", "fintrec-0")
_TRUTH: Final = {
    "observed": "happened",
    "if_shown": "truth: the page shows it",
    "untold": "truth: not told what the page shows",
    "if_not_shown": "truth: the page does not show it",
    "if_not_shown_by_item": "truth: the page does not show it, on any page",
}
_FIGURES: Final = {
    "says": ("mean_predicted", 4),
    "log loss": ("log_loss", 4),
    "share explained": ("explained", 2),
    "slope": ("slope", 2),
}
_RANKED: Final = {
    "even": "any item that may be shown",
    "shown": "what the log showed",
    "foresight": "foresight",
    "truth": "what the exposure leads to: nobody is better",
}


def measure(out: Path) -> dict[str, Any]:
    """Judge the finished cells of an experiment's folder on its judged pages."""
    from fintrec import logs
    from fintrec.experiments import bank_data
    from fintrec.experiments.hidden_truth import Truth
    from fintrec.experiments.hidden_truth_exposure import (
        compared_rows,
        exposed,
        judge_exposure,
        rank_value,
        told,
    )
    from fintrec.experiments.setting import LOG, predictions_path, read_setting

    setting, data = read_setting(out), bank_data.load(out)
    pages = bank_data.judged(data, setting)
    found = exposed(Truth(out / LOG, data), data, data.test, pages.pages)
    if not (found.shown & found.known).any():
        raise click.BadParameter(f"{out}: no shown item of {len(pages.pages)} pages has a label")
    said = {
        name: np.load(predictions_path(out, name)).astype(np.float64)
        for name in _ROWS
        if predictions_path(out, name).exists()
    }
    if not said:
        raise click.BadParameter(f"{out} has no finished cell of {', '.join(_ROWS)}")
    kinds = np.array(data.content_types)
    moved = {name: told(chance, found, kinds, pages.user) for name, chance in said.items()}
    value = {item.item_id: item.value_usd for item in logs.read_items(out / LOG)}
    value_usd = np.array([value[name] for name in data.items])
    known = {"foresight": found.foresight}, {"foresight": found.if_shown_anywhere}
    return {
        "setting": setting.name,
        "size": setting.size,
        "bank_seed": setting.bank_seed,
        "pages": len(pages.pages),
        "users": len(np.unique(pages.user)),
        "exposure": judge_exposure(found, kinds, said),
        "rows": {"untold": compared_rows(found, said), "told": compared_rows(found, moved)},
        "dollars_a_page": {
            "untold": rank_value(found, value_usd, {**said, **known[0]}),
            "told": rank_value(found, value_usd, {**moved, **known[1]}),
        },
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The section: the truth of shown items, the rows, and what ranking by each earns."""
    parts = {name: part for name, part in result["exposure"].items() if part["examples"]}
    parts.pop("all", None)
    shown = parts["shown"]
    rows, dollars = result["rows"], result["dollars_a_page"]
    lines = [
        f"Made by `{result['command']}` on {result['machine']['date']}, "
        f"{in_words(result['machine'])}, code {result['code']}; {result['pages']:,} test pages of "
        f"{result['users']:,} users of a bank of size `{result['size']}`, seed "
        f"{result['bank_seed']}, setting `{result['setting']}`.",
        "",
        *markdown_table(
            ["", *(name.replace("_", " ") for name in parts)],
            [
                ["examples", *(f"{part['examples']:,}" for part in parts.values())],
                *(
                    [name, *(_with_interval(key, part) for part in parts.values())]
                    for key, name in _TRUTH.items()
                ),
                *(
                    [f"{name} says", *(f"{part['said'][name]:.4f}" for part in parts.values())]
                    for name in shown["said"]
                ),
            ],
        ),
        "",
        *markdown_table(
            ["shown items", *(f"{name}{how}" for name in _FIGURES for how in ("", ", told"))],
            [
                [
                    name,
                    *(
                        f"{rows[how][name]['shown'][key]:.{digits}f}"
                        for key, digits in _FIGURES.values()
                        for how in ("untold", "told")
                    ),
                ]
                for name in shown["said"]
            ],
        ),
        "",
        *markdown_table(
            ["ranked by v(i) times", "dollars a page", "told"],
            [
                [_RANKED.get(name, name), f"{dollars['untold'][name]:.2f}", told]
                for name in dollars["untold"]
                for told in [
                    "" if name in ("even", "shown", "truth") else f"{dollars['told'][name]:.2f}"
                ]
            ],
        ),
    ]
    return "\n".join(lines)


def _with_interval(key: str, part: Mapping[str, Any]) -> str:
    text = f"{part[key]:.4f}"
    if key != "observed":
        return text
    return f"{text} ({part['observed_low']:.4f} to {part['observed_high']:.4f})"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write.")
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True))
def main(folder: Path, out: Path | None, page: Path | None) -> None:
    """Judge the cells of FOLDER by the truth beside its bank."""
    from fintrec.checkpoint import code_version

    result = {
        "command": shlex.join(["python", "-m", MODULE, *sys.argv[1:]]),
        "machine": describe(),
        "code": code_version(),
        **measure(folder),
    }
    if out is not None:
        write_json(out, result)
    if page is not None:
        write_section(page, SECTION, markdown(result))
    click.echo(markdown(result))


if __name__ == "__main__":
    main()

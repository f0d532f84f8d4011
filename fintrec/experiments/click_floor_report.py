"""Where the distance of clicks to the truth lies, as a file and a section of a document.

python -m fintrec.experiments.click_floor_report OUT --out FILE.json --markdown docs/experiments.md
python -m fintrec.experiments.click_floor_report OUT --read FILE.json --markdown docs/experiments.md

OUT is the folder of `fintrec reproduce table3`. With --read nothing is measured again.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from fintrec.machine import describe, in_words
from fintrec.result_files import (
    check_section,
    markdown_table,
    typed_command,
    write_json,
    write_section,
)

MODULE: Final = "fintrec.experiments.click_floor_report"
SECTION: Final = "clicks"
_EMPTY: Final = ["", "", ""]


def markdown(result: Mapping[str, Any]) -> str:
    """The section: predictors without and with the position, and the tendency of pages."""
    from fintrec.experiments.click_floor import BASE, MODEL, NOISELESS, RUNGS, TOLD, TREES

    honest = (BASE, MODEL, TREES)
    first = [*_rows(result, honest, "learnt from labels")]
    first += _rows(result, (NOISELESS, TOLD), "learnt from the truth")
    first += _rows(result, RUNGS, "known exactly")
    first.append(["the true probabilities", "", *_EMPTY, *_figures(result["truth"])])
    columns = ["log loss", "below the base rates", "expected"]
    own = result["tendency"]
    total = sum(own["variance"].values())
    shares = ", ".join(
        f"{name} {value:.3f} ({100 * value / total:.0f} %)"
        for name, value in own["variance"].items()
    )
    drawn = result["sample"]
    lines = [
        f"Made by `{result['command']}` on {result['machine']['date'][:10]}, "
        f"{in_words(result['machine'])}, code {result['code']}. {result['impressions']:,} judged "
        f"impressions with {result['clicks']:,} clicks. Trees are fitted on "
        f"{drawn['impressions']:,} training impressions, which hold all {drawn['clicks']:,} clicks, "
        "what is fitted on the truth on those of them whose whole page is among them. "
        '"Expected" is the share below the base rates over all labels that the truth might have '
        "drawn. In brackets 95 % intervals over users.",
        "",
        *markdown_table(
            ["predictor", "", *columns, *(f"with the position: {name}" for name in columns)], first
        ),
        "",
        f"Variance of the log odds of needs and items on the judged pages: {shares}. The page's part "
        "is the same for all items, so that a softmax over items cannot say it:",
        "",
        *markdown_table(
            ["refitted on the truth", *columns],
            [[name, *_figures(found)] for name, found in own["judged"].items()],
        ),
    ]
    return "\n".join(lines)


def _rows(result: Mapping[str, Any], names: Iterable[str], how: str) -> list[list[str]]:
    parts = [result["without_position"], result["with_position"]]
    return [
        [name, how, *(text for part in parts for text in _figures(part.get(name)))]
        for name in names
        if any(name in part for part in parts)
    ]


def _figures(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return _EMPTY
    below = found["realised_below"]
    value, low, high, expected = (
        f"{100 * number:.1f}"
        for number in (
            below["value"],
            below["low"],
            below["high"],
            found["expected_below"]["value"],
        )
    )
    loss = f"{found['realised']['value']:.5f}"
    return [loss, f"{value} % ({low} to {high})", f"{expected} %"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON file to write.")
@click.option("--read", "read", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(folder: Path, out: Path | None, read: Path | None, page: Path | None) -> None:
    """Judge what FOLDER holds by the truth of its bank, or with --read take what was found."""
    if page is not None:
        check_section(page, SECTION)
    result = json.loads(read.read_text()) if read is not None else _measured(folder)
    if out is not None:
        write_json(out, result)
    if page is not None:
        write_section(page, SECTION, markdown(result))
    click.echo(markdown(result))


def _measured(folder: Path) -> dict[str, Any]:
    from fintrec.checkpoint import code_version
    from fintrec.experiments.click_floor import measure

    return {
        "command": typed_command(f"python -m {MODULE}"),
        "machine": describe(),
        "code": code_version(),
        **measure(folder),
    }


if __name__ == "__main__":
    main()

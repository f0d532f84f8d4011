"""The public suite: every form's own protocol, one table, one folder of result files.

A form is a module with two functions:

    evaluate(path, folder, seeds, budget_minutes, say) -> dict   plain JSON, by the form's protocol
    lines(result) -> list[Line]                                  its measures beside their goals

`folder` keeps finished cells, `seeds` are those of the trained models, `budget_minutes` bounds one
model's training, `say` hears of progress. Another file of a form is judged by the same protocol; the
goals are those of the file that the form was made for.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from features.errors import ConfigurationError
from fintrec.public.goals import COLUMNS, Line
from fintrec.result_files import ResultFolder, markdown_table

Say = Callable[[str, float, str], None]
"""What is being done, the share of it that is done (0..1), the newest numbers."""


@dataclass(frozen=True, slots=True)
class Form:
    """Where a form's functions are, and its file in the folder of public data."""

    module: str
    file: str


FORMS: Final[Mapping[str, Form]] = {
    "events": Form("fintrec.public.events", "bpic2012/bpic2012.parquet"),
    "sessions": Form("fintrec.public.sessions", "msnbc/msnbc990928.zip"),
    "sequence": Form("fintrec.public.sequences", "s3rec_amazon/Beauty.txt"),
}


def silent(what: str, share: float, text: str) -> None:
    """Say it to nobody."""


def files_of(data_dir: Path) -> dict[str, Path]:
    """The file of each form; ConfigurationError that names the first one missing."""
    found = {form: data_dir / at.file for form, at in FORMS.items()}
    for form, path in found.items():
        if not path.is_file():
            raise ConfigurationError(
                f"{path}: no such file, expected the public data of form {form!r} there: "
                "give --data-dir, or --data FILE with --form"
            )
    return found


def run(
    files: Mapping[str, Path],
    folder: ResultFolder,
    seeds: Sequence[int],
    budget_minutes: float | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """Judge every file by the protocol of its form; the lines of all of them stand in `goals`."""
    results, found = {}, []
    for form, path in files.items():
        module = importlib.import_module(FORMS[form].module)
        results[form] = module.evaluate(path, folder, tuple(seeds), budget_minutes, say)
        found.extend(module.lines(results[form]))
    return {"results": results, "goals": [line.to_dict() for line in found]}


def lines_of(found: Mapping[str, Any]) -> list[Line]:
    """The lines of a run, made again from its results."""
    return [
        line
        for form, result in found["results"].items()
        for line in importlib.import_module(FORMS[form].module).lines(result)
    ]


def markdown(found: Mapping[str, Any], folder: ResultFolder) -> str:
    """The table of a run for a page, with the commands and machines of its cells."""
    return "\n".join(markdown_table(COLUMNS, [line.cells() for line in lines_of(found)]))

"""The public suite: every form's own protocol, one table, one folder of result files.

A form is a module with two functions:

    evaluate(path, folder, seeds, budget_minutes, say) -> dict   plain JSON, by the form's protocol
    lines(result) -> list[Line]                                  its measures beside their goals
    TRAINED                                                      what its seeds' cells are called

`folder` keeps finished cells, `seeds` are those of the trained models, `budget_minutes` bounds one
model's training, `say` hears of progress. A result may hold `suspect`, the figures that are too good
to be true, in words. Another file of a form is judged by the same protocol; the
goals are those of the file that the form was made for.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from features.errors import ConfigurationError
from fintrec.learning.loop import Progress
from fintrec.public.goals import Line
from fintrec.public.source_files import cell_name
from fintrec.result_files import ResultFolder, has_section, read_cells, write_section

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


def told(say: Say, what: str) -> Callable[[Progress], None]:
    """The training loop's progress, said."""
    newest = ""

    def report(progress: Progress) -> None:
        nonlocal newest
        if progress.validation is not None:
            newest = f"epoch {progress.epoch} validation {progress.validation:.4f}"
        say(what, progress.share, newest)

    return report


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
    seeds: Sequence[int] | None,
    budget_minutes: float | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """Judge every file by the protocol of its form; the lines of all of them stand in `goals`.

    Without `seeds` only those are taken whose models the folder holds.
    """
    results, found = {}, []
    for form, path in files.items():
        module = importlib.import_module(FORMS[form].module)
        chosen = tuple(seeds) if seeds else finished_seeds(form, path, folder.directory or Path())
        results[form] = module.evaluate(path, folder, chosen, budget_minutes, say)
        found.extend(module.lines(results[form]))
    return {"results": results, "goals": [line.to_dict() for line in found]}


def lines_of(found: Mapping[str, Any]) -> list[Line]:
    """The lines of a run, made again from its results."""
    return [
        line
        for form, result in found["results"].items()
        for line in importlib.import_module(FORMS[form].module).lines(result)
    ]


def finished_seeds(form: str, path: Path, directory: Path) -> tuple[int, ...]:
    """Seeds whose trained models of a file all lie in a folder, ascending; ConfigurationError for none."""
    seeds: list[set[int]] = []
    for part in importlib.import_module(FORMS[form].module).TRAINED:
        start = cell_name(form, path, part)
        names = [
            name.removeprefix(start) for name in read_cells(directory) if name.startswith(start)
        ]
        seeds.append({int(name) for name in names if name.isdigit()})
    found = set.intersection(*seeds)
    if not found:
        raise ConfigurationError(f"{directory} has no trained model of {path.name} for every part")
    return tuple(sorted(found))


def suspects(found: Mapping[str, Any]) -> list[str]:
    """What is too good to be true in a run, in words."""
    return [text for result in found["results"].values() for text in result.get("suspect", ())]


def check_pages(pages: Sequence[Path]) -> None:
    """ConfigurationError for a page without the marks of a section: ask before hours of work."""
    for path in pages:
        if not any(has_section(path, name) for name in ("public", "sequence")):
            raise ConfigurationError(
                f"{path} has no section to write into, expected <!-- results:public --> or "
                "<!-- results:sequence --> with its end"
            )


def write_pages(found: Mapping[str, Any], directory: Path, pages: Sequence[Path]) -> None:
    """Write a run's figures between the marks of pages: `results:public`, `results:sequence`.

    As `check_pages`; ConfigurationError too for the second one in a run without sequences.
    """
    from fintrec.public import page, sequence_page

    check_pages(pages)
    makers = {
        "public": lambda: page.section(found, lines_of(found), directory),
        "sequence": lambda: sequence_page.section(found["results"]["sequence"]["file"], directory),
    }
    for path in pages:
        for name in (name for name in makers if has_section(path, name)):
            if name == "sequence" and name not in found["results"]:
                raise ConfigurationError(f"{path} has a section of sequences, none were judged")
            write_section(path, name, makers[name]())

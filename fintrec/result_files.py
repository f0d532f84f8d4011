"""Results of long runs as files: one JSON file a finished cell, so a run cut off keeps its cells.

    DIR/<cell>.json     {"name", "settings", "command", "code", "machine", "seconds", "result"}

A cell is what can be done alone: one model on one data set with one seed. `ResultFolder.cell` gives
back a finished cell and computes only one that is missing; a cell that was computed with other
settings is refused, never overwritten. Documents take their numbers from these files:
`write_section` puts a text between two marks of a Markdown page.
"""

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from features.errors import ConfigurationError
from fintrec.machine import describe

_NAME: Final = re.compile(r"[\w.\-]+")
_PARTS: Final = ("name", "settings", "command", "code", "machine", "seconds", "result")


@dataclass(frozen=True, slots=True)
class ResultFolder:
    """Cells of one run; `command` is what a reader types to make them again.

    Without a directory every cell is computed and none is kept.
    """

    directory: Path | None
    command: str

    def cell(
        self, name: str, settings: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The finished cell, or the one computed and written now.

        `settings` and the result are plain JSON. ValueError for a name that is no file name;
        ConfigurationError where the folder's cell was made with other settings.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"a cell is called {name!r}, expected letters, digits, '.', '_', '-'")
        path = None if self.directory is None else self.directory / f"{name}.json"
        asked = json.loads(json.dumps(settings))
        if path is not None and path.exists():
            found = _read(path)
            if found["settings"] != asked:
                raise ConfigurationError(
                    f"{path} was made with settings {found['settings']}, now asked for {asked}: "
                    "take another folder, or delete the file"
                )
            return found
        begin = time.perf_counter()
        result = dict(compute())
        finished = {
            "name": name,
            "settings": asked,
            "command": self.command,
            "code": _code_version(),
            "machine": describe(),
            "seconds": round(time.perf_counter() - begin, 1),
            "result": result,
        }
        if path is not None:
            write_json(path, finished)
        return finished


def typed_command(program: str = "fintrec") -> str:
    """The command line of this process as a reader would type it: absolute paths by their names."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join([*program.split(), *words])


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


def read_cells(directory: Path) -> dict[str, dict[str, Any]]:
    """All finished cells of a folder by name, sorted; empty where there is no folder."""
    return {path.stem: _read(path) for path in sorted(directory.glob("[!.]*.json"))}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from error
    missing = [part for part in _PARTS if not isinstance(found, dict) or part not in found]
    if missing:
        raise ConfigurationError(f"{path} is no finished cell: it lacks {', '.join(missing)}")
    return dict(found)


def _code_version() -> str:
    from fintrec.checkpoint import code_version  # needs torch, which a reader of results does not

    return code_version()


def markdown_table(names: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a Markdown table."""
    head = list(names)
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


def has_section(page: Path, name: str) -> bool:
    """Whether a page has the marks of a section."""
    return _section(name).search(page.read_text()) is not None


def check_section(page: Path, name: str) -> None:
    """ConfigurationError for a page without the marks of a section: ask before hours of work."""
    if not has_section(page, name):
        begin, end = _marks(name)
        raise ConfigurationError(f"{page} has no section {begin} ... {end} to write into")


def write_section(page: Path, name: str, text: str) -> None:
    """Put a text between `<!-- results:NAME -->` and its end mark; ConfigurationError without them."""
    begin, end = _marks(name)
    check_section(page, name)
    page.write_text(_section(name).sub(lambda _: f"{begin}\n{text}\n{end}", page.read_text()))


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- results:{name} -->", f"<!-- /results:{name} -->"


def _section(name: str) -> re.Pattern[str]:
    begin, end = map(re.escape, _marks(name))
    return re.compile(f"{begin}.*?{end}", re.DOTALL)

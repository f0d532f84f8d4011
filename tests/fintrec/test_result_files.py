"""Result files: a finished cell is kept, a changed one refused, a page's section replaced."""

from pathlib import Path
from typing import Any

import pytest

from features.errors import ConfigurationError
from fintrec.machine import describe, in_words
from fintrec.result_files import (
    ResultFolder,
    markdown_table,
    read_cells,
    write_json,
    write_section,
)

SETTINGS = {"seed": 1, "window": (5, 50)}


class Work:
    """Counts how often it was done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return {"nll": 0.5}


def test_a_finished_cell_is_not_computed_again(tmp_path: Path) -> None:
    work, folder = Work(), ResultFolder(tmp_path / "new", "fintrec evaluate")
    first = folder.cell("events-1", SETTINGS, work)
    again = folder.cell("events-1", SETTINGS, work)
    assert work.times == 1
    assert first == again
    assert first["result"] == {"nll": 0.5}
    assert first["command"] == "fintrec evaluate"
    assert {"date", "cores", "python", "versions"} <= set(first["machine"])
    assert first["code"]


def test_a_cell_made_with_other_settings_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path, "fintrec evaluate")
    folder.cell("events", SETTINGS, Work())
    with pytest.raises(ConfigurationError, match=r"events.json.*'seed': 1.*'seed': 2"):
        folder.cell("events", {**SETTINGS, "seed": 2}, Work())
    assert read_cells(tmp_path)["events"]["settings"]["seed"] == 1


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    work, folder = Work(), ResultFolder(None, "")
    assert folder.cell("events", {}, work)["result"] == folder.cell("events", {}, work)["result"]
    assert work.times == 2


def test_a_cell_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def failing() -> dict[str, Any]:
        raise ArithmeticError("no loss")

    with pytest.raises(ArithmeticError):
        ResultFolder(tmp_path, "").cell("events", {}, failing)
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "cell.json", {"nll": float("nan")})
    assert read_cells(tmp_path) == {}


@pytest.mark.parametrize("name", ["../out", "", "a b", "a/b"])
def test_a_cell_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cell is called"):
        ResultFolder(tmp_path, "").cell(name, {}, Work())


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_a_file_that_is_no_cell_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "torn.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"torn\.json"):
        read_cells(tmp_path)


def test_a_partial_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".cell.json.partial").write_text("{")
    assert read_cells(tmp_path) == {}


def test_a_section_is_replaced_between_its_marks_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- results:x -->\nold\n<!-- /results:x -->\nend\n")
    write_section(page, "x", "\n".join(markdown_table(["a", "b"], [["1", r"\2"]])))
    assert page.read_text() == (
        "# Title\n<!-- results:x -->\n| a | b |\n|---|---|\n| 1 | \\2 |\n<!-- /results:x -->\nend\n"
    )
    with pytest.raises(ConfigurationError, match="results:y"):
        write_section(page, "y", "text")


def test_the_machine_is_described_in_words() -> None:
    machine = describe(("fintrec", "a-package-nobody-has"))
    assert set(machine["versions"]) == {"fintrec"}
    assert f"{machine['cores']} cores of " in in_words(machine)

"""The README's commands, files and paper map exist: nobody types what does not work."""

import re
import shlex
from pathlib import Path

import click
import pytest

from streams.__main__ import VERBS, cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip().removesuffix("&").strip()
    for block in re.findall(r"```\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("fintrec ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_of_the_readme_parses(line: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("bank", "training_set", "checkpoint"):
        (tmp_path / folder).mkdir()
    _, *arguments = shlex.split(line)
    command: click.Command = cli
    context = click.Context(cli)
    # A group may do something of its own: then options follow its name, not a verb.
    while isinstance(command, click.Group) and not arguments[0].startswith("-"):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None, name
        command = found
    assert command.make_context(command.name, arguments)


def test_readme_shows_every_verb_or_help_does() -> None:
    assert {line.split()[1] for line in COMMANDS} <= set(VERBS)
    assert len(COMMANDS) > 10


def test_files_of_the_tree_exist() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    folder = ROOT
    for line in tree.splitlines():
        if match := re.match(r"(\w+)/ ", line):
            folder = ROOT / match[1]
            assert folder.is_dir(), folder
        for name in re.findall(r"(?:^  |  )(\w+\.py|\w+/) ", line):
            assert (folder / name).exists(), f"{folder.name}/{name}"


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)", README)) <= targets


def test_code_and_tests_of_the_paper_map_exist() -> None:
    rows = [line for line in (ROOT / "docs/paper_map.md").read_text().splitlines() if "|" in line]
    named = set(
        re.findall(r"`((?:features|fintrec|streams|tests)/[\w/]+(?:\.py)?/?)", "\n".join(rows))
    )
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), name

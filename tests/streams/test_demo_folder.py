"""The demo may be run any number of times in one folder."""

import os
from pathlib import Path

import pytest

from features.errors import FintrecError
from streams.demo import LEFT_BY_A_DEMO, start_afresh
from streams.local_stack.processes import identify
from streams.local_stack.state import StackState, write_state


def left_behind(folder: Path) -> None:
    for name in LEFT_BY_A_DEMO:
        (folder / name / "deep").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")


def test_a_demo_begins_without_what_the_last_one_left(tmp_path: Path) -> None:
    left_behind(tmp_path)
    start_afresh(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "notes.txt"]


def test_a_demo_makes_its_folder(tmp_path: Path) -> None:
    start_afresh(tmp_path / "new")
    assert (tmp_path / "new" / "logs").is_dir()


def test_a_demo_takes_nothing_from_a_stack_that_runs(tmp_path: Path) -> None:
    left_behind(tmp_path)
    myself = identify(os.getpid())
    assert myself is not None
    write_state(tmp_path, StackState(supervisor=myself))
    with pytest.raises(FintrecError, match="end it first, `fintrec stack down`"):
        start_afresh(tmp_path)
    assert all((tmp_path / name / "deep").is_dir() for name in LEFT_BY_A_DEMO)

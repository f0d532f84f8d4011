"""Where the real data sets lie that some tests read, if they are there at all."""

import os
from pathlib import Path

import pytest

VARIABLE = "REAL_DATA_DIR"


def folder_of(name: str) -> Path:
    """A data set's folder; skips the test where nobody put it.

    `REAL_DATA_DIR` names the folder of all of them, else `shared/data` beside the project.
    """
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get(VARIABLE) or beside) / name
    if not folder.is_dir():
        pytest.skip(f"no {name} at {folder.parent}: set {VARIABLE} to the folder that holds it")
    return folder

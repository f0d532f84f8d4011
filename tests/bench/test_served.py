"""The bench of a setting, served: both sides are asked the same, and its section is what it found."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import served


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BATCHES", (4,)), ("LENGTHS", (10,)), ("CALLS", 3)):
        monkeypatch.setattr(served, name, value)


def test_a_setting_is_measured_and_told(small: None, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- results:served -->\n<!-- /results:served -->\n")
    command = ["--set", "item_history=true", "--repeats", "3", "--markdown", str(page)]
    done = CliRunner().invoke(served.main, command, catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout.splitlines()[-1])
    assert [row["module"] for row in found["rows"]] == ["encode", "head"]
    for row in found["rows"]:
        middle, low, high = row["ratio"]
        assert 0 < low <= middle <= high
    plain, changed = (found["state_bytes"][side] for side in ("recipe", "changed"))
    grown = changed["of_models"] - plain["of_models"]
    assert grown == changed["value"] - plain["value"] > 0
    assert f"{changed['value']:,} and {changed['of_models']:,}" in page.read_text()


def test_a_setting_that_is_none_is_refused_in_one_line(small: None) -> None:
    done = CliRunner().invoke(served.main, ["--set", "foo=1"])
    assert done.exit_code == 2
    assert "unknown settings ['foo']" in done.output

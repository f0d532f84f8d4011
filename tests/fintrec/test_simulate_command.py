import json

import pytest
from click.testing import CliRunner

from fintrec import logs
from fintrec.bank.simulate import SIZES
from fintrec.commands.simulate import simulate, to_ms

END = "2026-03-01T12:00:00Z"


def test_simulate_writes_a_log_and_says_what_is_in_it(tmp_path):
    argv = ["--size", "tiny", "--seed", "3", "--end", END, "--out", str(tmp_path / "log"), "--json"]
    result = CliRunner().invoke(simulate, argv, catch_exceptions=False)
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["end_ms"] == to_ms(END)
    assert told["events_per_second"] > 0
    for name, num_rows in told["rows"].items():
        assert logs.read_table(tmp_path / "log", name).num_rows == num_rows
    again = CliRunner().invoke(simulate, argv)
    assert again.exit_code == 2
    assert "not empty" in again.output


def test_a_folder_below_a_file_is_bad_usage(tmp_path):
    (tmp_path / "afile").write_text("kept")
    result = CliRunner().invoke(simulate, ["--out", str(tmp_path / "afile" / "sub")])
    assert result.exit_code == 2
    assert "afile is a file, expected a directory" in " ".join(result.output.split())


def test_every_size_can_be_asked_for():
    (size,) = [option for option in simulate.params if option.name == "size"]
    assert list(size.type.choices) == list(SIZES)


def test_an_end_that_is_no_instant_is_bad_usage(tmp_path):
    result = CliRunner().invoke(simulate, ["--end", "soon", "--out", str(tmp_path / "log")])
    assert result.exit_code == 2
    assert "ISO 8601" in result.output


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00", "2026-03-01T13:00:00+01:00", END])
def test_an_instant_without_an_offset_is_utc(text):
    assert to_ms(text) == 1_772_366_400_000


def test_more_users_than_one_machine_plays_are_refused_with_what_they_would_take(tmp_path):
    result = CliRunner().invoke(simulate, ["--size", "large", "--out", str(tmp_path / "log")])
    assert result.exit_code == 2
    for part in ("30,000,000", "billion events", "hours", "TB", "GB of memory"):
        assert part in " ".join(result.output.split())
    assert not (tmp_path / "log").exists()


def test_another_number_of_users_can_be_asked_for(tmp_path):
    argv = ["--users", "7", "--end", END, "--out", str(tmp_path / "log"), "--json"]
    told = json.loads(CliRunner().invoke(simulate, argv, catch_exceptions=False).stdout)
    assert told["num_users"] == 7
    assert told["bytes_per_user"] > 0
    assert told["peak_memory_mb"] > 0

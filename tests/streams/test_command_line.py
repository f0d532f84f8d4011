"""The root of the command line: every verb listed, none imported before it is called."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from features.errors import FintrecError
from streams import __main__ as root


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "streams", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environ},
    )


def test_help_lists_every_verb_with_its_line() -> None:
    result = CliRunner().invoke(root.cli, ["--help"])
    assert result.exit_code == 0
    for verb, (_, help_line) in root.VERBS.items():
        assert f"{verb} " in result.output
        assert help_line in result.output


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom streams.__main__ import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'feast', 'faust', 'kafka', 'aiokafka', 'tritonclient', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_missing_module_breaks_its_own_verb_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(root.VERBS, "demo", ("streams.commands.nowhere:demo", "Not there."))
    runner = CliRunner()
    assert runner.invoke(root.cli, ["--help"]).exit_code == 0
    assert runner.invoke(root.cli, ["stack", "--help"]).exit_code == 0
    broken = runner.invoke(root.cli, ["demo"])
    assert isinstance(broken.exception, FintrecError)
    assert "'fintrec demo' needs the module 'streams.commands.nowhere'" in str(broken.exception)


def test_a_project_error_is_one_line_and_exit_code_1() -> None:
    result = run("stack", "status", FINTREC_NO_SUCH_SETTING="1")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("fintrec: unknown environment variable FINTREC_NO_SUCH_SETTING")


def test_a_file_where_a_folder_is_needed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(
        "simulate", "--size", "tiny", "--users", "3", "--out", str(tmp_path / "file" / "bank")
    )
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert str(tmp_path / "file") in "".join(result.stderr.split())


@pytest.mark.parametrize("minutes", ["nan", "inf", "0", "-1"])
def test_minutes_are_a_finite_number_above_0(minutes: str, tmp_path: Path) -> None:
    result = run("train", str(tmp_path), "--minutes", minutes)
    assert result.returncode == 2
    assert f"{minutes} is not a finite number above 0" in result.stderr


@pytest.mark.parametrize("arguments", [("nosuch",), ("stack", "up", "--nosuch"), ("stack", "logs")])
def test_bad_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


def test_the_doctor_finds_this_machine_fit() -> None:
    import json

    result = run("doctor", "--json")
    findings = json.loads(result.stdout)
    assert {"Python", "libpython", "Triton", "ports"} <= {f["name"] for f in findings}
    missing = [f for f in findings if not f["ok"]]
    assert result.returncode == (1 if missing else 0)
    assert all(f["remedy"] for f in missing)
    assert not [f for f in missing if f["name"] in ("Python", "Triton", "packages: stack")]

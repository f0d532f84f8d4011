"""`fintrec train` and `fintrec export`, from a log to a model version."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fintrec.bank.simulate import BankSize, simulate
from fintrec.checkpoint import load
from fintrec.commands.train import train
from fintrec.manifest import load_manifest, verify
from streams.commands.export import export

END_MS = 1_795_900_000_123
SMALL = ["--set", "d_model=16", "--set", "num_layers=1", "--set", "evaluation_rows=64"]


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank") / "log"
    simulate(BankSize("test", 60, 24), 7, END_MS, folder)
    return folder


def test_a_log_becomes_a_checkpoint_and_then_a_version(log_dir: Path, tmp_path: Path) -> None:
    checkpoint, repository = tmp_path / "checkpoint", tmp_path / "models"
    trained = CliRunner().invoke(
        train, [str(log_dir), "--out", str(checkpoint), "--epochs", "1", "--json", *SMALL]
    )
    assert trained.exit_code == 0, trained.output
    metrics = json.loads(trained.stdout)
    assert metrics["training"]["pctr"]["epochs"] == 1
    assert metrics["test"]["pages"] == 64
    assert load(checkpoint).recipe.model.d_model == 16
    exported = CliRunner().invoke(
        export, [str(checkpoint), "--repository", str(repository), "--no-load", "--json"]
    )
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.stdout)["version"] == 1
    manifest = load_manifest(repository)
    verify(manifest, repository)
    assert manifest.d_model == 16
    assert len(manifest.items) == 200


def test_progress_and_metrics_are_shown_to_people(log_dir: Path, tmp_path: Path) -> None:
    arguments = [str(log_dir), "--out", str(tmp_path / "out"), "--minutes", "0.01", *SMALL]
    shown = CliRunner().invoke(train, arguments)
    assert shown.exit_code == 0, shown.output
    assert "pcvr_log_loss" in shown.stdout
    assert "pctr" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "d_modle=3"], "d_modle"),
        (["--set", "d_model"], "KEY=VALUE"),
    ],
)
def test_bad_settings_are_usage_errors(arguments: list[str], said: str, log_dir: Path) -> None:
    refused = CliRunner().invoke(train, [str(log_dir), *arguments])
    assert refused.exit_code == 2
    assert said in refused.stderr

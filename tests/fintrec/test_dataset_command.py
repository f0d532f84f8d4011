"""The verbs `fintrec dataset build|report|import`, and `fintrec train` on what they made."""

import re
import shutil
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

import fintrec.adapters
from features.errors import FintrecError
from fintrec.commands.dataset import dataset
from fintrec.commands.train import train
from fintrec.dataset.files import TABLES, DatasetError, read_manifest, shard_path
from fintrec.datasets import load_training_set
from fintrec.training import NoExamples

pytestmark = pytest.mark.usefixtures("without_pictures")


def ran(command, *arguments, code=0):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def built(bank_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    config = folder / "config.toml"
    config.write_text("label_days = 5\nvalidation_days = 3\ntest_days = 4\n")
    out = folder / "set"
    result = ran(dataset, "build", bank_log, "--out", out, "--config", config, "--json")
    return out, orjson.loads(result.stdout)


def test_build_prints_the_report_of_what_it_wrote(built):
    out, printed = built
    assert orjson.loads(ran(dataset, "report", out, "--json").stdout) == printed
    assert printed["config"]["label_days"] == 5
    assert printed["config"]["test_days"] == 4
    assert list(printed["periods"]) == ["train", "validation", "test"]
    assert all(period["decisions"] > 50 for period in printed["periods"].values())


def test_the_table_shows_rows_and_every_exclusion(built):
    out, printed = built
    text = ran(dataset, "report", out).stdout
    for reason, count in printed["exclusions"].items():
        assert re.search(rf"\b{reason}\b\W+{count:,}\b", text), reason
    for period in printed["periods"].values():
        assert f"{period['decisions']:,}" in text
        assert f"{period['pcvr']['positives_with_exposure']:,}" in text


def test_a_split_is_where_the_configuration_starts(bank_log, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("test_days = 2\nnum_shards = 3\n")
    options = ("--out", tmp_path / "set", "--config", config, "--split", "paper")
    ran(dataset, "build", bank_log, *options)
    found = read_manifest(tmp_path / "set")
    assert found["num_shards"] == 3
    assert found["config"]["train_days"] == 90
    assert (found["config"]["validation_days"], found["config"]["test_days"]) == (7, 2)


def test_what_was_asked_wrongly_is_said_and_writes_nothing(bank_log, built, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("validation_days = 20\n")
    result = ran(dataset, "build", bank_log, "--out", tmp_path / "set", "--config", config, code=2)
    assert "the log covers" in result.output
    config.write_text("validation_day = 20\n")
    options = ("--out", tmp_path / "set", "--config", config)
    failed = ran(dataset, "build", bank_log, *options, code=1)
    assert isinstance(failed.exception, FintrecError)
    assert f"{config}: key 'validation_day' is unknown" in str(failed.exception)
    failed = ran(dataset, "build", built[0], "--out", tmp_path / "set", code=1)
    assert "is a data set, expected a LOG_DIR" in str(failed.exception)
    assert "is not empty" in ran(dataset, "build", bank_log, "--out", built[0], code=2).output
    assert "not a data set's manifest" in str(ran(dataset, "report", bank_log, code=1).exception)
    assert not (tmp_path / "set").exists()


def test_a_folder_below_a_file_is_refused(bank_log, tmp_path):
    (tmp_path / "afile").write_text("kept")
    out = tmp_path / "afile" / "sub"
    refused = ran(dataset, "build", bank_log, "--out", out, code=2)
    assert "afile is a file, expected a directory" in " ".join(refused.output.split())
    refused = ran(dataset, "import", "complete_journey", tmp_path, "--out", out, code=1)
    assert isinstance(refused.exception, FintrecError)
    assert "afile is a file, expected a directory" in str(refused.exception)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("is_truncated", [True, False])
def test_a_shard_that_is_missing_or_truncated_is_named(built, tmp_path, table, is_truncated):
    shutil.copytree(built[0], tmp_path / "set")
    path = shard_path(tmp_path / "set", table, 0)
    content = path.read_bytes()
    path.unlink()
    if is_truncated:
        path.write_bytes(content[:-20])
    said = "not a readable Parquet file" if is_truncated else "no such file, expected shard 0 of 1"
    failed = ran(dataset, "report", tmp_path / "set", code=1).exception
    with pytest.raises(DatasetError) as refused:
        load_training_set(tmp_path / "set")
    for error in (failed, refused.value):
        assert isinstance(error, DatasetError)
        assert str(error).startswith(f"{path}: {said}")


def test_training_takes_a_data_set_or_its_log_and_says_which(built, bank_log, tmp_path):
    out, _ = built
    small = ("--epochs", "1", "--json")
    for name, value in (("d_model", 16), ("num_layers", 1), ("evaluation_rows", 64)):
        small += ("--set", f"{name}={value}")
    found = ran(train, out, "--out", tmp_path / "checkpoint", *small)
    assert f"{out} is a data set" in found.stderr
    metrics = orjson.loads(found.stdout)
    assert metrics["test"]["pages"] == 64
    refused = ran(train, out, "--split", "demo", *small, code=2)
    assert "whose periods are those it was built with" in refused.output
    # A few weeks of log complete none of the paper's windows of up to 60 days.
    log = ran(train, bank_log, "--split", "paper", *small, "--out", tmp_path / "log", code=1)
    assert f"{bank_log} is a log; split paper" in log.stderr
    assert isinstance(log.exception, NoExamples)
    assert not (tmp_path / "log").exists()


def import_log(source: Path, log_dir: Path) -> dict[str, object]:
    """An adapter that says what it was given."""
    log_dir.mkdir()
    return {"events": 1234, "source": source.name}


def test_import_runs_the_named_adapter_and_prints_its_counts(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "an_adapter", sys.modules[import_log.__module__])
    monkeypatch.setattr(fintrec.adapters, "ADAPTERS", {"own": "an_adapter:import_log"})
    text = ran(dataset, "import", "own", tmp_path, "--out", tmp_path / "log").stdout
    assert text.splitlines() == ["events: 1,234", f"source: {tmp_path.name}"]
    found = ran(dataset, "import", "own", tmp_path, "--out", tmp_path / "other", "--json").stdout
    assert orjson.loads(found) == {"events": 1234, "source": tmp_path.name}
    failed = ran(dataset, "import", "other", tmp_path, "--out", tmp_path / "log", code=1)
    assert str(failed.exception) == "no adapter is called 'other', expected one of own"


def test_a_new_user_finds_the_three_commands_in_the_help():
    text = ran(dataset, "--help").stdout
    for line in ("fintrec simulate ", "fintrec dataset build ", "fintrec dataset report "):
        assert line in text

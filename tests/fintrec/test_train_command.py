"""The verb `fintrec train`: tasks, run directory, start from a checkpoint, device and precision."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow.compute as pc
import pytest
import torch
from click.testing import CliRunner

from features.errors import ConfigurationError
from fintrec import logs
from fintrec.card_files import checkpoint_sha256, read_card
from fintrec.checkpoint import load, save
from fintrec.commands.train import train
from fintrec.learning.compute import Compute, device_of, precision_of
from fintrec.learning.curves import read_curve
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.training import NoExamples, completed, train_models
from tests.fintrec.tiny import config, training_set

SMALL = ("--json", "--epochs", "1")
for name, value in (("d_model", 16), ("num_layers", 1), ("evaluation_rows", 64), ("window", 20)):
    SMALL += ("--set", f"{name}={value}")


def ran(*arguments: object, code: int = 0):
    result = CliRunner().invoke(train, [str(argument) for argument in (*arguments, *SMALL)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def clickless(bank_log, tmp_path_factory) -> Path:
    """The log of a bank that did not keep who clicked."""
    log = tmp_path_factory.mktemp("clickless") / "log"
    shutil.copytree(bank_log, log, ignore=shutil.ignore_patterns(logs.CLICKSTREAM))
    table = logs.read_table(bank_log, logs.CLICKSTREAM)
    kept = table.filter(pc.not_equal(table["action"].cast("string"), "click"))
    assert 0 < len(kept) < len(table)
    logs.write_table(log, logs.CLICKSTREAM, kept)
    return log


def test_conversions_alone_are_trained_on_a_log_without_clicks(clickless, tmp_path) -> None:
    out = tmp_path / "checkpoint"
    told = orjson.loads(ran(clickless, "--tasks", "pcvr", "--out", out).stdout)
    assert list(told["training"]) == ["pcvr"]
    assert told["run"] == str(tmp_path / "checkpoint.run")
    assert list(load(out).models()) == ["pcvr"]
    left = {path.name for path in Path(told["run"]).iterdir()}
    assert left == {"curve-pcvr.jsonl", "curve-pcvr.png", "tensorboard"}  # its state is done with
    failed = ran(clickless, "--out", tmp_path / "other", code=1).exception
    assert isinstance(failed, NoExamples)
    assert "pCTR needs clicks: training has 0 pages with one" in str(failed)
    assert not (tmp_path / "other.run").exists()


def test_a_card_names_the_checkpoint_that_its_training_started_from(clickless, tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    command = (clickless, "--tasks", "pcvr", "--out")
    ran(*command, first)
    ran(*command, second, "--from", first)
    assert "started_from" not in read_card(first)["hashes"]
    assert read_card(second)["hashes"]["started_from"] == checkpoint_sha256(first)
    assert checkpoint_sha256(first) in (second / "MODEL_CARD.md").read_text()


def test_the_same_command_goes_on_and_another_training_does_not(clickless, tmp_path) -> None:
    """The cut is a checkpoint that cannot be written: the training was done by then."""
    out = tmp_path / "checkpoint"
    (out / "pcvr.safetensors").mkdir(parents=True)
    command = (clickless, "--tasks", "pcvr", "--out", out)
    assert isinstance(ran(*command, code=1).exception, OSError)
    state, curve = (
        tmp_path / "checkpoint.run" / f"{n}" for n in ("state-pcvr.pt", "curve-pcvr.jsonl")
    )
    rows = read_curve(curve)
    assert state.is_file()
    (out / "pcvr.safetensors").rmdir()
    failed = ran(*command, "--seed", 4, code=1).exception
    assert isinstance(failed, ConfigurationError)
    assert f"{state} is the state of another training: recipe.seed is 0, expected 4" in str(failed)
    told = orjson.loads(ran(*command).stdout)
    assert told["training"]["pcvr"]["steps"] == rows[-1]["step"]
    assert read_curve(curve) == rows
    assert not state.exists()


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory) -> Path:
    data = training_set(6)
    recipe = Recipe(name="tiny", model=config(), training=TrainingConfig(epochs=1))
    directory = tmp_path_factory.mktemp("tiny") / "checkpoint"
    save(completed(train_models(data, recipe), data, recipe), directory)
    return directory


def test_a_checkpoint_of_other_names_or_features_is_no_start(
    clickless, tiny_checkpoint, tmp_path
) -> None:
    command = (clickless, "--tasks", "pcvr", "--out", tmp_path / "out", "--from", tiny_checkpoint)
    failed = ran(*command, code=1).exception
    assert isinstance(failed, ConfigurationError)
    assert "to start from has vocabulary" in str(failed)
    assert "of 7 items, expected the data's" in str(failed)
    shutil.copytree(tiny_checkpoint, tmp_path / "old")
    metadata = json.loads((tmp_path / "old" / "checkpoint.json").read_text())
    (tmp_path / "old" / "checkpoint.json").write_text(json.dumps({**metadata, "registry": "f00"}))
    failed = ran(*command[:-1], tmp_path / "old", code=1).exception
    assert isinstance(failed, ConfigurationError)
    assert "trained on feature registry f00, this code has" in str(failed)


def test_a_start_of_another_shape_or_without_the_model_names_it(tiny_checkpoint) -> None:
    data, start = training_set(6), load(tiny_checkpoint)
    wide = Recipe(name="wide", model=config(d_head=20), training=TrainingConfig(epochs=1))
    with pytest.raises(ConfigurationError, match="the pctr to start from: weights do not fit"):
        train_models(data, wide, start=start)
    same = Recipe(name="same", model=config(), training=TrainingConfig(epochs=1))
    alone = completed(train_models(data, same, ("pcvr",)), data, same)
    with pytest.raises(ConfigurationError, match="start from holds pcvr, expected pctr"):
        train_models(data, same, start=alone)


def test_a_shared_trunk_asks_for_the_joint_training(bank_log) -> None:
    refused = ran(bank_log, "--set", "shared_trunk=true", code=2)
    assert "expected --tasks joint" in " ".join(refused.output.split())


def test_bf16_trains_float32_weights_to_about_the_same_loss() -> None:
    data = training_set(6)
    recipe = Recipe(
        name="half", model=config(dropout=0.0), training=TrainingConfig(epochs=2, batch_size=16)
    )
    half = train_models(data, recipe, compute=Compute(precision="bf16"))
    full = train_models(data, recipe)
    for name in ("pctr", "pcvr"):
        losses = [found.history[name]["best_validation_loss"] for found in (half, full)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
        assert losses[0] != losses[1]
    assert all(weight.dtype == torch.float32 for weight in half.pctr.parameters())


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigurationError, match="device is cuda, but torch finds no GPU"):
        device_of("cuda")
    assert device_of("auto") == torch.device("cpu")
    assert precision_of("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize("period", ["train", "validation"])
@pytest.mark.parametrize(("task", "needs"), [("pctr", "needs clicks"), ("pcvr", "needs pages")])
def test_an_empty_period_says_what_is_missing(period, task, needs) -> None:
    data = training_set(6)
    empty = replace(data, **{period: getattr(data, period).taken(np.zeros(0, np.int64))})
    recipe = Recipe(name="none", model=config(), training=TrainingConfig(epochs=1))
    with pytest.raises(NoExamples, match=rf"{needs}: training has \d+.*validation \d+"):
        train_models(empty, recipe, (task,))

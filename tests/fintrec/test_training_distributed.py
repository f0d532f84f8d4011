"""Two processes under torchrun (gloo) train as one does, and a killed pair goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fintrec.learning.compute import CPU
from fintrec.learning.curves import read_curve
from tests.fintrec.two_processes import KILLED_AT, gradients, losses

ROOT = Path(__file__).parents[2]
# Six processes import torch, one after the other's heels: half a minute on two free cores.
pytestmark = pytest.mark.timeout(900)


def torchrun(directory: Path, part: str) -> str:
    """Run a part in two processes; both parts end with an error, which ends the pair."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "tests.fintrec.two_processes", str(directory), part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    return done.stderr


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pair")
    said = torchrun(directory, "whole")
    files = [directory / f"whole-{rank}.pt" for rank in (0, 1)]
    assert all(file.is_file() for file in files), said
    assert "SIGKILL" in said or "-9" in said, said
    return directory, [torch.load(file, weights_only=True) for file in files]


def test_both_processes_have_the_same_weights(pair) -> None:
    _, (first, second) = pair
    for part in ("weights", "joint_weights", "kept"):
        assert list(first[part]) == list(second[part])
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), (part, name)
    assert first["losses"] == second["losses"]


def test_the_gradients_are_those_of_the_whole_batch(pair) -> None:
    """To float order: an average of the shares' means would be off by tens of per cent, since 5
    rows make shares of 3 and 2; a batch of one row is each process' own."""
    _, found = pair
    expected = gradients(CPU)
    assert min(one["rows"] for one in expected) == 1
    for ours in (found[0]["gradients"], found[1]["gradients"]):
        for mine, whole in zip(ours, expected, strict=True):
            assert mine["loss"] == pytest.approx(whole["loss"], rel=1e-5)
            for name, value in whole.items():
                if isinstance(value, torch.Tensor):
                    torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("part", ["losses", "joint"])
def test_the_losses_are_those_of_one_process(pair, part) -> None:
    """Of every step and evaluation. Not the weights: AdamW divides a gradient by its own size, so
    where one is next to nothing, the order of a sum decides which way its weight goes. Losses do
    not feel such weights. Without dropout, whose masks are of a process.
    """
    _, (first, _) = pair
    expected, _ = losses(CPU, shared=part == "joint")
    assert first[part][:2] == pytest.approx(expected[:2], rel=1e-5)
    assert first[part] == pytest.approx(expected, rel=2e-3)


def test_a_killed_pair_goes_on_and_a_number_that_is_none_in_one_ends_both(pair) -> None:
    directory, (first, _) = pair
    state = torch.load(directory / "run" / "state-pcvr.pt", weights_only=True)
    assert state["at"]["step"] == KILLED_AT - KILLED_AT % 5
    assert len(state["random"]) == 2  # each process' own
    torchrun(directory, "rest")
    for rank in (0, 1):
        again = torch.load(directory / f"rest-{rank}.pt", weights_only=True)
        for name, value in first["kept"].items():
            assert torch.equal(value, again[name]), (rank, name)
        said = json.loads((directory / f"rest-{rank}.json").read_text())
        assert said.startswith("pcvr: loss is nan, expected a finite number; epoch 1, step 4,")
    curves = [read_curve(directory / folder / "curve-pcvr.jsonl") for folder in ("uncut", "run")]
    assert [row["loss"] for row in curves[0]] == [row["loss"] for row in curves[1]]

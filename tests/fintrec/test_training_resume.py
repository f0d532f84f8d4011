"""A training that is killed goes on exactly; its curve is on disk as it goes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from features.errors import ConfigurationError
from features.vocabulary import Vocabulary
from fintrec.learning.curves import read_curve
from fintrec.learning.fingerprint import made_of
from fintrec.learning.run_state import Run
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.training import train_models
from tests.fintrec.tiny import ITEMS, NAMES, config, training_set

ROOT = Path(__file__).parents[2]
SAVE_STEPS = 7  # no divisor of an epoch's steps, so states are cut in the middle of epochs


def recipe(**training: object) -> Recipe:
    settings = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8, "label_stride": 6, **training}
    return Recipe(name="test", model=config(dropout=0.2), training=TrainingConfig(**settings))


@pytest.fixture(scope="module")
def data():
    return training_set(14)


def run_in(directory: Path, data, chosen: Recipe, **settings: object) -> Run:
    return Run(directory, made_of(data, chosen), save_steps=SAVE_STEPS, **settings)


def curve(directory: Path, task: str) -> list[dict[str, object]]:
    """A curve without the one column that no two trainings share."""
    rows = read_curve(directory / f"curve-{task}.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A training that nobody cut."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    chosen = recipe()
    return train_models(data, chosen, run=run_in(directory, data, chosen)), directory


def child(directory: Path) -> None:
    """Train in a process of its own (`python -c`): said to be killed."""
    torch.set_num_threads(1)
    data, chosen = training_set(14), recipe()

    def report(progress) -> None:
        os.write(1, f"{progress.model} {progress.step}\n".encode())

    train_models(data, chosen, run=run_in(directory, data, chosen), report=report)


def killed_at(directory: Path, model: str, step: int) -> None:
    """Start a child and kill -9 it as soon as it has said that step."""
    code = (
        "import pathlib; from tests.fintrec.test_training_resume import child; "
        f"child(pathlib.Path({str(directory)!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == [model, str(step)]:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL


def test_a_training_killed_at_a_random_step_goes_on_to_the_same_curve_and_weights(
    data, whole, tmp_path
) -> None:
    expected, expected_in = whole
    step = SAVE_STEPS + int(time.time_ns()) % 40  # of 78; any will do, and the message names it
    killed_at(tmp_path / "run", "pcvr", step)
    chosen = recipe()
    run = run_in(tmp_path / "run", data, chosen)
    left = torch.load(run.path("pcvr"), weights_only=True)["at"]["step"]
    assert step - SAVE_STEPS <= left <= step + SAVE_STEPS, step
    seen: list[tuple[str, int]] = []
    found = train_models(
        data, chosen, run=run, report=lambda told: seen.append((told.model, told.step))
    )
    assert seen[0] == ("pcvr", left + 1), step  # pctr was done, pcvr goes on where its state is
    for name, value in expected.pcvr.state_dict().items():
        assert torch.equal(value, found.pcvr.state_dict()[name]), (step, name)
    for name, value in expected.pctr.state_dict().items():
        assert torch.equal(value, found.pctr.state_dict()[name]), (step, name)
    for task in ("pctr", "pcvr"):
        assert curve(tmp_path / "run", task) == curve(expected_in, task), step
    told, expected_told = found.history["pcvr"], expected.history["pcvr"]
    assert {**told, "seconds": 0} == {**expected_told, "seconds": 0}, step


def test_a_run_directory_does_not_change_what_is_trained(data, whole) -> None:
    plain = train_models(data, recipe(), tasks=("pctr",))
    for name, value in plain.pctr.state_dict().items():
        assert torch.equal(value, whole[0].pctr.state_dict()[name]), name


def test_the_curve_has_every_step_and_evaluation_and_is_drawn(data, whole) -> None:
    _, directory = whole
    rows = read_curve(directory / "curve-pcvr.jsonl")
    steps = [row for row in rows if row["validation"] is None]
    evaluations = [row for row in rows if row["validation"] is not None]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    assert [row["epoch"] for row in evaluations] == [1, 2]
    assert steps[-1]["learning_rate"] < 0.1 * 1e-2 < steps[len(steps) // 2]["learning_rate"]
    tokens = [row["tokens"] for row in rows]
    assert tokens == sorted(tokens)
    assert tokens[-1] == 2 * data.train.end.clip(max=120).sum()  # each page's history, twice
    assert (directory / "curve-pcvr.png").read_bytes()[:4] == b"\x89PNG"
    scalars = EventAccumulator(str(directory / "tensorboard" / "pcvr")).Reload()
    assert [event.step for event in scalars.Scalars("loss")] == [row["step"] for row in steps]
    assert [event.value for event in scalars.Scalars("validation")] == pytest.approx(
        [row["validation"] for row in evaluations], rel=1e-6
    )


def test_a_finished_run_is_not_trained_again(data, whole) -> None:
    expected, directory = whole
    chosen, seen = recipe(), []
    again = train_models(data, chosen, run=run_in(directory, data, chosen), report=seen.append)
    assert not seen
    assert again.history == expected.history
    assert torch.equal(again.pctr.item_head.output.weight, expected.pctr.item_head.output.weight)


def other_names(data):
    return replace(data, vocabulary=Vocabulary.build({**NAMES, "page": ("home", "loans")}, ITEMS))


def other_clicks(data):
    clicked = data.train.clicked.copy()
    clicked[0] = ~clicked[0]
    return replace(data, train=replace(data.train, clicked=clicked))


@pytest.mark.parametrize(
    ("changed", "chosen", "said"),
    [
        (lambda data: data, recipe(epochs=4), r"recipe\.epochs is 2, expected 4: take another"),
        (lambda data: data, recipe(seed=3), r"recipe\.seed is 0, expected 3: take another"),
        (other_names, recipe(), r"vocabulary is '\w{12}', expected '\w{12}': take another"),
        (other_clicks, recipe(), r"data is '\w{12}', expected '\w{12}': take another"),
    ],
)
def test_a_state_of_another_training_is_refused_by_what_differs(
    data, whole, changed, chosen, said
) -> None:
    _, directory = whole
    other = changed(data)
    with pytest.raises(ConfigurationError, match=rf"state-pctr\.pt is .*another training: {said}"):
        train_models(other, chosen, run=run_in(directory, other, chosen))


def test_other_code_and_threads_are_refused_too(data, whole) -> None:
    _, directory = whole
    ours = made_of(data, recipe())
    theirs = Run(directory, {**ours, "code": "0.0.1+abc", "threads": 7})
    with pytest.raises(
        ConfigurationError, match=r"code is .*, expected '0.0.1\+abc'; threads is 1"
    ):
        theirs.read("pctr")


def test_a_state_that_cannot_be_read_is_named(data, tmp_path) -> None:
    run = run_in(tmp_path, data, recipe())
    (tmp_path / "state-pctr.pt").write_bytes(b"torn")
    with pytest.raises(ConfigurationError, match=r"state-pctr\.pt is no readable state"):
        run.read("pctr")


def test_a_curve_shorter_than_its_state_is_refused(data, whole, tmp_path) -> None:
    _, directory = whole
    run = run_in(tmp_path, data, recipe())
    (tmp_path / "state-pctr.pt").write_bytes((directory / "state-pctr.pt").read_bytes())
    (tmp_path / "curve-pctr.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    with pytest.raises(ConfigurationError, match="curve-pctr.jsonl has 12 bytes"):
        train_models(data, recipe(), run=run, tasks=("pctr",))

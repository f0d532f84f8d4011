"""The training bench: both paddings learn the same, its command runs, its section says what was."""

import json
import os

import pytest
import torch
from click.testing import CliRunner

from bench.training import main
from bench.training_measure import clock_of, encoded_ahead, padding, spread
from bench.training_profile import data_sheet_tflops, profiled
from bench.training_report import section
from bench.training_work import PARTS, Trainer, scoring_works, sequence_work, training_works
from features.history import WINDOW
from fintrec.learning.compute import CPU, Compute
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.public import item_sequences
from fintrec.public.sequence_decoder import DecoderShape
from fintrec.public.sequence_training import DecoderRecipe
from fintrec.result_files import read_cells
from tests.fintrec.tiny import config, training_set

RECIPE = Recipe(name="tiny", model=config(dropout=0.0), training=TrainingConfig(batch_size=4))


@pytest.fixture(scope="module")
def data():
    return training_set(num_users=6)


@pytest.fixture
def sequences(tmp_path):
    lines = [
        f"{user} {' '.join(str(1 + (user + i) % 9) for i in range(4 + user))}"
        for user in range(1, 9)
    ]
    path = tmp_path / "sequences.txt"
    path.write_text("\n".join(lines) + "\n")
    shape = DecoderShape(d_model=8, d_feed_forward=8, dropout=0.0, input_dropout=0.0)
    return sequence_work("made up", path, DecoderRecipe(shape=shape, negatives=4, tokens=20), 0)


def test_both_paddings_have_the_same_tokens_and_the_same_loss(data, sequences) -> None:
    works = [*training_works("tiny", data, RECIPE), sequences]
    assert [work.model for work in works] == ["pctr", "pcvr", "decoder"]
    for work in works:
        shorter = 0
        for planned in work.plan[:6]:
            padded, bucketed = work.encode(planned, True), work.encode(planned, False)
            window = item_sequences.WINDOW if work is sequences else WINDOW
            assert work.present(padded).shape[1] == window
            assert work.present(padded).sum() == work.present(bucketed).sum()
            assert work.module(padded).item() == pytest.approx(
                work.module(bucketed).item(), rel=1e-5
            )
            shorter += work.present(bucketed).shape[1] < window
        assert shorter, work.model


def test_both_paddings_score_the_same(data) -> None:
    for work in scoring_works("tiny", data, RECIPE):
        model = work.module.eval()
        with torch.inference_mode():
            padded, bucketed = (model(work.encode(work.plan[0], side)) for side in (True, False))
        torch.testing.assert_close(padded, bucketed, rtol=2e-3, atol=2e-3)  # by way of float16


def test_a_padding_row_counts_real_tokens_and_positions(data) -> None:
    (_, work) = training_works("tiny", data, RECIPE)
    ticks = iter(range(100_000))  # every reading a second later: encode and step take one each
    seen = []
    found = padding(work, lambda side, batch: seen.append(side), CPU, lambda: next(ticks), 3, 3)
    present = [work.present(work.encode(planned, False)) for planned in work.plan[:3]]
    real = sum(int(one.sum()) for one in present)
    positions = sum(one.numel() for one in present)
    assert found["positions_ratio"] == round(12 * WINDOW / positions, 2)
    assert found["most_ratio"] == round(12 * WINDOW / real, 2)
    assert found["padded_tokens_per_s"] == [round(real / 6)] * 3
    assert found["ratio"] == found["step_ratio"] == [1, 1, 1]
    counted = seen[-18:]
    assert counted.count("padded") == counted.count("bucketed") == 9
    assert counted[:4] == ["bucketed", "padded", "padded", "bucketed"]  # the first one changes


def test_a_step_has_its_parts_and_learns(data) -> None:
    (work, _) = training_works("tiny", data, RECIPE)
    trainer = Trainer(work, RECIPE.training, CPU)
    batch = work.encode(work.plan[0], False)
    before = trainer.loss(batch).item()
    for _ in range(5):
        assert tuple(trainer.stages(batch)) == PARTS[1:]
    assert trainer.loss(batch).item() < before
    assert work.module(batch).item() == pytest.approx(before)  # the work's own model stays


def test_a_step_in_bfloat16_has_about_the_same_loss(data) -> None:
    for work in training_works("tiny", data, RECIPE):
        batch = work.encode(work.plan[0], False)
        exact, rounded = (_loss_of_a_step(work, batch, p) for p in ("fp32", "bf16"))
        assert exact != rounded
        assert exact == pytest.approx(rounded, rel=0.02)


def _loss_of_a_step(work, batch, precision) -> float:
    trainer, losses = Trainer(work, RECIPE.training, Compute(precision=precision)), []
    trainer.loss.register_forward_hook(lambda _, __, loss: losses.append(loss.item()))
    list(trainer.stages(batch))
    return losses[0]


def test_the_profile_is_a_table_a_trace_and_the_slowest_operators(data, tmp_path) -> None:
    (_, work) = training_works("tiny", data, RECIPE)
    found = profiled(work, Trainer(work, RECIPE.training, CPU), 2, tmp_path, "tiny")
    shares = [one["share"] for one in found["operators"]]
    assert len(shares) == 10
    assert 0 < sum(shares) <= 1.001
    assert shares == sorted(shares, reverse=True)
    assert "aten::mm" in (tmp_path / "tiny-operators.txt").read_text()
    assert (tmp_path / "tiny-trace.json.gz").stat().st_size > 1000


def test_clocks_and_what_a_data_sheet_says() -> None:
    assert clock_of(CPU.device, 1)[0] == "CPU"
    assert clock_of(CPU.device, 2)[0] == "wall"
    assert spread([3.0, 1.0, 2.0]) == [2, 1, 3]
    assert data_sheet_tflops("NVIDIA H100 80GB HBM3") == 989
    assert data_sheet_tflops("NVIDIA H100 PCIe") == 756
    assert data_sheet_tflops("Some Other GPU") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    told = CliRunner().invoke(main, ["--device", "cuda"])
    assert told.exit_code == 2
    assert "--device cuda: torch finds no CUDA device, expected one" in told.output


def test_no_run_without_a_result_is_told(tmp_path) -> None:
    told = CliRunner().invoke(main, ["--no-run", "--out", str(tmp_path / "none")])
    assert told.exit_code == 2
    assert "has no finished cell" in told.output


def test_a_page_without_the_section_is_refused_before_anything_is_measured(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    told = CliRunner().invoke(main, ["--markdown", str(page), "--out", str(tmp_path / "none")])
    assert (told.exit_code, (tmp_path / "none").exists()) == (2, False)
    assert "has no section <!-- results:training -->" in " ".join(told.output.split())


def test_the_command_measures_once_and_writes_the_section(tmp_path) -> None:
    threads = torch.get_num_threads()
    argv = ["--bank-size", "tiny", "--recipe", "tiny_cpu", "--batches", "1", "--steps", "1"]
    argv += ["--profile", str(tmp_path / "profile"), "--out", str(tmp_path / "out")]
    page = tmp_path / "performance.md"
    page.write_text("before <!-- results:training --> <!-- /results:training --> after")
    try:
        told = CliRunner().invoke(main, argv, catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
    assert told.exit_code == 0, told.output
    cells = json.loads(told.stdout.splitlines()[-1])["cells"]
    case = "cpu-tiny_cpu-fp32-1"
    for what in ("training", "scoring"):
        for model in ("pctr", "pcvr"):
            row = cells.pop(f"padding-{case}-{what}-simulated_bank-{model}")["result"]
            assert (row["what"], row["model"], row["batches"]) == (what, model, 1)
    assert sorted(cells) == [
        f"{kind}-{case}" for kind in ("profile", "profile_scores", "scores", "steps")
    ]
    for row in cells[f"steps-{case}"]["result"]["rows"]:
        assert 0 < row["whole_share"][0] <= row["share"][0]
    assert len(os.listdir(tmp_path / "profile")) == 8

    argv = ["--no-run", "--out", str(tmp_path / "out"), "--markdown", str(page)]
    assert CliRunner().invoke(main, argv, catch_exceptions=False).exit_code == 0
    text = page.read_text()
    assert section(read_cells(tmp_path / "out")) in text
    for part in ("Padded against bucketed", "bare products", "Not run on a GPU yet", "aten::mm"):
        assert part in text
    assert str(tmp_path) not in text


def test_batches_encoded_ahead_are_the_same_steps(data) -> None:
    (_, work) = training_works("tiny", data, RECIPE)
    ticks = iter(range(100))  # a side takes one second
    weights = []
    for workers in (0, 2):
        trainer = Trainer(work, RECIPE.training, CPU)
        found = encoded_ahead(work, trainer, workers, lambda: next(ticks), 4, 3)
        weights.append(trainer.loss.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    real = sum(int(work.present(work.encode(planned, False)).sum()) for planned in work.plan[:4])
    assert found["ahead_tokens_per_s"] == found["in_between_tokens_per_s"] == [real] * 3
    assert (found["workers"], found["ratio"]) == (2, [1, 1, 1])

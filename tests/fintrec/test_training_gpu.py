"""Training on a GPU: the numbers of a CPU, bf16 beside them, a resume, a checkpoint for any machine.

Skipped without a GPU: python -m pytest tests/fintrec/test_training_gpu.py
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fintrec.checkpoint import load, save
from fintrec.evaluation import score
from fintrec.learning.compute import CPU, Compute, auto
from fintrec.learning.curves import read_curve
from fintrec.learning.fingerprint import made_of
from fintrec.learning.run_state import Run
from fintrec.training import completed, train_models
from tests.fintrec.tiny import training_set
from tests.fintrec.two_processes import losses, recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU = Compute(torch.device("cuda"))


class Cut(Exception):
    """What ends a training in its middle."""


@pytest.mark.parametrize("shared", [False, True])
def test_losses_are_those_of_a_cpu(shared: bool) -> None:
    on_cpu, on_gpu = (losses(compute, shared)[0] for compute in (CPU, GPU))
    assert on_gpu == pytest.approx(on_cpu, rel=2e-3)


def test_losses_in_bf16_are_near_those_in_fp32() -> None:
    found = [losses(replace(GPU, precision=p), shared=False)[0] for p in ("fp32", "bf16")]
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=5e-2)


def test_a_training_that_was_cut_goes_on_to_the_same_curve(tmp_path: Path) -> None:
    data, chosen = training_set(6), recipe(dropout=0.2, epochs=2)
    compute = replace(GPU, loader_workers=2)
    whole, cut = (
        Run(tmp_path / name, made_of(data, chosen, None, compute), save_steps=5)
        for name in ("whole", "cut")
    )
    train_models(data, chosen, ("pcvr",), run=whole, compute=compute)

    def report(progress) -> None:
        if progress.step == 13:
            raise Cut

    with pytest.raises(Cut):
        train_models(data, chosen, ("pcvr",), None, report, cut, compute)
    train_models(data, chosen, ("pcvr",), run=cut, compute=compute)
    one, other = (
        np.array([row["loss"] for row in read_curve(tmp_path / name / "curve-pcvr.jsonl")])
        for name in ("whole", "cut")
    )
    np.testing.assert_allclose(other, one, rtol=1e-3)


def test_its_checkpoint_scores_on_a_cpu_what_it_scored_there(tmp_path: Path) -> None:
    data, chosen = training_set(6), recipe(epochs=1)
    compute = auto()
    assert (compute.device.type, compute.precision) == ("cuda", "bf16")
    trained = train_models(data, chosen, compute=compute)
    pages = np.arange(len(data.test))
    there = score(trained.pctr, trained.pcvr, data, data.test, pages)
    save(completed(trained, data, chosen), tmp_path / "checkpoint")
    kept = load(tmp_path / "checkpoint")
    here = score(kept.pctr, kept.pcvr, data, data.test, pages)
    np.testing.assert_allclose(here.pctr_logits, there.pctr_logits, atol=1e-2)
    np.testing.assert_allclose(here.pcvr_logits, there.pcvr_logits, atol=1e-2)

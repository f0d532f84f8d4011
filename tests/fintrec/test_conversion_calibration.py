"""pCVR has no calibrator, so sampling its pages must not bend it: FinTRec section 3.2."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fintrec.batches import PageSample, sample_pages
from fintrec.calibration import conversion_probabilities
from fintrec.calibration_report import judged
from fintrec.datasets import TrainingSet
from fintrec.evaluation import score
from fintrec.learning import divergence, tasks
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.training import train_models
from tests.fintrec.tiny import config, training_set

RATE = 0.1


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    """Conversions after one page of twelve: keeping all of those bends the sample sixfold."""
    whole = training_set(40)
    rng = np.random.default_rng(0)
    periods = {}
    for name in ("train", "validation"):
        decisions = getattr(whole, name)
        kept = rng.random(len(decisions.converted_items)) < 0.25
        counts = np.concatenate(([0], np.cumsum(kept)))
        periods[name] = replace(
            decisions,
            converted_items=decisions.converted_items[kept],
            converted_indptr=counts[decisions.converted_indptr].astype(np.int64),
        )
    return replace(whole, **periods)


def measured(data: TrainingSet, page_rate: float) -> dict:
    """Calibration over all training pages of a pCVR that was trained on a share of them.

    One epoch: of several, the one that is best on whole validation pages would be kept, which
    hides part of what the sample does.
    """
    settings = TrainingConfig(
        epochs=1, learning_rate=1e-2, batch_size=2, page_rate=page_rate, validation_rows=1
    )
    recipe = Recipe(name="test", model=config(dropout=0.0), training=settings)
    pcvr = train_models(data, recipe, tasks=("pcvr",)).pcvr
    scored = score(None, pcvr, data, data.train, np.arange(len(data.train), dtype=np.int64))
    return judged(conversion_probabilities(scored.pcvr_logits).ravel(), scored.converted.ravel())


def test_sampled_pages_with_their_weights_leave_pcvr_calibrated(data) -> None:
    found = measured(data, RATE)
    assert found["positives"] > 50
    assert found["predicted_over_observed"] == pytest.approx(1, abs=0.25)
    assert found["log_loss_lift"] > 0.05


def test_sampled_pages_without_their_weights_would_not(data, monkeypatch) -> None:
    def unweighted(converting, rate, rng) -> PageSample:
        sample = sample_pages(converting, rate, rng)
        return PageSample(sample.pages, np.ones_like(sample.weight))

    monkeypatch.setattr(tasks, "sample_pages", unweighted)
    # So many conversions are far above the base rates' loss, which ends a training.
    monkeypatch.setattr(divergence, "LIMIT", math.inf)
    found = measured(data, RATE)
    assert found["predicted_over_observed"] > 2
    assert found["log_loss_lift"] < 0

"""Metrics of scored pages where there is little, nothing, or nonsense to measure."""

import numpy as np
import pytest

from fintrec.calibration import Calibration
from fintrec.calibration_choice import choose
from fintrec.datasets import TrainingSet
from fintrec.evaluation import Scored, evaluate, impressions, score
from fintrec.exposure import no_prior
from tests.fintrec.tiny import ITEMS, models, training_set

NUM_ITEMS = len(ITEMS)


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return training_set(6)


def test_a_split_without_pages_has_counts_and_no_metric(data: TrainingSet) -> None:
    pctr, pcvr = models()
    none = np.zeros(0, np.int64)
    scored = score(pctr, pcvr, data, data.test, none)
    found = evaluate(scored, data.test, Calibration("x"), no_prior(NUM_ITEMS))
    assert found == {"pages": 0, "clicks": 0, "conversions": 0}
    calibration = choose(impressions(scored, data.test), NUM_ITEMS)
    assert calibration.choice["reason"].startswith("no impression")


@pytest.mark.parametrize("broken", ["pctr_logits", "pcvr_logits"])
def test_a_model_that_says_nan_is_refused(data: TrainingSet, broken: str) -> None:
    pages = np.arange(len(data.test), dtype=np.int64)
    shape = len(pages), NUM_ITEMS
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    label = logits > 1
    whole = Scored(pages, logits, logits, label, np.ones(shape, bool))
    assert evaluate(whole, data.test, Calibration("x"), no_prior(NUM_ITEMS))["pcvr_auroc"] == 1
    some = logits.copy()
    some[0] = np.nan
    with pytest.raises(ValueError, match="predictions are NaN"):
        evaluate(whole._replace(**{broken: some}), data.test, Calibration("x"), no_prior(NUM_ITEMS))
    if broken == "pctr_logits":
        with pytest.raises(ValueError, match="levels of impressions are NaN"):
            choose(impressions(whole._replace(pctr_logits=some), data.test), NUM_ITEMS)

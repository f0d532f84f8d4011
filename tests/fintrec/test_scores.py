"""Metrics, report and card of one checkpoint share their scores, and say what each says alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fintrec import calibration_report, model_card
from fintrec.card_files import SUMS, read_card
from fintrec.checkpoint import save
from fintrec.datasets import TrainingSet
from fintrec.evaluation import Scored, Scores, score
from fintrec.learning.tasks import sampled
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.training import Trained, completed
from tests.fintrec.tiny import config, models, training_set


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return training_set(12)


class Counted:
    """Both models, untrained, and how many pages they have scored."""

    def __init__(self) -> None:
        self.pctr, self.pcvr = models()
        self.pages = {"pctr": 0, "pcvr": 0}
        for name, model in (("pctr", self.pctr), ("pcvr", self.pcvr)):
            model.register_forward_hook(self._counter(name))

    def _counter(self, name: str):
        def count(_model, _inputs, logits_BK) -> None:
            self.pages[name] += len(logits_BK)

        return count


def assert_same(one: Scored, other: Scored) -> None:
    for column, its in zip(one, other, strict=True):
        np.testing.assert_array_equal(column, its)


def test_a_draw_is_scored_once_and_as_it_would_be_alone(data) -> None:
    counted = Counted()
    scores = Scores(counted.pctr, counted.pcvr, data)
    for period, limit, seed, pages in (
        ("test", 20, 1, 20),
        ("test", 20, 1, 20),  # again
        ("test", 20, 2, 40),
        ("validation", 20, 1, 60),
        ("test", len(data.test), 1, 60 + len(data.test)),
        ("test", 10_000, 2, 60 + len(data.test)),  # all pages, whatever the seed
    ):
        found = scores.of(period, limit, seed)
        assert counted.pages == {"pctr": pages, "pcvr": pages}
        decisions = getattr(data, period)
        alone = score(*models(), data, decisions, sampled(decisions, limit, seed))
        assert_same(found, alone)


def test_what_follows_a_training_scores_a_page_once_and_writes_what_each_part_does_alone(
    data, tmp_path, without_pictures
) -> None:
    training = TrainingConfig(seed=model_card.PAGES_SEED, evaluation_rows=40)
    recipe = Recipe(name="small", model=config(), training=training)
    counted = Counted()
    trained = Trained(counted.pctr, counted.pcvr, {})

    def written(directory: Path, scores: Scores | None) -> tuple[Mapping[str, Any], ...]:
        checkpoint = completed(trained, data, recipe, scores)
        save(checkpoint, directory)
        report = calibration_report.write(directory, checkpoint, data, "bank", scores)
        model_card.write(directory, checkpoint, data, scores=scores)
        card = read_card(directory)
        assert json.loads((directory / calibration_report.FILE).read_text()) == report
        for told, times in ((report, ("machine",)), (card, ("made_at", "cost"))):
            for name in times:
                del told[name]
        return checkpoint.metrics, report, card

    together = written(tmp_path / "together", Scores(counted.pctr, counted.pcvr, data))
    assert counted.pages == {"pctr": 2 * 40, "pcvr": 2 * 40}
    alone = written(tmp_path / "alone", None)
    assert counted.pages == {"pctr": 7 * 40, "pcvr": 7 * 40}
    assert together == alone
    sums = [(tmp_path / name / SUMS).read_bytes() for name in ("together", "alone")]
    assert sums[0] == sums[1]

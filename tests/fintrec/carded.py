"""Small checkpoints with their cards, made by hand in a second."""

from dataclasses import replace
from pathlib import Path

from fintrec import checkpoint as checkpoints
from fintrec import model_card
from fintrec.calibration import Calibration
from fintrec.checkpoint import Checkpoint
from fintrec.datasets import TrainingSet
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.popularity import measure
from tests.fintrec.tiny import VOCABULARY, config, models, training_set


def write_carded(
    directory: Path,
    seed: int = 0,
    data: TrainingSet | None = None,
    b: float = -0.5,
    training: TrainingConfig | None = None,
    **changes: object,
) -> Checkpoint:
    """An untrained checkpoint of the given weights' seed and its card; `b` shifts its pCTR."""
    pctr, pcvr = models(seed, **changes)
    found = data if data is not None else training_set(24)
    checkpoint = Checkpoint(
        recipe=Recipe(name="test", model=config(**changes), training=training or TrainingConfig()),
        vocabulary=VOCABULARY,
        content_types=found.content_types,
        pctr=pctr,
        pcvr=pcvr,
        calibration=Calibration("platt-test", 1.5, b),
        popularity=measure(found),
        metrics={"training": {}},
    )
    checkpoints.save(checkpoint, directory)
    model_card.write(directory, checkpoint, found)
    return checkpoint


def other_pages(data: TrainingSet) -> TrainingSet:
    """The same data set with half of its test pages."""
    half = data.test.taken((data.test.time_ms < sorted(data.test.time_ms)[48]).nonzero()[0])
    return replace(data, test=half)

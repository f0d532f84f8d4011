"""Both models with weights by chance: no training, yet every event moves the ranking."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from features.records import Item
from features.spec import DAY_MS
from features.vocabulary import Vocabulary
from fintrec import model_card
from fintrec.bank.surfaces import PLACES
from fintrec.calibration import Calibration, Knots
from fintrec.checkpoint import Checkpoint, load, save
from fintrec.models.config import tiny_cpu
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.popularity import Popularity
from tests.fintrec.tiny import training_set

_OUTPUT_GAIN = 6.0  # spreads the untrained logits over a few units


def write_checkpoint(directory: Path, items: Sequence[Item], seed: int) -> None:
    """A checkpoint of recipe `tiny_cpu` that scores `items`; another seed is another model."""
    names = {
        "product": {place.product for place in PLACES} | {"credit_card", "checking"},
        "page": {place.page for place in PLACES},
        "placement": {place.placement for place in PLACES},
        "layout": {place.layout for place in PLACES},
    }
    vocabulary = Vocabulary.build(names, [item.item_id for item in items])
    recipe = tiny_cpu()
    torch.manual_seed(seed)
    pctr, pcvr = Pctr(vocabulary, recipe.model), Pcvr(vocabulary, recipe.model)
    for model in (pctr, pcvr):
        scale = model.encoder.embedding.dynamic_scale
        scale.fit(torch.full_like(scale.mean, 4.0), torch.full_like(scale.std, 5.0))
        with torch.no_grad():
            model.item_head.output.weight.mul_(_OUTPUT_GAIN)
    kinds = {item.item_id: item.content_type for item in items}
    rng = np.random.default_rng(seed)
    num_items = len(vocabulary.items)
    prior = {"marketing": 0.03, "servicing": 0.08, "third_party": 0.02, "": 0.04}
    save(
        Checkpoint(
            recipe=recipe,
            vocabulary=vocabulary,
            content_types=tuple(kinds[item_id] for item_id in vocabulary.items),
            pctr=pctr.eval(),
            pcvr=pcvr.eval(),
            calibration=_calibration(seed, num_items),
            popularity=Popularity(
                tuple(rng.uniform(0.01, 0.1, num_items).round(8).tolist()),
                tuple(rng.uniform(0.001, 0.01, num_items).round(8).tolist()),
                prior,
                {kind: round(rate / 10, 8) for kind, rate in prior.items()},
            ),
            metrics={},
        ),
        directory,
    )


def write_carded(directory: Path, items: Sequence[Item], seed: int) -> None:
    """`write_checkpoint`, and a card of it, judged on a few hand-made pages."""
    write_checkpoint(directory, items, seed)
    checkpoint = load(directory)
    known = checkpoint.vocabulary.items
    data = replace(
        training_set(6),
        items=known,
        content_types=checkpoint.content_types,
        vocabulary=checkpoint.vocabulary,
        window_ms=np.full(len(known), DAY_MS),
    )
    model_card.write(directory, checkpoint, data)


def _calibration(seed: int, num_items: int) -> Calibration:
    """Platt's map of an early version, or with an odd seed every part that a map may have."""
    if seed % 2 == 0:
        return Calibration(f"by-hand-{seed}", 0.9, 2.0)
    rng = np.random.default_rng(seed)
    return Calibration(
        f"by-hand-{seed}",
        0.9,
        1.5,
        0.4,
        Knots((-9000, -5000, -1000), (-8000, -5500, -500)),
        tuple(rng.integers(-800, 800, num_items).tolist()),
        tuple(rng.integers(700, 1300, num_items).tolist()),
        17.0,
    )

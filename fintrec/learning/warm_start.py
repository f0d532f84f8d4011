"""Weights of a checkpoint as the start of a training.

Its standardisation comes along: the weights were fitted to it. What differs in shape, or would mean
something else in another vocabulary, is refused by name.
"""

from collections.abc import Mapping

from torch import nn

from features.errors import ConfigurationError
from fintrec.checkpoint import Checkpoint, load_checked
from fintrec.datasets import TrainingSet
from fintrec.learning.fingerprint import vocabulary_sha256
from fintrec.models.config import Recipe


def start_from(
    start: Checkpoint, models: Mapping[str, nn.Module], data: TrainingSet, recipe: Recipe
) -> None:
    """Fill the models, by name; ConfigurationError when the checkpoint does not fit.

    Whether it is of this feature registry `fintrec.checkpoint.load` has seen to.
    """
    found, expected = start.vocabulary, data.vocabulary
    if found != expected:
        raise ConfigurationError(
            f"the checkpoint to start from has vocabulary {vocabulary_sha256(found)[:12]} of "
            f"{len(found.items)} items, expected the data's {vocabulary_sha256(expected)[:12]} of "
            f"{len(expected.items)}: its embeddings are of other names"
        )
    same = ("shared_trunk", "item_history", *(("click_link",) if "pctr" in models else ()))
    for name in same:
        had, wanted = (getattr(one.model, name) for one in (start.recipe, recipe))
        if had != wanted:
            raise ConfigurationError(
                f"the checkpoint to start from has {name}={had}, expected {wanted}"
            )
    held = start.models()
    for name, model in models.items():
        if name not in held:
            raise ConfigurationError(
                f"the checkpoint to start from holds {' and '.join(held)}, expected {name}"
            )
        load_checked(model, held[name].state_dict(), f"the {name} to start from")

"""A model card's section on the hidden truth of the simulated bank: judged after training, never in it.

`fintrec train` opens no file of the truth. Who has a simulated log's truth at hand adds this section
to a finished card; the weights, and the hash that the card is bound to, stay what they are.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from features.errors import ConfigurationError
from fintrec.card_data import log_facts, training_set_of
from fintrec.card_files import read_card
from fintrec.checkpoint import load
from fintrec.code_version import code_version
from fintrec.experiments.hidden_truth import judge_checkpoint
from fintrec.machine import describe
from fintrec.model_card import PAGES_SEED, write_files


def judge(directory: Path, log_dir: Path, dataset_dir: Path | None = None) -> dict[str, Any]:
    """Judge a checkpoint by the truth beside `log_dir` and write the card with what was found.

    On the test pages that the card's other numbers are of. `dataset_dir` is what the checkpoint was
    trained on if not the log itself. Raises LogError where no truth lies beside the log, and
    ConfigurationError where log or data set are not the card's.
    """
    card = read_card(directory)
    source = dataset_dir or log_dir
    if log_facts(source) != log_facts(log_dir):
        raise ConfigurationError(
            f"{log_dir}: its manifest says {log_facts(log_dir)}, {source} was built from "
            f"{log_facts(source)}: expected one log"
        )
    data = training_set_of(card, source)
    pages = card["judged"]["test"]["pages"]
    if not pages:
        raise ConfigurationError(f"{directory}: has no test pages, so nothing can be judged")
    checkpoint = load(directory)
    # Drawn by the recipe's seed there, by one of its own for cards.
    training = replace(checkpoint.recipe.training, seed=PAGES_SEED)
    checkpoint = replace(checkpoint, recipe=replace(checkpoint.recipe, training=training))
    found = judge_checkpoint(log_dir, checkpoint, data, pages)
    machine = describe()
    card["hidden_truth"] = {
        "made_at": machine["date"],
        "code": code_version(),
        "log": log_dir.resolve().name,
        **found,
    }
    write_files(directory, card)
    return card

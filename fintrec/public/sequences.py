"""Item sequences judged by full ranking, leave one out: popularity, item-kNN and the decoder.

Protocol of S3-Rec (Zhou et al., CIKM 2020): `item_sequences` says how a file is split, `full_ranking`
how an item is placed. Models are fitted on the training items alone, the decoder's epoch is chosen
on the validation targets, and nothing is fitted again before the test, whose inputs hold the
validation item. Popularity counted over all interactions, targets included, is an oracle for the
evaluator, not a model.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from fintrec.public import item_popularity, neighbours
from fintrec.public.full_ranking import Scorer, metrics, ranks
from fintrec.public.goals import Line
from fintrec.public.item_sequences import (
    HELD_OUT,
    MIN_ITEMS,
    ItemSequences,
    SequenceFileError,
    read,
)
from fintrec.public.sequence_training import CHOSEN_BY, DecoderRecipe, Epoch, train
from fintrec.public.source_files import cell_name, identity
from fintrec.public.suite import Say, silent
from fintrec.result_files import ResultFolder

FORM: Final = "sequence"
DECODER: Final = "decoder_seed"  # begins the cells of its seeds
TRAINED: Final = (DECODER,)
BUDGET_MINUTES: Final = 40.0  # of a decoder's training, where nothing else is said
DIGITS: Final = 6
GOALS: Final = {"hr@10": 0.0801, "ndcg@10": 0.0473}
BEAUTY: Final = "Beauty.txt"
# Popularity over all interactions, test: the README of the public data.
ORACLE: Final = {
    "hr@5": 0.0080,
    "ndcg@5": 0.0044,
    "hr@10": 0.0152,
    "ndcg@10": 0.0068,
    "hr@20": 0.0217,
    "ndcg@20": 0.0084,
}
# Test HR@10 and NDCG@10 on Amazon Beauty by this protocol, as later papers quote them.
PUBLISHED: Final = {
    "SASRec (2018)": (0.0605, 0.0318),
    "S3-Rec (2020)": (0.0647, 0.0327),
    "TIGER (2023)": (0.0648, 0.0384),
    "HSTU (2024)": (0.0704, 0.0389),
    "DuoRec (2022)": (0.0845, 0.0443),
    "SASRec + sampled softmax (2025)": (0.0921, 0.0531),
    "eSASRec (2025)": (0.0928, 0.0523),
}


def evaluate(
    path: Path,
    folder: ResultFolder,
    seeds: tuple[int, ...],
    budget_minutes: float | None = None,
    say: Say = silent,
    recipe: DecoderRecipe | None = None,
) -> dict[str, Any]:
    """Judge a file; SequenceFileError names the line that is not of the form."""
    source = identity(path)
    data = read(path)
    if max(map(len, data.training())) < 2:
        raise SequenceFileError(
            f"{path}: no user has more than {MIN_ITEMS} items, expected some with two or more to "
            "learn from beside those to validate and to test on"
        )
    recipe = recipe or DecoderRecipe()
    budget_minutes = BUDGET_MINUTES if budget_minutes is None else float(budget_minutes)

    def cell(model: str, settings: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> Any:
        name = cell_name(FORM, path, model)
        return folder.cell(name, {**source, **settings}, compute)["result"]

    models = {
        "popularity_all": cell("popularity_all", {}, lambda: _popularity(data, everything=True)),
        "popularity": cell("popularity", {}, lambda: _popularity(data, everything=False)),
        "knn": cell("knn", asdict(neighbours.NeighbourSettings()), lambda: _neighbours(data)),
    }
    trained = []
    for seed in seeds:
        settings = {**recipe.to_dict(), "seed": seed, "budget_minutes": budget_minutes}
        name = f"{DECODER}{seed}"
        keep = None if folder.directory is None else folder.directory / cell_name(FORM, path, name)
        trained.append(
            cell(
                name,
                settings,
                lambda seed=seed, keep=keep: _decoder(  # type: ignore[misc]
                    data, recipe, seed, budget_minutes, say, keep
                ),
            )
        )
    return {
        "form": FORM,
        **source,
        "users": data.num_users,
        "items": data.num_items,
        "interactions": len(data.items),
        "protocol": "leave one out; input the newest 50; all items ranked; history masked; "
        "ties count against the model",
        "models": {**models, "decoder": trained[0]},
        "decoder_seeds": trained,
        "seeds": list(seeds),
    }


def figures(data: ItemSequences, scorer: Scorer) -> dict[str, Any]:
    """HR and NDCG at each cutoff on validation and test."""
    return {
        part: {name: round(value, DIGITS) for name, value in found.items()}
        for part in HELD_OUT
        for found in [metrics(ranks(data, part, scorer))]  # type: ignore[arg-type]
    }


def _popularity(data: ItemSequences, *, everything: bool) -> dict[str, Any]:
    counted = [data.items] if everything else data.training()
    return figures(data, item_popularity.count(counted, data.num_items).score)


def _neighbours(data: ItemSequences) -> dict[str, Any]:
    return figures(data, neighbours.fit(data.training(), data.num_items).score)


def _decoder(
    data: ItemSequences,
    recipe: DecoderRecipe,
    seed: int,
    budget_minutes: float,
    say: Say,
    keep: Path | None,
) -> dict[str, Any]:
    """Train and judge; beside `keep` go a line an epoch, the state of a cut run, and the weights."""
    begun = time.process_time()
    lines_path = None if keep is None else keep.with_name(f"{keep.name}.epochs.jsonl")
    state_path = None if keep is None else keep.with_name(f"{keep.name}.state.pt")
    if lines_path is not None:
        lines_path.parent.mkdir(parents=True, exist_ok=True)
        lines_path.write_text("")

    def heard(epoch: Epoch) -> None:
        best = epoch.validation or {}
        text = f"epoch {epoch.epoch} of {epoch.planned}, loss {epoch.loss:.3f}"
        if best:
            text += f", validation {best['hr@10']:.4f} / {best['ndcg@10']:.4f}"
        say(f"decoder, seed {seed}", epoch.epoch / epoch.planned, text)
        if lines_path is not None:
            with lines_path.open("a") as file:
                file.write(json.dumps(asdict(epoch)) + "\n")

    trained = train(data, recipe, seed, 60.0 * budget_minutes, heard, state_path)
    found = {
        **figures(data, trained.model.score),
        "epoch": trained.best_epoch,
        "epochs": len(trained.history),
        "chosen_by": f"validation {CHOSEN_BY}",
        "training_minutes": round(trained.history[-1].seconds / 60.0, 2),
        "cpu_minutes": round((time.process_time() - begun) / 60.0, 2),
        "threads": torch.get_num_threads(),
        "weights": sum(weight.numel() for weight in trained.model.parameters()),
        "curve": [
            [epoch.epoch, round(epoch.loss, 4), *_rounded(epoch.validation)]
            for epoch in trained.history
        ],
    }
    if keep is not None and state_path is not None:
        save_file(trained.model.state_dict(), keep.with_name(f"{keep.name}.safetensors"))
        state_path.unlink()
    return found


def _rounded(validation: dict[str, float] | None) -> list[float]:
    if validation is None:
        return []
    return [round(validation[name], DIGITS) for name in ("hr@10", "ndcg@10")]


def lines(result: dict[str, Any]) -> list[Line]:
    """The decoder's test figures beside the goals; goals and others' figures are Amazon Beauty's."""
    of_beauty = result["file"] == BEAUTY
    found = []
    for name, goal in GOALS.items():
        values = tuple(seed["test"][name] for seed in result["decoder_seeds"])
        beside = {
            model: round(result["models"][model]["test"][name], 4)
            for model in ("popularity_all", "popularity", "knn")
        }
        if of_beauty:
            beside |= {model: pair[name == "ndcg@10"] for model, pair in PUBLISHED.items()}
        data = Path(result["file"]).stem
        measure = f"next item, full ranking, {name.upper()}"
        cells = tuple(
            cell_name(FORM, Path(result["file"]), f"{DECODER}{seed}") for seed in result["seeds"]
        )
        found.append(
            Line(data, measure, values, goal if of_beauty else None, "higher", beside, cells)
        )
    return found

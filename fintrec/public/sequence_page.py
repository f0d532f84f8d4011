"""The section of a page that tells what the models reach on a file of item sequences.

Made from the finished cells of a result folder, so every number stands in a file that says by which
command, on which machine and when it was measured. Seeds of one decoder make one row.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from features.errors import ConfigurationError
from fintrec.machine import in_words
from fintrec.public.full_ranking import CUTOFFS
from fintrec.public.item_sequences import HELD_OUT
from fintrec.public.sequences import BEAUTY, DECODER, FORM, PUBLISHED
from fintrec.public.source_files import cell_name
from fintrec.result_files import markdown_table, read_cells

_NAMES: Final = {
    "popularity_all": "popularity, targets counted too (oracle of the evaluator)",
    "popularity": "popularity of training items",
    "knn": "recency-weighted item-kNN",
}
Cell = Mapping[str, Any]


def section(file: str, directory: Path) -> str:
    """The section for a file of sequences, by its name; ConfigurationError where cells are missing or differ."""
    prefix = cell_name(FORM, Path(file), "")
    cells = {
        name.removeprefix(prefix): cell
        for name, cell in read_cells(directory).items()
        if name.startswith(prefix)
    }
    seeds = [cell for name, cell in cells.items() if name.startswith(DECODER)]
    missing = [name for name in _NAMES if name not in cells] + ([] if seeds else [DECODER])
    if missing:
        raise ConfigurationError(
            f"{directory} has no finished cell {prefix}{missing[0]}: run fintrec evaluate sequence "
            "with --out first"
        )
    _check_alike(seeds, directory)
    simple = {_NAMES[name]: [cells[name]["result"]] for name in _NAMES}
    label = f"decoder, {len(seeds)} seed" + ("s" if len(seeds) > 1 else "")
    models = {**simple, label: [cell["result"] for cell in seeds]}
    blocks = [_part(models, part, file) for part in ("test", "validation")]
    assert set(HELD_OUT) == {"test", "validation"}
    return "\n\n".join([*blocks, _seeds(seeds), _origin(seeds)])


def _check_alike(seeds: Sequence[Cell], directory: Path) -> None:
    made_of = [{k: v for k, v in cell["settings"].items() if k != "seed"} for cell in seeds]
    if any(settings != made_of[0] for settings in made_of):
        raise ConfigurationError(
            f"{directory}: its decoders were trained with different settings, expected one recipe"
        )


def _part(models: Mapping[str, Sequence[Any]], part: str, file: str) -> str:
    lines = [
        (name, *(_cell([result[part] for result in results], cutoff) for cutoff in CUTOFFS))
        for name, results in models.items()
    ]
    if part == "test" and file == BEAUTY:
        lines += [
            (f"{name}, as published", "-", "-", f"{hr:.4f} / {ndcg:.4f}", "-")
            for name, (hr, ndcg) in PUBLISHED.items()
        ]
    head = (f"{part}, HR / NDCG", *(f"@{cutoff}" for cutoff in CUTOFFS))
    return "\n".join(markdown_table(head, lines))


def _cell(figures: Sequence[Mapping[str, float]], cutoff: int) -> str:
    hr, ndcg = (
        float(np.mean([found[f"{name}@{cutoff}"] for found in figures])) for name in ("hr", "ndcg")
    )
    return f"{hr:.4f} / {ndcg:.4f}"


def _seeds(seeds: Sequence[Cell]) -> str:
    head = (
        "decoder",
        "test HR@10 / NDCG@10",
        "epoch kept",
        "epochs",
        "training, minutes",
        "processor, minutes",
        "threads",
        "weights",
    )
    lines = [
        (
            f"seed {cell['settings']['seed']}",
            _cell([cell["result"]["test"]], 10),
            *(str(cell["result"][name]) for name in ("epoch", "epochs")),
            *(f"{cell['result'][name]:.1f}" for name in ("training_minutes", "cpu_minutes")),
            str(cell["result"]["threads"]),
            f"{cell['result']['weights']:,}",
        )
        for cell in seeds
    ]
    return "\n".join(markdown_table(head, lines))


def _origin(seeds: Sequence[Cell]) -> str:
    commands = "\n".join(sorted({f"    {cell['command']}" for cell in seeds}))
    machines = sorted({f"{in_words(c['machine'])}, {c['machine']['date'][:10]}" for c in seeds})
    return f"Measured by\n\n{commands}\n\non {'; '.join(machines)}."

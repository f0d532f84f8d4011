"""How the offer encoder's settings were chosen: folds of time within the training offers.

    python -m fintrec.public.offer_folds LOG.parquet TRIALS.jsonl NAME [KEY=VALUE ...]    a trial
    python -m fintrec.public.offer_folds TRIALS.jsonl PAGE.md    the table, between results:offer_trials

The training offers' last four tenths are judged one after the other, each by models that learned
from what came before it; pretraining ends at its first offer. In the same folds the forest stands
beside the encoder, and the mean of both log odds; in the file's first line all other baselines too.
No test offer is looked at. A trial is one line of the file.
"""

import json
import sys
import time
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from features.errors import ConfigurationError
from fintrec.public.event_log import EventLog, read_event_log
from fintrec.public.offer_encoder import OfferSettings
from fintrec.public.offer_training import ensemble, judged, pretrained, windows_of
from fintrec.public.offers import (
    BOTH,
    MODELS,
    Offers,
    baseline_probabilities,
    figures,
    find_offers,
    split,
)
from fintrec.result_files import markdown_table, write_section

CUTS: Final = (0.6, 0.7, 0.8, 0.9, 1.0)
_BESIDE: Final = (BOTH, "forest", "logistic", "boosting", "constant")


def folds(train: Offers) -> list[tuple[Offers, Offers]]:
    """(learned from, judged) of each fold, in the order of time."""
    cuts = [int(share * len(train)) for share in CUTS]
    return [
        (train.take(slice(0, begin)), train.take(slice(begin, end)))
        for begin, end in zip(cuts[:-1], cuts[1:], strict=True)
    ]


def trial(
    log: EventLog, settings: OfferSettings, seed: int = 0, *, beside: bool = True
) -> dict[str, Any]:
    """Log losses of encoder, forest and both together, mean and by fold; all baselines if `beside`."""
    found: dict[str, list[float]] = {}
    for known, asked in folds(split(find_offers(log))[0]):
        train, test = windows_of(log, known, asked, settings)
        start = pretrained(log, int(asked.sent_ms_O.min()), settings, seed)
        ours_O, trained = ensemble(train, test, start, settings, seed)
        names = MODELS if beside else ("forest",)
        others = baseline_probabilities(log, known, asked, names)
        ours = judged(ours_O, others["forest"], asked)
        losses = {
            "encoder": ours["test"]["log_loss"],
            "one member": float(np.mean([member["log_loss"] for member in trained["members"]])),
            BOTH: ours["with_forest"]["log_loss"],
            **{name: figures(other_O, asked)["log_loss"] for name, other_O in others.items()},
        }
        for name, loss in losses.items():
            found.setdefault(name, []).append(round(loss, 4))
    return {
        "mean": {name: round(float(np.mean(losses)), 4) for name, losses in found.items()},
        "by_fold": found,
    }


def with_changes(settings: OfferSettings, changes: list[str]) -> OfferSettings:
    """Settings with KEY=VALUE changed, of the head or of the encoder; ConfigurationError for no key."""
    own = {one.name for one in fields(settings)} - {"kinds"}
    for change in changes:
        name, _, text = change.partition("=")
        if name in own:
            settings = replace(settings, **{name: json.loads(text)})
        elif name.startswith("kinds.") and hasattr(settings.kinds, name.removeprefix("kinds.")):
            kinds = replace(settings.kinds, **{name.removeprefix("kinds."): json.loads(text)})
            settings = replace(settings, kinds=kinds)
        else:
            raise ConfigurationError(f"no setting {name!r}, expected kinds.KEY or {sorted(own)}")
    return settings


def main(path: str, trials: str, name: str, *changes: str) -> None:
    """Run one trial and append its line."""
    torch.set_num_threads(1)
    settings, begun = with_changes(OfferSettings(), list(changes)), time.perf_counter()
    log, is_first = read_event_log(Path(path)), not Path(trials).exists()
    found = trial(log, settings, beside=is_first)
    line = {
        "name": name,
        "changes": list(changes),
        "settings": settings.to_dict(),
        **found,
        "seconds": round(time.perf_counter() - begun),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    with Path(trials).open("a") as file:
        file.write(json.dumps(line) + "\n")


def table(trials: Path) -> str:
    """Markdown of a file of trials: mean log loss of each, what stood beside it in the same folds."""
    lines = [json.loads(line) for line in trials.read_text().splitlines()]
    rows = [
        (
            line["name"],
            *(f"{mean[name]:.4f}" if name in mean else "-" for name in ("encoder", *_BESIDE)),
        )
        for line in lines
        if "name" in line
        for mean in [line.get("mean", {})]
    ]
    notes = [line["note"] for line in lines if "note" in line]
    return "\n\n".join(("\n".join(markdown_table(("trial", "ours", *_BESIDE), rows)), *notes))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        write_section(Path(sys.argv[2]), "offer_trials", table(Path(sys.argv[1])))
    else:
        main(*sys.argv[1:])

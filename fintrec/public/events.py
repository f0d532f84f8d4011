"""The form `events` of the public suite: an event log of cases, judged by its next events.

Where the log has offers (`offers.py`), our encoder says at once which of them will be accepted, alone
and together with a forest, beside a constant, the forest, boosting, and a line through the encoder's
own side features.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fintrec.logs import LogError
from fintrec.public import next_event, offer_training
from fintrec.public.event_log import EventLog, read_event_log
from fintrec.public.goals import Line, next_kind_lines
from fintrec.public.leaks import suspect_below
from fintrec.public.offer_encoder import OfferSettings
from fintrec.public.offers import GOAL_LOG_LOSS, JUDGED, MODELS, VARIANTS, offer_baselines
from fintrec.public.source_files import cell_name, identity
from fintrec.public.suite import Say, silent, told
from fintrec.result_files import ResultFolder

FORM: Final = "events"
BPIC: Final = "bpic2012.parquet"  # the file that the goals were set for
TRAINED: Final = ("next_decoder-seed", "offers_encoder-seed")
Cell = Callable[[str, dict[str, Any], Callable[[], dict[str, Any]]], Any]
"""(name of the part, settings, how to compute it) -> its result, computed or kept."""


def evaluate(
    path: Path,
    folder: ResultFolder,
    seeds: tuple[int, ...],
    budget_minutes: float | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """Judge an event log; LogError for a file that is not of the form."""
    source = identity(path)
    log = read_event_log(path)
    if log.num_cases < next_event.FEWEST_CASES:
        raise LogError(
            f"{path}: {log.num_cases} cases, expected at least {next_event.FEWEST_CASES}: one to "
            "learn from, one to validate on, one to test on"
        )

    def cell(part: str, settings: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> Any:
        named = cell_name(FORM, path, part)
        return folder.cell(named, {**source, **settings}, compute)["result"]

    offers = _offers(log, cell, seeds, budget_minutes, say)
    return {
        "form": FORM,
        **source,
        "events": len(log.kind_N),
        "cases": log.num_cases,
        "kinds": len(log.kinds),
        "next_event": _next_event(log, cell, seeds, budget_minutes, say),
        "offers": offers,
        "suspect": suspects(path.name, offers),
    }


def _next_event(
    log: EventLog, cell: Cell, seeds: tuple[int, ...], budget_minutes: float | None, say: Say
) -> dict[str, Any]:
    ngrams = {"orders": next_event.ORDERS, "min_count": next_event.MIN_COUNT}
    settings = {**next_event.SETTINGS.to_dict(), "budget_minutes": budget_minutes}
    return {
        "beside": cell("next_ngrams", ngrams, lambda: next_event.ngram_quality(log)),
        "decoder": {
            str(seed): cell(
                f"next_decoder-seed{seed}",
                {**settings, "seed": seed},
                lambda seed=seed: next_event.decoder_quality(  # type: ignore[misc]
                    log, seed, budget_minutes, told(say, f"next event, seed {seed}")
                ),
            )
            for seed in seeds
        },
    }


def _offers(
    log: EventLog, cell: Cell, seeds: tuple[int, ...], budget_minutes: float | None, say: Say
) -> dict[str, Any]:
    protocol = {"variants": list(VARIANTS), "models": list(MODELS), "minus": "forest"}
    found = dict(cell("offers_baselines", protocol, lambda: offer_baselines(log)))
    if "reason" in found:
        return found
    together = {"with_forest": "mean of log odds"}
    settings = {**OfferSettings().to_dict(), **together, "budget_minutes": budget_minutes}
    found["encoder"] = {
        str(seed): cell(
            f"offers_encoder-seed{seed}",
            {**settings, "seed": seed},
            lambda seed=seed: offer_training.encoder_quality(  # type: ignore[misc]
                log, seed, budget_minutes, say
            ),
        )
        for seed in seeds
    }
    return found


def suspects(file: str, offers: dict[str, Any]) -> list[str]:
    """The log losses on offers that are too good to be true, in words."""
    if "reason" in offers:
        return []
    found = []
    for variant in VARIANTS:
        bound = suspect_below(offers[variant]["constant"]["log_loss"])
        losses = {name: offers[variant][name]["log_loss"] for name in MODELS}
        losses |= {
            f"{name}, seed {seed}": one[variant][part]["log_loss"]
            for name, part in JUDGED.items()
            for seed, one in offers["encoder"].items()
        }
        found += [
            f"{file}, offers ({variant}), {name}: log loss {loss:.4f} is suspect, expected {bound:.4f} "
            "or more: does the log hold what came after an O_SENT before it?"
            for name, loss in losses.items()
            if loss < bound
        ]
    return found


def lines(result: dict[str, Any]) -> list[Line]:
    """The measures beside their goals, which are those of BPI Challenge 2012."""
    data, is_bpic = f"events {result['file']}", result["file"] == BPIC
    goal = next_event.GOAL_NLL if is_bpic else None
    cell = cell_name(FORM, Path(result["file"]), TRAINED[0])
    return [
        *next_kind_lines(data, "next event", result["next_event"], goal, cell),
        *_offer_lines(data, result, is_bpic),
    ]


def _offer_lines(data: str, result: dict[str, Any], is_bpic: bool) -> list[Line]:
    offers = result["offers"]
    if "reason" in offers:
        return []
    cell = cell_name(FORM, Path(result["file"]), TRAINED[1])
    return [
        Line(
            data,
            f"offer conversion, {variant}, {name}, log loss",
            tuple(one[variant][part]["log_loss"] for one in offers["encoder"].values()),
            GOAL_LOG_LOSS if is_bpic and variant == "published" else None,
            "lower",
            {name: offers[variant][name]["log_loss"] for name in MODELS},
            tuple(f"{cell}{seed}" for seed in offers["encoder"]),
        )
        for variant in VARIANTS
        for name, part in JUDGED.items()
    ]

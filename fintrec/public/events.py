"""The form `events` of the public suite: an event log of cases, judged by its next events.

Where the log has offers (`offers.py`), the constant and two models on counts say how hard it is to
tell at once which of them will be accepted.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fintrec.public import next_event
from fintrec.public.event_log import EventLog, read_event_log
from fintrec.public.goals import Line, next_kind_lines
from fintrec.public.offers import offer_baselines
from fintrec.public.source_files import cell_name, identity
from fintrec.public.suite import Say, silent, told
from fintrec.result_files import ResultFolder

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

    def cell(part: str, settings: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> Any:
        named = cell_name("events", path, part)
        return folder.cell(named, {**source, **settings}, compute)["result"]

    return {
        "form": "events",
        **source,
        "events": len(log.kind_N),
        "cases": log.num_cases,
        "kinds": len(log.kinds),
        "next_event": _next_event(log, cell, seeds, budget_minutes, say),
        "offers": cell("offers_baselines", {}, lambda: offer_baselines(log)),
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


def lines(result: dict[str, Any]) -> list[Line]:
    """The measures beside their goals."""
    data = f"events {result['file']}"
    return next_kind_lines(data, "next event", result["next_event"], next_event.GOAL_NLL)

"""The form `events` of the public suite: an event log of cases, judged in two ways.

Next event over all cases (`next_event.py`), and whether an offer sent is accepted within 30 days
(`offers.py`) where the log has offers.
"""

from pathlib import Path
from typing import Any

from fintrec.public import next_event
from fintrec.public.event_log import read_event_log
from fintrec.public.goals import Line
from fintrec.public.source_files import cell_name, identity
from fintrec.public.suite import Say, silent
from fintrec.result_files import ResultFolder


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
    ngrams = folder.cell(
        cell_name("events", path, "next_ngrams"),
        {**source, "orders": next_event.ORDERS, "min_count": next_event.MIN_COUNT},
        lambda: next_event.ngram_quality(log),
    )
    return {
        "form": "events",
        **source,
        "events": len(log.kind_N),
        "cases": log.num_cases,
        "kinds": len(log.kinds),
        "next_event": {"beside": ngrams["result"]},
    }


def lines(result: dict[str, Any]) -> list[Line]:
    """The measures beside their goals."""
    return []

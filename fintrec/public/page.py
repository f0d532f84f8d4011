"""The section of a page that a run of the public suite writes: goals, every model, where from.

All numbers are those of the run's result cells; the last table says when, by which code and in how
many minutes each cell was made.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fintrec.machine import in_words
from fintrec.public.goals import Line
from fintrec.public.offers import BOTH, JUDGED, MODELS, VARIANTS
from fintrec.public.sequences import BEAUTY, ORACLE
from fintrec.public.source_files import cell_name
from fintrec.result_files import markdown_table, read_cells

_GOALS: Final = ("data", "measure", "mean", "range over seeds", "goal", "reached", "result files")
_NEXT: Final = ("model", "NLL, nats", "range", "top-1", "weights")


def section(found: Mapping[str, Any], lines: Sequence[Line], directory: Path) -> str:
    """Markdown of a run whose cells lie in a directory."""
    results = found["results"]
    blocks = ["### Goals", _table(_GOALS, map(_goal, lines))]
    if "sequence" in results:
        blocks += _oracle(results["sequence"])
    if "sessions" in results:
        blocks += _next("Next page", results["sessions"], results["sessions"]["next_page"])
    if "events" in results:
        blocks += _next("Next event", results["events"], results["events"]["next_event"])
        blocks += _offers(results["events"])
    return "\n\n".join([*blocks, *_origin(results, directory)])


def _table(names: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(markdown_table(names, lines))


def _goal(line: Line) -> tuple[str, ...]:
    data, measure, mean, spread, goal, reached, _ = line.cells()
    return data, measure, mean, spread, goal, reached, _files(line.files)


def _files(names: Sequence[str]) -> str:
    """`a-seed0.json`, `1`, `2`: the first whole, the rest by what is different."""
    if not names:
        return "-"
    stem = names[0].rstrip("0123456789")
    more = [f"`{name.removeprefix(stem)}`" for name in names[1:]]
    return ", ".join([f"`{names[0]}.json`", *more])


def _oracle(result: Mapping[str, Any]) -> list[str]:
    test = result["models"]["popularity_all"]["test"]
    said = ", ".join(f"{name.upper()} {test[name]:.4f}" for name in ORACLE)
    if result["file"] != BEAUTY:
        return [f"The evaluator's oracle (popularity, targets counted too): {said}."]
    is_exact = all(round(test[name], 4) == value for name, value in ORACLE.items())
    verdict = "exactly the published figures" if is_exact else f"published are {ORACLE}"
    return [
        f"The evaluator's oracle on Amazon Beauty (popularity, targets counted too): {said}; {verdict}."
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.4f}-{max(values):.4f}" if len(values) > 1 else "-"


def _next(title: str, result: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    rows = [
        (name, f"{one['nll']:.4f}", "-", f"{one['accuracy']:.4f}", "-")
        for name, one in measured["beside"].items()
    ]
    seeds = list(measured["decoder"].values())
    nll = [one["test"]["nll"] for one in seeds]
    accuracy = float(np.mean([one["test"]["accuracy"] for one in seeds]))
    weights = f"{seeds[0]['training']['weights']:,}"
    name = f"decoder, {_seeds(measured['decoder'])}"
    rows.append((name, f"{np.mean(nll):.4f}", _spread(nll), f"{accuracy:.4f}", weights))
    targets = seeds[0]["test"]["targets"]
    return [
        f"### {title}: {result['file']}, {targets:,} test targets",
        _table(_NEXT, rows),
    ]


def _seeds(seeds: Mapping[str, Any]) -> str:
    return f"seed {next(iter(seeds))}" if len(seeds) == 1 else f"seeds {', '.join(seeds)}"


def _offers(result: Mapping[str, Any]) -> list[str]:
    offers = result["offers"]
    if "reason" in offers:
        return [f"Offers: none judged, {offers['reason']}."]
    head = ["test log loss / AUROC"]
    for variant in VARIANTS:
        head.append(f"{variant}, {offers[variant]['train_offers']:,} training offers")
    rows = [(name, *(_figures([offers[variant][name]]) for variant in VARIANTS)) for name in MODELS]
    encoders = offers["encoder"]
    members = next(iter(encoders.values()))[VARIANTS[0]]["members"]
    rows.append(
        (
            f"one encoder, mean of {len(encoders) * len(members)}",
            *(
                _figures([one for seed in encoders.values() for one in seed[v]["members"]])
                for v in VARIANTS
            ),
        )
    )
    for name, part in (
        (f"encoder, mean of {len(members)} members, {_seeds(encoders)}", JUDGED["encoder"]),
        (f"{BOTH}, mean of both log odds, {_seeds(encoders)}", JUDGED[BOTH]),
    ):
        of_seeds = {v: [seed[v][part] for seed in encoders.values()] for v in VARIANTS}
        rows.append((name, *(_figures(of_seeds[v]) for v in VARIANTS)))
        spreads = (_spread([one["log_loss"] for one in of_seeds[v]]) for v in VARIANTS)
        rows.append(("range of its log loss over the seeds", *spreads))
    suspect = result["suspect"]
    verdict = "; ".join(suspect) if suspect else "no figure is below the bound of a leak"
    return [
        f"### Offer conversion: {result['file']}, {offers['test_offers']:,} test offers",
        _table(head, rows),
        *_minus_forest(offers),
        f"Leak checks: {verdict}.",
    ]


def _minus_forest(offers: Mapping[str, Any]) -> list[str]:
    models = {name: [{v: offers[v][name] for v in VARIANTS}] for name in MODELS if name != "forest"}
    seeds = offers["encoder"].values()
    for name, part in JUDGED.items():
        models[name] = [{v: one[v][part] for v in VARIANTS} for one in seeds]
    rows = [
        (name, *(_interval([one[v]["minus_forest"] for one in runs]) for v in VARIANTS))
        for name, runs in models.items()
    ]
    return [
        "Log loss minus that of our forest on the same offers, with 95 % intervals (cases resampled; of "
        "several seeds the mean and the outermost bounds):",
        _table(("minus the forest", *VARIANTS), rows),
    ]


def _interval(found: Sequence[Mapping[str, float]]) -> str:
    value = float(np.mean([one["value"] for one in found]))
    low, high = min(one["low"] for one in found), max(one["high"] for one in found)
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"


def _figures(found: Sequence[Mapping[str, float]]) -> str:
    loss, area = (float(np.mean([one[name] for one in found])) for name in ("log_loss", "auroc"))
    return f"{loss:.4f} / {area:.3f}"


def _origin(results: Mapping[str, Any], directory: Path) -> list[str]:
    starts = tuple(cell_name(form, Path(one["file"]), "") for form, one in results.items())
    cells = {name: cell for name, cell in read_cells(directory).items() if name.startswith(starts)}
    head = ("result file", "date", "commit", "code", "minutes")
    rows = [
        (
            f"`{name}.json`",
            cell["machine"]["date"],
            cell["machine"]["commit"],
            cell["code"],
            f"{cell['seconds'] / 60:.1f}",
        )
        for name, cell in cells.items()
    ]
    commands = "\n".join(sorted({f"    {cell['command']}" for cell in cells.values()}))
    machines = "; ".join(sorted({in_words(cell["machine"]) for cell in cells.values()}))
    return [
        "### Where the figures come from",
        _table(head, rows),
        f"Measured by\n\n{commands}\n\non {machines}. The machine was shared with other work, so minutes "
        "are upper bounds.",
    ]

"""The training bench's section of `docs/performance.md`, from its result."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from bench.training_profile import data_sheet_tflops
from fintrec.machine import in_words
from fintrec.result_files import markdown_table

GOAL: Final = 2.0  # bucketed by padded tokens a second
_CASE: Final = ("model", "recipe", "precision", "device", "threads", "batch")
KINDS: Final = ("padding", "steps", "scores", "loader", "profile", "profile_scores")
Row = Mapping[str, Any]


def _range(values: Sequence[float], form: str = ",.0f") -> str:
    middle, low, high = (format(value, form) for value in values)
    return f"{middle} ({low}-{high})"


def section(cells: Mapping[str, Row]) -> str:
    """The whole section, of the cells that `bench.training` wrote."""
    kinds: dict[str, list[Row]] = {name: [] for name in KINDS}
    for name, cell in cells.items():
        kinds[name.partition("-")[0]].append(cell)
    kinds = {kind: sorted(found, key=_order) for kind, found in kinds.items()}
    parts = [_origin(cells.values())]
    for _, alike in groupby(kinds["padding"], key=_order):
        parts += _padding(list(alike))
    if kinds["padding"]:
        parts.append(
            "Where windows are full there is no padding to leave out. Users of the simulated bank "
            "have months of purchases before their first page, so theirs nearly are, and neither "
            "buckets nor packing can reach the goal on them."
        )
    if any(cell["settings"]["device"] == "cuda" for cell in kinds["padding"]):
        parts.append(
            "On the GPU a step of these sizes takes as long as one core needs to launch its kernels "
            "(below: kernels beside the wall), so shorter windows save nothing there, and more rows a "
            "batch cost little."
        )
    if kinds["steps"]:
        parts += _steps(kinds["steps"])
    if kinds["scores"]:
        parts += _scores(kinds["scores"])
    if kinds["loader"]:
        parts += _loaders(kinds["loader"])
    if kinds["profile"]:
        parts += _profiles([*kinds["profile"], *kinds["profile_scores"]])
    if not any(cell["settings"]["device"] == "cuda" for cell in cells.values()):
        parts.append(
            "Not run on a GPU yet. `--device cuda` measures the same there, the recipe `paper` in "
            "bf16, beside the peak of one large product and the one of the data sheet. What of "
            "it needs no GPU, the profiler's path too, is tested on a CPU."
        )
    return "\n\n".join(parts)


def _order(cell: Row) -> tuple[Any, ...]:
    settings = cell["settings"]
    recipes = ("tiny_cpu", "table3", "paper")
    return (
        settings["device"],
        settings["threads"],
        recipes.index(settings["recipe"]),
        settings["precision"] != "fp32",
        settings.get("batch_size", 0),
    )


def _origin(cells: Iterable[Row]) -> str:
    cells = list(cells)
    commands = ", ".join(dict.fromkeys(f"`{cell['command']}`" for cell in cells))
    machines = dict.fromkeys(
        f"{in_words(cell['machine'])}, torch {cell['machine']['versions']['torch']}"
        for cell in cells
    )
    when = dict.fromkeys(f"{cell['machine']['date'][:10]}, {_code(cell)}" for cell in cells)
    repeats = dict.fromkeys(str(cell["settings"]["repeats"]) for cell in cells)
    return (
        f"Made by {commands} on {'; '.join(machines)} ({'; '.join(when)}). Medians (range) of "
        f"{', '.join(repeats)} repeats. Other work ran beside: sides take turns batch by batch and every ratio is of one "
        "repeat. One thread of a CPU is measured in its CPU time, all else in wall time."
    )


def _batch(settings: Row) -> str:
    return f"batch {settings['batch_size']}" if "batch_size" in settings else "the recipe's batch"


def _code(cell: Row) -> str:
    """The commit, or the hash of the sources where there was no repository."""
    commit = cell["machine"]["commit"]
    return f"commit {commit}" if commit else f"code {cell['code']}"


def _padding(cells: Sequence[Row]) -> list[str]:
    settings = cells[0]["settings"]
    ranked = sorted(
        (cell["result"] for cell in cells),
        key=lambda row: (row["data"], row["what"] == "scoring", row["model"]),
    )
    names = (
        "data",
        "what",
        "examples",
        "mean length",
        "full",
        "padded, tokens/s",
        "bucketed, tokens/s",
        "ratio",
        "without encoding",
        "positions",
        "at most",
        f">= {GOAL:g}",
    )
    lines = [
        [
            row["data"],
            f"{row['model']}, {row['what']}",
            f"{row['examples']:,}",
            f"{row['mean_length']:g} of {row['window']}",
            f"{row['full_share']:.0%}",
            _range(row["padded_tokens_per_s"]),
            _range(row["bucketed_tokens_per_s"]),
            _range(row["ratio"], ".2f"),
            _range(row["step_ratio"], ".2f"),
            f"{row['positions_ratio']:.2f}",
            f"{row['most_ratio']:.2f}",
            "yes" if row["ratio"][0] >= GOAL else "no",
        ]
        for row in ranked
    ]
    return [
        f"### Padded against bucketed ({settings['device_name']})",
        "Real tokens (rows of a history) a second, the encoding of the batches counted. Both sides "
        f"have the same examples in the same batches; recipe `{settings['recipe']}`, {_batch(settings)}, "
        f"{settings['precision']}, threads: {settings['threads']}. `padded` to the whole window, "
        "`bucketed` to the shortest of 16, 32, 64 and 120 that holds them (the decoder of item "
        "sequences: to the longest of a batch of like lengths). `positions`: how many fewer there "
        "are bucketed; `at most`: without any padding.",
        "\n".join(markdown_table(names, lines)),
    ]


def _steps(cells: Sequence[Row]) -> list[str]:
    names = (
        *_CASE,
        "GFLOP a step",
        "step, ms",
        "encode / forward / backward / clip / AdamW",
        "tokens/s",
        "GFLOP/s",
        "bare products, GFLOP/s",
        "share",
        "share of the whole step",
        "share of peak",
    )
    lines = []
    for cell, row in _rows(cells):
        whole = sum(row["ms"].values())
        lines.append(
            [
                *_case(cell, row),
                f"{row['gflop']:,.2f}",
                _range(row["step_ms"], ",.1f"),
                " / ".join(f"{ms / whole:.0%}" for ms in row["ms"].values()),
                _range(row["tokens_per_s"]),
                _range(row["gflop_per_s"], ",.1f"),
                _range(row["bare_gflop_per_s"], ",.1f"),
                _range(row["share"], ".0%"),
                _range(row["whole_share"], ".0%"),
                _of_peak(cell, row),
            ]
        )
    return [
        "### A training step against bare matrix products",
        "Full windows of the simulated bank. The operations of a step are counted by the formula "
        "of `bench/flops.py`; `bare products` runs the products of the very same shapes and number "
        "and nothing else, in turn with the step. `share`: time of the bare products by time of "
        "forward and backward. `share of peak`: GFLOP/s by those of one large square product.",
        "\n".join(markdown_table(names, lines)),
        _peaks(cells),
    ]


def _rows(cells: Sequence[Row]) -> list[tuple[Row, Row]]:
    return [(cell, row) for cell in cells for row in cell["result"]["rows"]]


def _case(cell: Row, row: Row) -> list[str]:
    settings = cell["settings"]
    names = ("recipe", "precision", "device_name", "threads")
    return [row["model"], *(str(settings[name]) for name in names), f"{row['batch']}"]


def _of_peak(cell: Row, row: Row) -> str:
    return f"{row['gflop_per_s'][0] / cell['result']['peak_gflop_per_s'][0]:.0%}"


def _peaks(cells: Sequence[Row]) -> str:
    told: dict[str, list[float]] = {}
    for cell in cells:
        settings = cell["settings"]
        case = f"{settings['device_name']}, {settings['precision']}, threads {settings['threads']}"
        if settings["precision"] == "bf16":
            sheet = data_sheet_tflops(settings["device_name"])
            case += f" (data sheet: {sheet:,} TFLOP/s)" if sheet else ""
        told.setdefault(case, []).append(cell["result"]["peak_gflop_per_s"][0])
    peaks = "; ".join(f"{case}: {max(found):,.0f}" for case, found in told.items())
    return f"One large square product, GFLOP/s, the best case of each: {peaks}."


def _scores(cells: Sequence[Row]) -> list[str]:
    names = (
        *_CASE,
        "GFLOP a batch",
        "ms",
        "tokens/s",
        "GFLOP/s",
        "bare products, GFLOP/s",
        "share",
        "share of peak",
    )
    lines = [
        [
            *_case(cell, row),
            f"{row['gflop']:,.2f}",
            _range(row["ms"], ",.1f"),
            _range(row["tokens_per_s"]),
            _range(row["gflop_per_s"], ",.1f"),
            _range(row["bare_gflop_per_s"], ",.1f"),
            _range(row["share"], ".0%"),
            _of_peak(cell, row),
        ]
        for cell, row in _rows(cells)
    ]
    return [
        "### Scoring",
        "Full windows to the logits of all items, encoding left out; the decoder's last block "
        "works for the newest position alone.",
        "\n".join(markdown_table(names, lines)),
    ]


def _loaders(cells: Sequence[Row]) -> list[str]:
    names = (
        "model",
        "recipe",
        "precision",
        "device",
        "batch",
        "workers",
        "encoded in between, tokens/s",
        "encoded ahead, tokens/s",
        "ratio",
    )
    lines = [
        [
            row["model"],
            *(cell["settings"][name] for name in ("recipe", "precision", "device_name")),
            _batch(cell["settings"]),
            f"{row['workers']}",
            _range(row["in_between_tokens_per_s"]),
            _range(row["ahead_tokens_per_s"]),
            _range(row["ratio"], ".2f"),
        ]
        for cell, row in _rows(cells)
    ]
    return [
        "### Batches encoded ahead",
        "Whole training steps, from pages to new weights, buckets as in a training: each batch "
        "encoded by the training itself between two steps, or ahead by loader workers, whose start "
        "counts.",
        "\n".join(markdown_table(names, lines)),
    ]


def _profiles(cells: Sequence[Row]) -> list[str]:
    found = [
        "### Where a step's time goes",
        "By `torch.profiler`: the ten operators with the most time of their own, encoding left "
        "out. It counts wall time and adds a little to every operator; of each operator the least "
        "of the profiled steps counts. `--profile` writes all operators and Chrome's trace. The "
        "smallest and the largest recipe are shown, in the precision that is the default there; the "
        "cells have all.",
    ]
    for cell in cells:
        settings = cell["settings"]
        default = "bf16" if settings["device"] == "cuda" else "fp32"
        if settings["recipe"] == "table3" or settings["precision"] != default:
            continue
        for model in cell["result"]["models"]:
            lines = [
                [f"`{one['name']}`", f"{one['calls']}", f"{one['ms']:,.2f}", f"{one['share']:.1%}"]
                for one in model["operators"]
            ]
            head = (
                f"{model['model']}, {cell['result'].get('what', 'training')}, {settings['recipe']}, "
                f"{settings['precision']}, {settings['device_name']}"
            )
            if settings["device"] == "cuda":
                head += f": kernels {model['ms_per_step']:g} of {model['wall_ms']:g} ms a step"
            found.append("\n".join(markdown_table((head, "calls", "ms", "share"), lines)))
    return found

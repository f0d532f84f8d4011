"""Plots of the serving results: latency distribution, p99 over load, CPU by process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench.measure import FINTREC, FLOOR, LATE_MS, Run
from bench.report import rows

mpl.use("Agg")
_INCHES = (8, 4.5)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def latency_cdf(runs: list[Run], path: Path) -> None:
    """Share of requests answered within a time, a curve for each rate; the floor dashed."""
    figure = Figure(_INCHES)
    axes = figure.subplots()
    rates = sorted({run.summary["requests_per_s"] for run in runs})
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(rates)))
    for rate, colour in zip(rates, colours, strict=True):
        for side, style in ((FINTREC, "-"), (FLOOR, "--")):
            found = [
                run.latency_ms
                for run in runs
                if run.summary["requests_per_s"] == rate and run.summary["side"] == side
            ]
            if not found:
                continue
            values = np.sort(np.concatenate(found))
            late = 1 - np.arange(len(values)) / max(1, len(values))
            label = f"{rate:g}/s" + (" floor" if side == FLOOR else "")
            axes.plot(values, late, style, color=colour, label=label)
    axes.axvline(LATE_MS, color="grey", linewidth=0.8)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(1e-4, 1),
        xlabel="latency from the scheduled send time, ms",
        ylabel="share of requests slower",
    )
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    _save(figure, path)


def p99_by_rate(data: Mapping[str, Any], path: Path) -> None:
    """p50 and p99 over the rate, the range of the repeats as bars, the floor beside."""
    figure = Figure(_INCHES)
    axes = figure.subplots()
    found = rows(data)
    rate = [row["requests_per_s"] for row in found]
    p99 = np.array([row["p99_ms"] for row in found], float)
    spread = np.array([row["p99_range_ms"] for row in found], float)
    error = np.abs(np.stack((p99 - spread[:, 0], spread[:, 1] - p99)))
    axes.errorbar(rate, p99, error, marker="o", capsize=3, label="fintrec p99")
    axes.plot(rate, [row["p50_ms"] for row in found], "o:", color="C0", label="fintrec p50")
    beside = [row for row in found if "floor" in row]
    if beside:
        axes.plot(
            [row["requests_per_s"] for row in beside],
            [row["floor"]["p99_ms"] for row in beside],
            "s--",
            color="C1",
            label="floor p99",
        )
    axes.axhline(LATE_MS, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="requests/s", ylabel="ms")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    _save(figure, path)


def cpu_by_process(data: Mapping[str, Any], path: Path) -> None:
    """Cores kept busy at each rate, by process."""
    figure = Figure(_INCHES)
    axes = figure.subplots()
    found = rows(data)
    labels = [f"{row['requests_per_s']:g}/s" for row in found]
    names = list(dict.fromkeys(name for row in found for name in row["cores"]))
    colours = mpl.colormaps["tab20"](np.linspace(0, 1, len(names)))
    bottom = np.zeros(len(found))
    for name, colour in zip(names, colours, strict=True):
        height = np.array([row["cores"].get(name) or 0.0 for row in found])
        axes.bar(labels, height, bottom=bottom, color=colour, label=name)
        bottom += height
    axes.set(ylabel="cores busy")
    axes.legend(fontsize=7, loc="upper left")
    _save(figure, path)

"""Reliability: what was predicted against what happened, by bins, as a table and as a picture.

Shapes: N examples, B bins
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fintrec.metrics import Bins, binned

Z_95: Final = 1.959964


@dataclass(frozen=True, slots=True)
class Bin:
    """Examples of alike probabilities; `low` and `high` enclose the observed rate at 95 %."""

    examples: int
    positives: int
    lowest: float
    highest: float
    predicted: float
    observed: float
    low: float
    high: float


def wilson(positives: int, examples: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a rate; ValueError without examples.

    It takes the examples for independent. Those of one user are not, so it is a little narrow.
    """
    if not 0 <= positives <= examples or not examples:
        raise ValueError(
            f"{positives} positives of {examples}: expected 0 <= positives <= N, N > 0"
        )
    rate = positives / examples
    middle = rate + z**2 / (2 * examples)
    half = z * np.sqrt(rate * (1 - rate) / examples + (z / (2 * examples)) ** 2)
    scale = 1 + z**2 / examples
    return max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale))


def reliability(
    probability_N: npt.ArrayLike,
    label_N: npt.ArrayLike,
    num_bins: int = 10,
    bins: Bins = "positives",
) -> list[Bin]:
    """The table, by ascending probability; ValueError on shapes that differ or are empty."""
    probability, label = np.asarray(probability_N, np.float64), np.asarray(label_N, bool)
    if probability.shape != label.shape or probability.ndim != 1 or not len(label):
        raise ValueError(
            f"shapes {probability.shape} and {label.shape}: expected equal, one axis, N > 0"
        )
    table = []
    for part in binned(probability, num_bins, bins):
        own, positives = probability[part], int(label[part].sum())
        table.append(
            Bin(
                len(part),
                positives,
                float(own.min()),
                float(own.max()),
                float(own.mean()),
                positives / len(part),
                *wilson(positives, len(part)),
            )
        )
    return table


def as_rows(table: Sequence[Bin]) -> list[dict[str, Any]]:
    """JSON form of a table."""
    return [
        {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in asdict(one).items()}
        for one in table
    ]


def draw(path: Path, title: str, tables: Mapping[str, Sequence[Bin]], event: str) -> None:
    """A reliability diagram with one line of points a table, and below it the bins' sizes (PNG).

    Both axes are logarithmic, since clicks and conversions are rare. A bin without positives has
    no place on such an axis: it is drawn as the upper end of its interval alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    every = [one for table in tables.values() for one in table]
    seen = [one.predicted for one in every] + [one.high for one in every]
    seen += [one.low for one in every if one.positives]
    ends = max(min(seen), 1e-7) / 1.5, min(max(seen) * 1.5, 1.0)
    upper.plot(ends, ends, color="0.6", linewidth=1, label="honest")
    for number, (name, table) in enumerate(tables.items()):
        _line(upper, lower, name, table, f"C{number}", ends[0])
    upper.set(
        xscale="log",
        yscale="log",
        xlim=ends,
        ylim=ends,
        ylabel=f"observed rate of {event}, bars 95 %",
    )
    upper.set_title(title, fontsize=10)
    upper.legend(fontsize=8, loc="best")
    least = min(one.examples for one in every) / 3
    lower.set(yscale="log", ylim=(least, None), ylabel="examples a bin")
    lower.set_xlabel(f"predicted probability of {event} (bins of equal predicted positives)")
    for axes in (upper, lower):
        axes.grid(alpha=0.25, which="both", linewidth=0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _line(
    upper: Any, lower: Any, name: str, table: Sequence[Bin], color: str, floor: float
) -> None:
    some = [one for one in table if one.positives]
    x = np.array([one.predicted for one in some])
    y = np.array([one.observed for one in some])
    low = np.array([max(one.low, floor) for one in some])
    high = np.array([one.high for one in some])
    upper.errorbar(
        x, y, np.stack((y - low, high - y)), fmt="o-", color=color, label=name,
        markersize=4, linewidth=1, elinewidth=1, capsize=2,
    )  # fmt: skip
    for one in table:
        if not one.positives:
            upper.plot([one.predicted] * 2, [floor, one.high], color=color, linewidth=1)
    sizes = [one.examples for one in table]
    lower.plot([one.predicted for one in table], sizes, "s", color=color, markersize=4)
    lower.vlines([one.predicted for one in table], 1e-3, sizes, color=color, linewidth=1)

"""The plot of a table: log loss of its rows with intervals, seeds, and the floor as a band."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.use("Agg")
_BLUE, _GREY, _GREEN = "#2b6cb0", "#718096", "#2f855a"
_PCVR: Final = (("pcvr", "all", "all items"), ("pcvr", "marketing", "marketing items"))
_SCOPES: Final = {
    "table3": _PCVR,
    "lengths": _PCVR,
    "ablations": (
        ("pcvr", "all", "conversions, all items"),
        ("pctr", "shown", "clicks of items shown"),
    ),
    "large": (
        ("pcvr", "all", "conversions, all items"),
        ("pctr", "shown", "clicks of items shown"),
    ),
}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the plot of a summary as PNG."""
    panels = _SCOPES[found["table"]]
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (task, scope, title) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _panel(axes, [row for row in found["rows"] if row["task"] == task], scope)
        axes.set_title(title, fontsize=10)
    figure.supxlabel("log loss, 95 % interval over users; dots are seeds", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _panel(axes: Any, rows: list[Mapping[str, Any]], scope: str) -> None:
    shown = [row for row in rows if "log_loss" in row and row["row"] != "hindsight"]
    labels = []
    for at, row in enumerate(reversed(shown)):
        loss = row["log_loss"][scope]
        colour = (
            _GREEN
            if "foresight" in (row["row"], row["of"])
            else (_BLUE if row["kind"] in ("model", "calibrated", "beside") else _GREY)
        )
        axes.plot([loss["low"], loss["high"]], [at, at], color=colour, linewidth=2, alpha=0.5)
        axes.plot(loss["seeds"], [at] * len(loss["seeds"]), ".", color=colour, markersize=5)
        axes.plot([loss["value"]], [at], "|", color=colour, markersize=14)
        labels.append(row["label"])
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", alpha=0.3)

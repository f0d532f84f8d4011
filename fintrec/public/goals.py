"""What a form's measurements say beside their goals: the lines of the suite's table."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of one data set: a value a seed, the goal, and what others reach."""

    data: str
    measure: str
    values: tuple[float, ...]
    goal: float | None
    better: Literal["lower", "higher"]
    beside: dict[str, float]
    files: tuple[str, ...] = ()  # the result cells of the values

    @property
    def reached(self) -> bool | None:
        """Whether the mean over the seeds keeps the goal, as printed; None without a goal."""
        if self.goal is None:
            return None
        mean = round(float(np.mean(self.values)), DIGITS)
        return mean <= self.goal if self.better == "lower" else mean >= self.goal

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "data": self.data,
            "measure": self.measure,
            "mean": round(float(np.mean(self.values)), DIGITS),
            "values": [round(value, DIGITS) for value in self.values],
            "goal": self.goal,
            "better": self.better,
            "reached": self.reached,
            "beside": self.beside,
            "files": list(self.files),
        }

    def cells(self) -> tuple[str, ...]:
        """Data, measure, ours, its range over seeds, goal, reached, beside: as text."""
        sign = "<=" if self.better == "lower" else ">="
        spread = f"{min(self.values):.4f}-{max(self.values):.4f}" if len(self.values) > 1 else "-"
        return (
            self.data,
            self.measure,
            f"{np.mean(self.values):.4f}",
            spread,
            "-" if self.goal is None else f"{sign} {self.goal:g}",
            {None: "-", True: "yes", False: "no"}[self.reached],
            ", ".join(f"{name} {value:.4f}" for name, value in self.beside.items()),
        )


COLUMNS: Final = ("data", "measure", "ours", "seeds", "goal", "reached", "beside it")


def next_kind_lines(
    data: str, what: str, found: dict[str, Any], goal_nll: float | None, cell: str
) -> list[Line]:
    """NLL and accuracy of the decoder's seeds beside the n-grams; `cell` begins the seeds' cells."""
    parts: tuple[tuple[str, str, float | None, Literal["lower", "higher"]], ...] = (
        ("nll", "NLL, nats", goal_nll, "lower"),
        ("accuracy", "top-1 accuracy", None, "higher"),
    )
    return [
        Line(
            data,
            f"{what}, {name}",
            tuple(seed["test"][key] for seed in found["decoder"].values()),
            goal,
            better,
            {model: measured[key] for model, measured in found["beside"].items()},
            tuple(f"{cell}{seed}" for seed in found["decoder"]),
        )
        for key, name, goal, better in parts
    ]

"""Where a training stands: what a bar shows, and what a line of a curve holds."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """After a step, or, where `validation` is set, after an evaluation.

    `loss` is that of the newest step's batch. `tokens` (interactions read, padding apart) and
    `seconds` count from the start of the training, earlier runs of it included.
    """

    model: str
    epoch: int
    step: int
    share: float  # of the training, 0..1
    loss: float
    validation: float | None
    learning_rate: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report to nobody."""

"""When a training has gone astray: a number that is none, or a loss far above the base rates'.

A model starts near the base rates and falls from there, so a training loss that stays at LIMIT times
their loss is no noise: the learning rate threw the weights where no gradient leads back from. Batches
are noisy, so the loss is smoothed over about 20 steps, and one bad batch is forgiven: only PATIENCE
steps above the limit in a row end the training.
"""

import math
from dataclasses import dataclass
from typing import Final

from features.errors import FintrecError

LIMIT: Final = 3.0
PATIENCE: Final = 50
_KEPT: Final = 0.95  # of the smoothed loss at each step


class TrainingFailed(FintrecError):
    """A training went astray; the message says which, where, and what is left of it."""


@dataclass(slots=True)
class Watch:
    """Of one training; without `base_loss` only numbers that are none are found."""

    base_loss: float | None
    smoothed: float = math.nan
    steps_above: int = 0

    def trouble_of(self, loss: float) -> str | None:
        """What is wrong after a step with this loss, or None."""
        if not math.isfinite(loss):
            return f"loss is {loss}, expected a finite number"
        if self.base_loss is None:
            return None
        before = self.base_loss if math.isnan(self.smoothed) else self.smoothed
        self.smoothed = _KEPT * before + (1 - _KEPT) * loss
        is_above = self.smoothed > LIMIT * self.base_loss
        self.steps_above = self.steps_above + 1 if is_above else 0
        if self.steps_above < PATIENCE:
            return None
        return (
            f"loss is {self.smoothed:.4g} (smoothed), for {PATIENCE} steps above {LIMIT:g} times "
            f"the {self.base_loss:.4g} of the base rates"
        )

    @property
    def is_calm(self) -> bool:
        """Whether the weights are worth keeping."""
        return self.steps_above == 0

"""Base rate of each item: what a model must beat to have learnt anything of the user."""

from collections.abc import Sized
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fintrec.datasets import TrainingSet
from fintrec.popularity import measure


@dataclass(frozen=True, slots=True)
class BaseRates:
    """One rate an item, the same for every page."""

    rates_K: tuple[float, ...]

    def predict(self, pages: Sized) -> npt.NDArray[np.float64]:
        """Probabilities, (N, K), all rows alike."""
        return np.tile(np.array(self.rates_K, np.float64), (len(pages), 1))


def conversions(data: TrainingSet) -> BaseRates:
    """Conversion rates of a page, measured on training."""
    return BaseRates(measure(data).cvr)


def clicks(data: TrainingSet) -> BaseRates:
    """Click rates given shown, measured on training."""
    return BaseRates(measure(data).ctr)

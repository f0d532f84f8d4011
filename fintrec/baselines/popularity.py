"""Base rate of each item: what a model must beat to have learnt anything of the user."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fintrec.popularity import Popularity


@dataclass(frozen=True, slots=True)
class BaseRates:
    """The training's conversion rate of each item, for every page."""

    popularity: Popularity

    def predict(self, num_pages: int) -> npt.NDArray[np.float64]:
        """Probabilities, (N, K), all rows alike."""
        return np.tile(np.array(self.popularity.cvr, np.float64), (num_pages, 1))

"""The foundation model's vectors as 32 features of the trees (FinTRec table 3, "RF + FM").

PCA is fitted on training pages alone. A missing vector becomes the average of the training's and
one more feature says so.

Shapes: M pages, E width of the vectors, P = 32 reduced
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

Float32Array = npt.NDArray[np.float32]
NUM_COMPONENTS: Final = 32
_MOST_ROWS: Final = 50_000  # of training that the axes are fitted on


@dataclass(frozen=True, slots=True)
class FmReducer:
    """Axes of the training's vectors: `mean_E`, `components_PE`."""

    mean_E: Float32Array
    components_PE: Float32Array

    def apply(self, vectors_ME: npt.ArrayLike, missing_M: npt.ArrayLike) -> Float32Array:
        """Reduced vectors and the missing flag, (M, P + 1)."""
        vectors = np.asarray(vectors_ME, np.float32)
        missing = np.asarray(missing_M, bool)
        if vectors.shape != (len(missing), len(self.mean_E)):
            raise ValueError(
                f"vectors of shape {vectors.shape}, expected ({len(missing)}, {len(self.mean_E)})"
            )
        centred = np.where(missing[:, None], np.float32(0), vectors - self.mean_E)
        return np.column_stack((centred @ self.components_PE.T, missing)).astype(np.float32)


def fit_reducer(
    vectors_ME: npt.ArrayLike,
    missing_M: npt.ArrayLike,
    seed: int,
    num_components: int = NUM_COMPONENTS,
) -> FmReducer:
    """Fit on training pages; ValueError where fewer vectors than components are present."""
    present = np.asarray(vectors_ME, np.float32)[~np.asarray(missing_M, bool)]
    if len(present) < num_components:
        raise ValueError(
            f"{len(present)} vectors are present, expected at least {num_components} to reduce "
            f"to {num_components}"
        )
    if len(present) > _MOST_ROWS:
        rows = np.random.default_rng(seed).choice(len(present), _MOST_ROWS, replace=False)
        present = present[np.sort(rows)]
    fitted = PCA(num_components, random_state=seed).fit(present)
    return FmReducer(fitted.mean_.astype(np.float32), fitted.components_.astype(np.float32))

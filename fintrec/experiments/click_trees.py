"""Boosted trees that predict clicks on shown items: what a log says, learnt outside FinTRec.

Fitted on labels they are honest. Fitted on true probabilities of the same impressions they are not,
and tell how much of the distance is noise of the labels.

Shapes: N impressions, C columns
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fintrec.baselines.per_item import corrected
from fintrec.logistic import sigmoid

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
_LARGEST: Final = 0.999  # of a probability that a log link gave


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickTrees:
    """Sizes of the trees, chosen beforehand; the number of trees by a tenth of the examples."""

    max_trees: int = 200
    learning_rate: float = 0.08
    num_leaves: int = 15
    min_leaf: int = 200
    l2: float = 10.0
    share_of_columns: float = 0.3
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    def of_labels(
        self,
        rows_NC: Float32Array,
        clicked_N: BoolArray,
        negatives_rate: float,
        item_column: int | None,
        asked_NC: Float32Array,
    ) -> FloatArray:
        """Probabilities of `asked_NC` by trees fitted on clicks, of whose others a share was kept."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        trees = HistGradientBoostingClassifier(**self._sizes(item_column)).fit(rows_NC, clicked_N)
        return sigmoid(corrected(trees.predict_proba(asked_NC)[:, 1], negatives_rate))

    def of_truth(
        self,
        rows_NC: Float32Array,
        chance_N: FloatArray,
        item_column: int | None,
        asked_NC: Float32Array,
    ) -> FloatArray:
        """The same by trees fitted on true probabilities; the loss is Poisson's, near Bernoulli's
        for rare events.
        """
        from sklearn.ensemble import HistGradientBoostingRegressor

        trees = HistGradientBoostingRegressor(loss="poisson", **self._sizes(item_column))
        found = trees.fit(rows_NC, chance_N).predict(asked_NC)
        return np.minimum(np.asarray(found, np.float64), _LARGEST)

    def _sizes(self, item_column: int | None) -> dict[str, Any]:
        return {
            "max_iter": self.max_trees,
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.num_leaves,
            "min_samples_leaf": self.min_leaf,
            "l2_regularization": self.l2,
            "max_features": self.share_of_columns,
            "categorical_features": None if item_column is None else [item_column],
            "early_stopping": True,
            "validation_fraction": 0.1,
            "n_iter_no_change": 15,
            "random_state": self.seed,
        }

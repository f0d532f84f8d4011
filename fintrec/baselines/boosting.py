"""Gradient boosting on the forest's rows: is it the trees or the features that limit the forest?"""

from dataclasses import asdict, dataclass
from typing import Any

from fintrec.baselines.trees import Classifier


@dataclass(frozen=True, kw_only=True, slots=True)
class BoostingConfig:
    """Sizes of the boosted trees; early stopping uses a tenth of the examples."""

    num_trees: int = 400
    learning_rate: float = 0.05
    num_leaves: int = 31
    min_leaf: int = 50
    l2: float = 1.0
    num_examples: int = 400_000

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    def classifier(self, item_column: int | None, seed: int) -> Classifier:
        """The unfitted classifier; the item itself is a category, which no forest of sklearn takes.

        `item_column` is the place of the item's number among the columns; None orders it like any
        other number.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        found: Classifier = HistGradientBoostingClassifier(
            max_iter=self.num_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.num_leaves,
            min_samples_leaf=self.min_leaf,
            l2_regularization=self.l2,
            categorical_features=None if item_column is None else [item_column],
            early_stopping=True,
            validation_fraction=0.1,
            n_iter_no_change=20,
            random_state=seed,
        )
        return found

"""Random forest: the production baseline of the paper (FinTRec table 3, "RF + Feature Set")."""

from dataclasses import asdict, dataclass
from typing import Any

from fintrec.baselines.trees import Classifier


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestConfig:
    """`max_samples`: share of the examples that each tree draws; `min_leaf`: examples of a leaf."""

    num_trees: int = 200
    min_leaf: int = 20
    max_features: float = 0.2
    max_samples: float = 0.3
    num_examples: int = 400_000

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    def classifier(self, item_column: int | None, seed: int) -> Classifier:
        """The unfitted classifier; one thread, so that the same seed gives the same trees anywhere.

        It orders the item's number like any other, wherever the column is.
        """
        from sklearn.ensemble import RandomForestClassifier

        found: Classifier = RandomForestClassifier(
            n_estimators=self.num_trees,
            min_samples_leaf=self.min_leaf,
            max_features=self.max_features,
            max_samples=self.max_samples,
            n_jobs=1,
            random_state=seed,
        )
        return found

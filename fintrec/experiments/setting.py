"""How an experiment is run: the bank, the data set, how much is trained and judged.

`table3` is the stated smaller recipe of `fintrec reproduce table3`; docs/experiments.md says how it
was chosen. `demo` and `tiny` are the same on smaller banks, for a look and for tests.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from features.errors import ConfigurationError
from fintrec.baselines.boosting import BoostingConfig
from fintrec.baselines.forest import ForestConfig
from fintrec.datasets import DatasetConfig
from fintrec.experiments.rows import Cell
from fintrec.models.config import RECIPES, Recipe
from fintrec.result_files import write_json

SETTING: Final = "setting.json"
LOG: Final = "bank"
DATASET: Final = "training_set"
CELLS: Final = "cells"
_END_MS: Final = 1_793_491_200_000  # 2026-11-01T00:00:00Z: a fixed end makes the bytes of a bank


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Everything that decides the cells but row and seed.

    `train_pages` are the pages that the transformers are trained on, drawn once for all rows: pages
    of one visit hardly differ. `judged_pages` of the test period are judged, `held_out_pages` of
    validation calibrate the trees.
    """

    name: str
    size: str
    users: int | None = None
    bank_seed: int = 7
    end_ms: int = _END_MS
    dataset: DatasetConfig
    recipe: str = "table3"
    changes: Mapping[str, str] = field(default_factory=dict)
    train_pages: int
    judged_pages: int
    held_out_pages: int
    forest: ForestConfig = field(default_factory=ForestConfig)
    boosting: BoostingConfig = field(default_factory=BoostingConfig)
    seeds: tuple[int, ...] = (0, 1, 2)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        found = asdict(self)
        found["dataset"] = self.dataset.to_dict()
        found["seeds"] = list(self.seeds)
        found["recipe_settings"] = self.recipe_for({}, 0).to_dict()
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def recipe_for(self, changes: Mapping[str, Any], seed: int) -> Recipe:
        """The recipe of a row, with a seed."""
        of_recipe = {name: value for name, value in changes.items() if name != "train_pages"}
        return _changed(
            RECIPES[self.recipe]().with_settings(self.changes), {**of_recipe, "seed": seed}
        )

    def train_pages_for(self, changes: Mapping[str, Any]) -> int:
        """How many pages the pCVR of a row is trained on."""
        return int(changes.get("train_pages", self.train_pages))


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    texts = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in changes.items()
    }
    return recipe.with_settings(texts)


_WEEKS: Final = DatasetConfig(validation_days=7, test_days=7, label_only_days=7, label_days=7)


def table3() -> Setting:
    """5,000 users, 83 days of training, 7 of validation, 7 of test, 7 that complete labels."""
    return Setting(
        name="table3",
        size="small",
        dataset=_WEEKS,
        train_pages=48_000,
        judged_pages=4_096,
        held_out_pages=4_096,
        forest=ForestConfig(num_trees=40, num_examples=200_000),
        boosting=BoostingConfig(num_trees=200, learning_rate=0.1, num_examples=200_000),
    )


def demo() -> Setting:
    """The demo's bank, in a few minutes: to see the machinery work, not to quote."""
    return Setting(
        name="demo",
        size="demo",
        dataset=replace(_WEEKS, validation_days=4, test_days=4, label_only_days=4, label_days=4),
        train_pages=8_000,
        judged_pages=1_500,
        held_out_pages=1_500,
        forest=ForestConfig(num_trees=40, num_examples=50_000),
        boosting=BoostingConfig(num_trees=60, num_examples=50_000),
    )


def tiny() -> Setting:
    """Seconds: what the tests run."""
    return Setting(
        name="tiny",
        size="tiny",
        users=60,
        dataset=replace(_WEEKS, validation_days=4, test_days=4, label_only_days=2, label_days=2),
        changes={"d_model": "16", "num_layers": "1", "d_feed_forward": "16", "d_head": "16"},
        train_pages=100,
        judged_pages=60,
        held_out_pages=60,
        forest=ForestConfig(num_trees=4, num_examples=2_000),
        boosting=BoostingConfig(num_trees=5, num_examples=2_000),
    )


SETTINGS: Final = {"table3": table3, "demo": demo, "tiny": tiny}


def cell_path(out: Path, cell: Cell) -> Path:
    """The result of a cell."""
    return out / CELLS / f"{cell.name}.json"


def predictions_path(out: Path, name: str) -> Path:
    """What a cell said of every judged page and item, (N, K) float32."""
    return out / CELLS / f"{name}.npy"


def claim(out: Path, setting: Setting) -> None:
    """Make `out` the folder of this setting; ConfigurationError where it is another's.

    A folder goes on only with what it was begun with, so no table mixes two experiments.
    """
    path, wanted = out / SETTING, setting.to_dict()
    if path.exists():
        found = json.loads(path.read_bytes())
        changed = sorted(name for name in wanted if found.get(name) != wanted[name])
        if changed:
            name = changed[0]
            raise ConfigurationError(
                f"{path}: {name} is {found.get(name)!r}, expected {wanted[name]!r}: another "
                "experiment was begun here, give another --out or remove the folder"
            )
        return
    write_json(path, wanted)


def read_setting(out: Path) -> Setting:
    """The setting that a folder was begun with."""
    found = json.loads((out / SETTING).read_bytes())
    found.pop("recipe_settings")
    return Setting(
        **{
            **found,
            "dataset": DatasetConfig(**found["dataset"]),
            "forest": ForestConfig(**found["forest"]),
            "boosting": BoostingConfig(**found["boosting"]),
            "seeds": tuple(found["seeds"]),
        }
    )

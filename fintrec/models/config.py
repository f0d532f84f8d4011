"""Sizes and switches of the models and their training, and the named recipes.

Every switch is a row of the ablation tables (FinTRec table 3, `docs/paper_map.md`): what the paper
leaves open has its alternative here. An unknown key fails.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from features.history import WINDOW

TimestampMask = Literal["before", "upto"]
Pooling = Literal["mean", "last_two"]
DynamicFusion = Literal["add", "concat"]
TimeEncoding = Literal["product", "learned", "none"]
Elapsed = Literal["log", "half_lives"]
ItemVectors = Literal["free", "compared"]
ClickLink = Literal["softmax", "sigmoid"]
Schedule = Literal["constant", "cosine"]

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "timestamp_mask": ("before", "upto"),
    "pooling": ("mean", "last_two"),
    "dynamic_fusion": ("add", "concat"),
    "time_encoding": ("product", "learned", "none"),
    "elapsed": ("log", "half_lives"),
    "item_vectors": ("free", "compared"),
    "click_link": ("softmax", "sigmoid"),
    "schedule": ("constant", "cosine"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Architecture of both models of one version; they share widths, and weights if asked.

    `timestamp_mask`: a pCTR query sees keys `before` its timestamp and itself, or all `upto` it
    (equal timestamps in window order). `pooling` belongs to pCVR. `time_encoding`: p_t * e_t as
    printed (`product`), p_t plus a learned vector of the time (`learned`), or p_t alone (`none`).
    `elapsed`: elapsed times enter on a log scale (`log`), or also by how much is left of them at
    some half-lives (`half_lives`): the log tells a day from a month by a tenth of its range.
    `item_vectors`: an item's logit is a row of the output layer (`free`), or also the hidden state
    compared with the vector that the item starts with in the history, to which pCVR's encoder adds
    the vectors of the items that were seen (`compared`).
    `item_history`: a state keeps learned, fading counts of each item and category of the history,
    from which the head reads those of a scored item (`fintrec/models/item_counts.py`).
    `click_link` belongs to pCTR: its logits are those of eq. 2, one next click among all items
    (`softmax`), or each shown item's own, clicked or not (`sigmoid`): of that a user who is likelier
    to click on anything is a part, and pages without a click are learned from.
    `use_fm=False` leaves F_fm out of both heads. `window` cuts the context (FinTRec table 3:
    1 / 5 / 50 / 120). `shared_trunk`: both models have one embedding and one set of lower blocks
    (`fintrec/models/trunk.py`).
    """

    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    d_feed_forward: int = 128
    d_head: int = 128
    dropout: float = 0.1
    window: int = WINDOW
    timestamp_mask: TimestampMask = "before"
    pooling: Pooling = "mean"
    dynamic_fusion: DynamicFusion = "add"
    time_encoding: TimeEncoding = "product"
    elapsed: Elapsed = "log"
    item_vectors: ItemVectors = "free"
    item_history: bool = False
    click_link: ClickLink = "softmax"
    use_fm: bool = True
    shared_trunk: bool = False

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("d_model", "num_layers", "num_heads", "d_feed_forward", "d_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1")
        if self.d_model % self.num_heads or self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} is not even and divisible by num_heads={self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is not in [0, 1)")
        if not 1 <= self.window <= WINDOW:
            raise ValueError(f"window={self.window} is not in 1..{WINDOW}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How both models are trained; the paper's figures are the recipe `paper`.

    `exposure_prior`: an item that is shown more is clicked more, so the softmax of eq. 2 mostly
    learns what is shown; with the prior, log shares of exposure are added inside the loss, and the
    logits are left with what serving asks: the click given shown. False is eq. 2 as printed.
    `validation_rows` bound each epoch's validation, `evaluation_rows` the pages that calibration
    and final metrics are taken on. `label_stride`: a training window of the decoder carries the
    labelled steps of its newest `label_stride` rows, so every step keeps at least
    `window - label_stride` rows of context. `page_rate`: the share of the pages without any known
    conversion that an epoch of pCVR keeps, each then counting for the ones left out, so loss and
    base rates stay those of all pages; every page with a conversion is kept.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    batch_size: int = 64
    epochs: int = 10
    schedule: Schedule = "cosine"
    exposure_prior: bool = True
    gradient_norm: float = 1.0
    label_stride: int = 60
    page_rate: float = 1.0
    validation_rows: int = 2048
    evaluation_rows: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("batch_size", "epochs", "validation_rows", "evaluation_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1")
        for name in ("label_stride", "weight_decay", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} is not finite and 0 or more")
        for name in ("learning_rate", "gradient_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} is not finite and above 0")
        if not 0 < self.page_rate <= 1:
            raise ValueError(f"page_rate={self.page_rate} is not in (0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A named combination of architecture and training."""

    name: str
    model: ModelConfig
    training: TrainingConfig

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """Inverse of `to_dict`; TypeError names an unknown key."""
        return cls(
            name=data["name"],
            model=ModelConfig(**data["model"]),
            training=TrainingConfig(**data["training"]),
        )

    def with_settings(self, settings: Mapping[str, str]) -> "Recipe":
        """This recipe with `--set key=value` applied; ValueError on an unknown key or bad value."""
        return replace(
            self,
            model=_changed(self.model, settings),
            training=_changed(self.training, settings),
            name=self.name,
        )._known(settings)

    def _known(self, settings: Mapping[str, str]) -> "Recipe":
        known = {f.name for part in (self.model, self.training) for f in fields(part)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ValueError(f"unknown settings {unknown}, known are {sorted(known)}")
        return self


def _check_choices(config: ModelConfig | TrainingConfig) -> None:
    for name, choices in _CHOICES.items():
        value = getattr(config, name, choices[0])
        if value not in choices:
            raise ValueError(f"{name}={value!r} is not one of {choices}")


def _changed(config: Any, settings: Mapping[str, str]) -> Any:
    changes = {
        field.name: _parsed(field.name, getattr(config, field.name), settings[field.name])
        for field in fields(config)
        if field.name in settings
    }
    return replace(config, **changes)


def _parsed(name: str, old: object, text: str) -> object:
    if isinstance(old, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{name}={text!r} is neither 'true' nor 'false'")
        return text == "true"
    try:
        return type(old)(text)  # type: ignore[call-arg]
    except ValueError as error:
        raise ValueError(f"{name}={text!r} is not of type {type(old).__name__}") from error


def tiny_cpu() -> Recipe:
    """Laptop and demo: trains in about a minute on two cores, encodes a user in under 1 ms.

    A minute is few steps and the simulated bank has few clicks: small batches get furthest, dropout
    and weight decay keep it, judged by the validation log loss.
    """
    return Recipe(
        name="tiny_cpu",
        model=ModelConfig(dropout=0.3),
        training=TrainingConfig(
            learning_rate=1e-3, weight_decay=0.01, batch_size=16, epochs=5, evaluation_rows=2048
        ),
    )


def paper() -> Recipe:
    """FinTRec section 3.4: 10 blocks, width 512, feed-forward 256, AdamW 1e-4 / 1e-5, 50 epochs."""
    return Recipe(
        name="paper",
        model=ModelConfig(d_model=512, num_layers=10, num_heads=8, d_feed_forward=256, d_head=512),
        training=TrainingConfig(
            learning_rate=1e-4,
            weight_decay=1e-5,
            batch_size=64,
            epochs=50,
            schedule="constant",
            evaluation_rows=1_000_000,
        ),
    )


def table3() -> Recipe:
    """Table 3 on the simulated bank, on two cores: docs/experiments.md says how it was chosen."""
    return Recipe(
        name="table3",
        model=ModelConfig(
            num_layers=1,
            dropout=0.0,
            elapsed="half_lives",
            item_vectors="compared",
            use_fm=False,
        ),
        training=TrainingConfig(
            learning_rate=2e-3,
            weight_decay=0.01,
            batch_size=16,
            epochs=1,
            validation_rows=256,
            evaluation_rows=2048,
        ),
    )


RECIPES: Final = {"tiny_cpu": tiny_cpu, "paper": paper, "table3": table3}

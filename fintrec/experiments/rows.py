"""What is compared: rows of FinTRec table 3, our own decisions, more training and larger models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fintrec.models.config import paper

Kind = Literal[
    "rates",
    "forest",
    "boosting",
    "neighbours",
    "model",
    "floor",
    "beside",
    "calibrated",
    "same",
    "waits",
]
Task = Literal["pcvr", "pctr"]
Period = Literal["validation", "test"]

WAITS: Final = "waits for the foundation model"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    `changes` are fields of the recipe's model or training, or `train_pages` of the setting; for
    trees `item_history`: that they read each item's own (`fintrec/baselines/item_history.py`).
    `tasks` are what is trained, `task` is what is judged. Four kinds have no cells of their own:
    `beside` is predicted by the cells of row `of`, `calibrated` is that row with the forest's maps,
    `same` is that row by another name, `waits` needs the foundation model.
    """

    name: str
    label: str
    kind: Kind
    task: Task = "pcvr"
    changes: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    of: str = ""
    paper: float | None = None  # what FinTRec table 3 prints
    note: str = ""
    on_gpu: bool = False  # trained there in bf16 where the machine has one, else as all on a CPU

    @property
    def is_run(self) -> bool:
        """Whether the row has cells of its own."""
        return self.kind not in ("beside", "calibrated", "same", "waits")

    @property
    def has_seeds(self) -> bool:
        """Whether a seed changes the row."""
        return self.kind in ("forest", "boosting", "model")


@dataclass(frozen=True, slots=True)
class Cell:
    """One row with one seed: the unit that runs, is kept and is gone on from."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.row.name}-{self.seed}" if self.row.has_seeds else self.row.name


def calibrated(name: str) -> str:
    """Name of the predictions beside a pCVR cell's own, with each item's map of validation."""
    row, _, seed = name.rpartition("-")
    return f"{row}_calibrated-{seed}"


def clicks_of(name: str) -> str:
    """Name of the click predictions of a cell that is judged on conversions and trains both."""
    return f"clicks_{name}"


def predictions(row: Row, rows: tuple[Row, ...], seeds: tuple[int, ...]) -> dict[str, str]:
    """The cells that predict a row, and what its predictions are called in each, seed by seed."""
    if row.kind == "waits":
        return {}
    own = next(other for other in rows if other.name == row.of) if row.of else row
    name = own.name if row.kind == "same" else row.name
    cells = dict.fromkeys(Cell(own, seed).name for seed in seeds)
    return {cell: name + cell.removeprefix(own.name) for cell in cells}


_ITEM_HISTORY: Final = {"item_history": True}
_COUNTS: Final = "counts of each item and category in the state; not in the paper"

TABLE3: Final = (
    Row("base_rates", "each item's base rate", "rates"),
    Row("neighbours", "recency-weighted item-kNN", "neighbours"),
    Row("forest", "RF + feature set", "forest", paper=0.0984),
    Row("forest_fm", "RF + feature set + FM", "waits", paper=0.0938),
    Row("boosting", "gradient boosting + feature set", "boosting"),
    Row(
        "boosting_items",
        "gradient boosting + feature set + the item's own history",
        "boosting",
        changes=_ITEM_HISTORY,
        note="not in the paper",
    ),
    Row("fintrec", "FinTRec", "model", paper=0.0439),
    Row(
        "fintrec_calibrated",
        "FinTRec, calibrated like the forest",
        "calibrated",
        of="fintrec",
        note="each item's map of validation pages; not in the paper",
    ),
    Row(
        "without_time",
        "FinTRec without time",
        "model",
        changes={"time_encoding": "none"},
        paper=0.0481,
    ),
    Row(
        "without_fm",
        "FinTRec without FM",
        "same",
        of="fintrec",
        paper=0.0605,
        note="the same cells as FinTRec, which has no FM yet",
    ),
    Row("window_1", "window 1", "model", changes={"window": 1}, paper=0.1135),
    Row("window_5", "window 5", "model", changes={"window": 5}, paper=0.0844),
    Row("window_50", "window 50", "model", changes={"window": 50}, paper=0.0478),
    Row("window_120", "window 120", "same", of="fintrec", paper=0.0439, note="FinTRec itself"),
    Row(
        "fintrec_items",
        "FinTRec + the item's own history",
        "model",
        changes=_ITEM_HISTORY,
        note=_COUNTS,
    ),
    Row(
        "fintrec_items_calibrated",
        "the same, calibrated like the forest",
        "calibrated",
        of="fintrec_items",
    ),
    Row("foresight", "foresight: honest, knows the bank", "floor"),
    Row("hindsight", "hindsight: knows the visits to come", "beside", of="foresight"),
    Row("clicks_rates", "clicks: each item's base rate", "rates", "pctr"),
    Row("clicks_fintrec", "clicks: FinTRec", "model", "pctr"),
    Row(
        "clicks_each_items",
        "clicks: FinTRec, each shown item in place of eq. 2, + the item's own history",
        "model",
        "pctr",
        changes=_ITEM_HISTORY | {"click_link": "sigmoid"},
        note=_COUNTS,
    ),
    Row("clicks_floor", "clicks: true probabilities", "beside", "pctr", of="foresight"),
)

ABLATIONS: Final = (
    Row("clicks_fintrec", "default: earlier timestamps alone", "model", "pctr"),
    Row("clicks_same_page", "the same page is seen", "model", "pctr", {"timestamp_mask": "upto"}),
    Row("clicks_no_prior", "eq. 2 as printed", "model", "pctr", {"exposure_prior": False}),
    Row(
        "clicks_each",
        "each shown item, clicked or not, in place of eq. 2",
        "model",
        "pctr",
        {"click_link": "sigmoid"},
    ),
    Row("clicks_items", "counts of each item and category", "model", "pctr", _ITEM_HISTORY),
    Row(
        "clicks_each_items",
        "each shown item, and counts of each item and category",
        "model",
        "pctr",
        _ITEM_HISTORY | {"click_link": "sigmoid"},
    ),
    Row(
        "clicks_concat",
        "F_d concatenated and projected",
        "model",
        "pctr",
        {"dynamic_fusion": "concat"},
    ),
    Row(
        "clicks_learned_time", "learned time vector", "model", "pctr", {"time_encoding": "learned"}
    ),
    Row("clicks_no_time", "no time", "model", "pctr", {"time_encoding": "none"}),
    Row("clicks_joint", "both models in one training", "beside", "pctr", of="joint"),
    Row(
        "clicks_shared_trunk",
        "both models in one training, on one trunk",
        "beside",
        "pctr",
        of="shared_trunk",
    ),
    Row("fintrec", "default: mean pooled, F_d added, product", "model"),
    Row("last_pooling", "last two pooled", "model", changes={"pooling": "last_two"}),
    Row("concat", "F_d concatenated and projected", "model", changes={"dynamic_fusion": "concat"}),
    Row("learned_time", "learned time vector", "model", changes={"time_encoding": "learned"}),
    Row("without_time", "no time", "model", changes={"time_encoding": "none"}),
    Row("log_elapsed", "elapsed times on a log scale alone", "model", changes={"elapsed": "log"}),
    Row("free_items", "items not compared", "model", changes={"item_vectors": "free"}),
    Row("fintrec_items", "counts of each item and category", "model", changes=_ITEM_HISTORY),
    Row("joint", "both models in one training", "model", tasks=("joint",)),
    Row(
        "shared_trunk",
        "both models in one training, on one trunk",
        "model",
        changes={"shared_trunk": True},
        tasks=("joint",),
    ),
)

LENGTHS: Final = (
    Row("pages_16000", "16,000 pages", "model", changes={"train_pages": 16_000}),
    Row("fintrec", "48,000 pages: the default", "model"),
    Row("pages_96000", "96,000 pages", "model", changes={"train_pages": 96_000}),
    Row("pages_all", "all pages with a label", "model", changes={"train_pages": 1_000_000}),
)

_ALL_PAGES: Final = {"train_pages": 1_000_000, "batch_size": 64, "validation_rows": 2048}
_PAPER: Final = {
    **{
        name: getattr(paper().model, name)
        for name in ("d_model", "num_layers", "num_heads", "d_feed_forward", "d_head", "dropout")
    },
    **{
        name: getattr(paper().training, name)
        for name in ("learning_rate", "weight_decay", "schedule", "batch_size")
    },
    "validation_rows": 2048,
}
_WIDE: Final = {
    "d_model": 256,
    "num_layers": 2,
    "num_heads": 8,
    "d_feed_forward": 512,
    "d_head": 256,
    "dropout": 0.1,
    "learning_rate": 1e-3,
}
_AS_PRINTED: Final = {"elapsed": "log", "item_vectors": "free"}

LARGE: Final = (
    Row("base_rates", "each item's base rate", "rates"),
    Row("forest", "RF + feature set", "forest"),
    Row("boosting", "gradient boosting + feature set", "boosting"),
    Row(
        "boosting_items",
        "gradient boosting + feature set + the item's own history",
        "boosting",
        changes=_ITEM_HISTORY,
    ),
    Row("fintrec", "FinTRec of table 3: 48,000 pages once", "model"),
    Row(
        "all_pages",
        "the same, all pages 3 times",
        "model",
        changes={**_ALL_PAGES, "epochs": 3},
        on_gpu=True,
    ),
    Row(
        "wide",
        "2 blocks of width 256, all pages 3 times",
        "model",
        changes={**_ALL_PAGES, **_WIDE, "epochs": 3},
        on_gpu=True,
    ),
    Row(
        "paper_size",
        "10 blocks of width 512, all pages once",
        "model",
        changes={**_ALL_PAGES, **_PAPER, "epochs": 1},
        on_gpu=True,
    ),
    Row(
        "paper_size_pages_48000",
        "10 blocks of width 512, the 48,000 pages once in batches of 16",
        "model",
        changes={**_PAPER, "batch_size": 16, "epochs": 1},
        on_gpu=True,
    ),
    Row(
        "paper_printed",
        "10 blocks of width 512, all pages once, without half-lives and compared items",
        "model",
        changes={**_ALL_PAGES, **_PAPER, **_AS_PRINTED, "epochs": 1},
        on_gpu=True,
    ),
    Row("foresight", "foresight: honest, knows the bank", "floor"),
    Row("clicks_rates", "clicks: each item's base rate", "rates", "pctr"),
    Row("clicks_fintrec", "clicks: FinTRec of table 3", "model", "pctr"),
    Row(
        "clicks_wide",
        "clicks: 2 blocks of width 256, 4 epochs",
        "model",
        "pctr",
        changes={**_WIDE, "batch_size": 64, "validation_rows": 2048, "epochs": 4},
        on_gpu=True,
    ),
    Row(
        "clicks_paper_size",
        "clicks: 10 blocks of width 512, 8 epochs",
        "model",
        "pctr",
        changes={**_PAPER, "epochs": 8},
        on_gpu=True,
    ),
    Row("clicks_floor", "clicks: true probabilities", "beside", "pctr", of="foresight"),
)

TABLES: Final[Mapping[str, tuple[Row, ...]]] = {
    "table3": TABLE3,
    "ablations": ABLATIONS,
    "large": LARGE,
    "lengths": LENGTHS,
}


def cells(rows: tuple[Row, ...], seeds: tuple[int, ...]) -> list[Cell]:
    """Every cell of a table: one seed of all rows before the next, so a cut still compares rows."""
    return [
        Cell(row, seed)
        for at, seed in enumerate(seeds)
        for row in rows
        if row.is_run and (row.has_seeds or at == 0)
    ]


def cell_named(rows: tuple[Row, ...], name: str, seeds: tuple[int, ...]) -> Cell:
    """The cell of a name; ValueError if the table has none."""
    for cell in cells(rows, seeds):
        if cell.name == name:
            return cell
    raise ValueError(f"no cell is called {name!r}")

"""Where the distance between FinTRec's clicks and the true probabilities lies.

Every predictor is judged on the shown items of the judged test pages twice: without the position on
the page, as serving scores, and with it. `realised` is the log loss of the labels, `expected` that
of all labels that the truth might have drawn, so it is free of the labels' noise.

- rungs know the item and some parts of the true log odds exactly (`click_truth.knowing`)
- models are FinTRec's finished cells and boosted trees; a position is added to those that are not
  told it by one offset a position, fitted on training labels above each item's base rate
- `tendency`: what a softmax over items cannot say, since it is the same for all items of a page

Shapes: N impressions, B pages, K items
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from fintrec.baselines import examples, popularity
from fintrec.baselines.design import pages_of
from fintrec.baselines.per_item import log_odds
from fintrec.datasets import TrainingSet
from fintrec.experiments import bank_data, judge
from fintrec.experiments.click_features import Columns, Float32Array
from fintrec.experiments.click_trees import ClickTrees
from fintrec.experiments.click_truth import Impressions, Tendency, impressions, knowing, tendency
from fintrec.experiments.hidden_truth import BoolArray, FloatArray, IntArray, Truth
from fintrec.experiments.rows import TABLES, Cell
from fintrec.experiments.setting import (
    CELLS,
    DATASET,
    LOG,
    cell_path,
    predictions_path,
    read_setting,
)
from fintrec.exposure import exposure_prior
from fintrec.intervals import user_sums
from fintrec.logistic import WEAK, corrections, regression, sigmoid
from fintrec.metrics import auroc, losses
from fintrec.result_files import read_cells

KEPT_PAGES: Final = (
    25_000  # of training, of which all impressions are kept; of the others the clicks
)
_SEED: Final = 15
BASE: Final = "base rates"
MODEL: Final = "FinTRec"
TREES: Final = "boosting"
NOISELESS: Final = "boosting, fitted on true probabilities"
TOLD: Final = "and told the bank's fast and history parts"
RUNGS: Final[Mapping[str, tuple[str, ...]]] = {
    "the item": (),
    "and the place": ("place",),
    "and earlier clicks, dismissals, impressions": ("place", "history"),
    "and fast needs": ("place", "history", "fast"),
    "and slow needs": ("place", "history", "fast", "slow"),
}
Said = dict[str, list[FloatArray]]  # probabilities by training seed


@dataclass(frozen=True, slots=True)
class Sample:
    """Training impressions: all of some pages, and the clicks of the others."""

    page: IntArray
    slot: IntArray
    clicked: BoolArray
    whole: BoolArray  # of a page that is kept whole
    negatives_rate: float


def sample(data: TrainingSet, num_pages: int) -> Sample:
    """Draw `num_pages` training pages that are kept whole."""
    decisions = data.train
    kept = np.zeros(len(decisions), bool)
    num = min(num_pages, len(kept))
    kept[np.random.default_rng(_SEED).choice(len(kept), num, replace=False)] = True
    page, slot = np.nonzero((decisions.shown >= 0) & (kept[:, None] | decisions.clicked))
    return Sample(page, slot, decisions.clicked[page, slot], kept[page], num / len(kept))


def measure(
    out: Path, trees: ClickTrees | None = None, kept_pages: int = KEPT_PAGES
) -> dict[str, Any]:
    """Judge rungs, finished cells and trees on the judged pages of an experiment's folder.

    DatasetError, LogError or FileNotFoundError where the folder lacks its data set, truth or rates.
    """
    setting, data = read_setting(out), bank_data.load(out)
    pages, known = bank_data.judged(data, setting), Truth(out / LOG, data)
    drawn = sample(data, kept_pages)
    row, slot = np.nonzero(pages.shown >= 0)
    asked = impressions(known, data.test, pages.pages[row], slot)
    sampled = impressions(known, data.train, drawn.page, drawn.slot)
    request = torch.from_numpy(data.test.request[pages.pages])
    share_BK = exposure_prior(data).rows(request).exp().numpy()
    own = tendency(known, data.test, pages.pages, share_BK)
    fitted_on = sampled.of(np.flatnonzero(drawn.whole))
    config = trees or ClickTrees()
    rate_K = np.array(popularity.clicks(data).rates_K)
    base = log_odds(rate_K[asked.item])
    position = position_offsets(log_odds(rate_K[fitted_on.item]), fitted_on)[asked.slot]
    without: Said = {BASE: [sigmoid(base)], MODEL: _cells(out, row, asked)}
    with_position = {
        name: [sigmoid(log_odds(one) + position) for one in said] for name, said in without.items()
    }
    for name, told, chance in _trees(out, data, drawn, sampled, asked, config):
        (with_position if told else without)[name] = [chance]
    for name, parts in RUNGS.items():
        without[name] = [knowing(fitted_on, asked, parts, len(rate_K))]
        some = (*parts, "position")
        with_position[name] = [knowing(fitted_on, asked, some, len(rate_K))]
    return {
        "setting": setting.to_dict(),
        "trees": config.to_dict(),
        "sample": {
            "impressions": len(drawn.page),
            "clicks": int(drawn.clicked.sum()),
            "negatives_rate": round(drawn.negatives_rate, 6),
        },
        "impressions": len(asked.item),
        "clicks": int(asked.clicked.sum()),
        "spread_of_parts": _spread(asked),
        "without_position": judged(without, asked, sigmoid(base)),
        "with_position": judged(with_position, asked, sigmoid(base)),
        "truth": judged({"truth": [asked.chance]}, asked, sigmoid(base))["truth"],
        "tendency": _tendency(own, row, asked, without[MODEL], sigmoid(base)),
    }


def position_offsets(base_N: FloatArray, shown: Impressions) -> FloatArray:
    """Offsets of the log odds of a click by position above some log odds, of labels, (positions,)."""
    offset, _ = corrections(
        base_N,
        shown.clicked.astype(np.float64),
        shown.slot,
        int(shown.slot.max()) + 1,
        10.0,
        0,
        0.1,
    )
    return offset


def judged(said: Said, asked: Impressions, base_N: FloatArray) -> dict[str, Any]:
    """Realised and expected log loss by predictor, and how far below the base rates: a share."""
    ones = np.ones(len(base_N))

    def sums(chance: FloatArray, expected: bool) -> FloatArray:
        loss = losses(chance, asked.clicked)
        if expected:
            hit, miss = losses(chance, ones > 0), losses(chance, ones < 0)
            loss = asked.chance * hit + (1 - asked.chance) * miss
        return user_sums(asked.user, loss, ones)

    found = {}
    for name, seeds in said.items():
        if not seeds:
            continue
        figures: dict[str, Any] = {
            "auroc": round(float(np.mean([auroc(one, asked.clicked) for one in seeds])), 5)
        }
        for kind in ("realised", "expected"):
            mine = [sums(one, kind == "expected") for one in seeds]
            figures[kind] = judge.loss_interval(mine)
            base = [sums(base_N, kind == "expected")]
            figures[f"{kind}_below"] = judge.loss_change(mine, base)
        found[name] = figures
    return found


def _cells(out: Path, row_N: IntArray, asked: Impressions) -> list[FloatArray]:
    """What the finished cells of FinTRec's clicks say of the impressions, seed by seed."""
    row = next(one for one in TABLES["table3"] if one.name == "clicks_fintrec")
    finished = read_cells(out / CELLS)
    named = [Cell(row, seed) for seed in read_setting(out).seeds]
    return [
        np.load(predictions_path(out, cell.name))[row_N, asked.item].astype(np.float64)
        for cell in named
        if cell.name in finished and cell_path(out, cell).exists()
    ]


def _trees(
    out: Path,
    data: TrainingSet,
    drawn: Sample,
    truth: Impressions,
    asked: Impressions,
    config: ClickTrees,
) -> Iterator[tuple[str, bool, FloatArray]]:
    """Name, whether told the position, and probabilities of every set of columns."""
    read, columns = examples.read(out / DATASET, data), Columns(data)
    pages = {
        name: pages_of(getattr(data, name), read.features[name]).with_item_history(
            data, getattr(data, name)
        )
        for name in ("train", "test")
    }
    item_column = columns.item_column(pages["train"])

    def rows(name: str, shown: Impressions) -> Float32Array:
        counts = columns.counts(pages[name], shown.page, shown.item)
        history = columns.history(getattr(data, name), shown.page, shown.item)
        told = (shown.known("place", "fast", "history"), shown.known("fast"))
        own = np.column_stack((shown.slot, *told, shown.known("history")))
        return np.concatenate((counts, history, own), axis=1, dtype=np.float32)

    mine, theirs = rows("train", truth), rows("test", asked)
    logged = list(range(mine.shape[1] - 4))
    slot, told = mine.shape[1] - 4, list(range(mine.shape[1] - 3, mine.shape[1]))
    for has_position in (True, False):
        more = [slot] if has_position else []
        used = [*logged, *more]
        said = config.of_labels(
            mine[:, used], drawn.clicked, drawn.negatives_rate, item_column, theirs[:, used]
        )
        yield TREES, has_position, said
        for name, chosen in ((NOISELESS, logged), (TOLD, logged + told)):
            used = [*chosen, *more]
            rows_NC, chance = mine[drawn.whole][:, used], truth.chance[drawn.whole]
            yield name, has_position, config.of_truth(rows_NC, chance, item_column, theirs[:, used])


def _spread(asked: Impressions) -> dict[str, float]:
    from fintrec.experiments.click_truth import PARTS

    return {
        name: round(float(part.std()), 4) for name, part in zip(PARTS, asked.parts_PN, strict=True)
    }


def _tendency(
    own: Tendency, row_N: IntArray, asked: Impressions, model: list[FloatArray], base_N: FloatArray
) -> dict[str, Any]:
    """Variances, the truth without the page's own level, and FinTRec told that level.

    Each is refitted on the truth, so that only what is known differs: slope, level, and the weight
    of what is told.
    """
    level = own.level_B[row_N]
    true = log_odds(asked.chance)

    def refitted(*inputs: FloatArray) -> FloatArray:
        stacked = np.stack((*inputs, np.ones(len(level))))
        start = [1.0] * len(inputs) + [0.0]
        pull, free = [WEAK] * len(start), [None] * len(start)
        return sigmoid(regression(stacked, asked.chance, start, pull, free) @ stacked)

    said: Said = {
        "truth without it": [refitted(true - level)],
        "base rates": [refitted(log_odds(base_N))],
        "base rates, told it": [refitted(log_odds(base_N), level)],
        MODEL: [refitted(log_odds(one)) for one in model],
        f"{MODEL}, told it": [refitted(log_odds(one), level) for one in model],
    }
    return {
        "variance": {name: round(value, 5) for name, value in own.variance.items()},
        "judged": judged(said, asked, base_N),
    }

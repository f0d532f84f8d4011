"""Recency-weighted item-kNN of conversions: what was reached after histories like this one.

- an event is an item, or a merchant's category, with what was done: a click on it, a purchase in it
- a history holds an event with weight 0.5 ** (days since it / half life), the newest one's
- the affinity of event and goal is the log of conversions over those expected from the goal's base
  rate, both summed over training pages with the weights; `prior` more of each hold it to 0
- a goal's score sums weight times affinity over the events nearest to it: the largest affinities
- level = a + b * base log odds + c * score, one map for all items and then each item's own
  (`fintrec/baselines/per_item.py`), both fitted on validation pages

After the recency-weighted item-kNN that `fintrec/public/neighbours.py` ranks sequences with; there
the neighbour is the next item, here a goal within its window, so that affinities have a direction
and scores become probabilities. Deterministic.

Shapes: M pages, N pages of validation or of a prediction, V events, K items
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.history import Rows, concatenated
from features.spec import DAY_MS
from fintrec.baselines import per_item, popularity
from fintrec.baselines.per_item import FloatArray, PerItem
from fintrec.datasets import Decisions, TrainingSet, converted, histories, label_known
from fintrec.logistic import WEAK, regression

IntArray = npt.NDArray[np.int64]
_PAGES_AT_ONCE: Final = 4096
_ACTIONS: Final = 256  # an action is one byte of a history's row


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourConfig:
    """How affinities are counted and summed; affinities are learnt from `num_pages` of training."""

    half_life_days: float = 1.0
    prior: float = 3.0
    num_neighbours: int = 3
    num_pages: int = 40_000

    def __post_init__(self) -> None:
        if self.num_neighbours < 1 or self.num_pages < 1:
            raise ValueError(
                f"num_neighbours is {self.num_neighbours} and num_pages {self.num_pages}, expected "
                "1 or more"
            )
        if not (self.half_life_days > 0 and self.prior > 0):
            raise ValueError(
                f"half_life_days is {self.half_life_days} and prior {self.prior}, expected both "
                "above 0"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Affinities, 0 but for the nearest events of an item, and the maps to probabilities."""

    config: NeighbourConfig
    events_V: IntArray
    affinity_VK: FloatArray
    base_K: FloatArray  # log odds
    weights_3: FloatArray  # of base log odds, score and 1
    calibration: PerItem

    def predict(self, data: TrainingSet, decisions: Decisions, pages: IntArray) -> FloatArray:
        """Probability that each item's goal is reached within its window, (N, K)."""
        score_NK = _scores(self.config, self.events_V, self.affinity_VK, data, decisions, pages)
        return self.calibration.apply(_level(self.weights_3, self.base_K, score_NK))


def fit(
    data: TrainingSet, held_out: IntArray, config: NeighbourConfig | None = None, seed: int = 0
) -> Neighbours:
    """Learn affinities on training pages, drawn by `seed`, and maps on the validation's `held_out`.

    Without a complete label there, level = base log odds + score, and no item has a map of its own.
    ValueError without a training page of which any label is complete.
    """
    config = config or NeighbourConfig()
    pages = np.flatnonzero(label_known(data, data.train).any(axis=1))
    if not len(pages):
        raise ValueError(
            f"none of {len(data.train)} training pages has a complete label, expected some to "
            "count neighbours on"
        )
    if len(pages) > config.num_pages:
        rng = np.random.default_rng(seed)
        pages = np.sort(rng.choice(pages, config.num_pages, replace=False))
    rate_K = np.array(popularity.conversions(data).rates_K)
    events_V = np.unique(np.concatenate([np.unique(_events(log)) for log in data.logs]))
    affinity_VK = _nearest(_affinities(config, events_V, rate_K, data, pages), config)
    score_NK = _scores(config, events_V, affinity_VK, data, data.validation, held_out)
    label_NK = converted(data, data.validation, held_out)
    known_NK = label_known(data, data.validation)[held_out]
    base_K = per_item.log_odds(rate_K)
    weights_3 = regression(
        np.stack(
            (np.broadcast_to(base_K, score_NK.shape)[known_NK], score_NK[known_NK], _ones(known_NK))
        ),
        label_NK[known_NK].astype(np.float64),
        (1.0, 1.0, 0.0),
        (1.0, 1.0, WEAK),
        (0.0, 0.0, None),
    )
    level_NK = _level(weights_3, base_K, score_NK)
    calibration = per_item.fit(level_NK, label_NK, known_NK)
    return Neighbours(config, events_V, affinity_VK, base_K, weights_3, calibration)


def _ones(known_NK: npt.NDArray[np.bool_]) -> FloatArray:
    return np.ones(int(known_NK.sum()))


def _level(weights_3: FloatArray, base_K: FloatArray, score_NK: FloatArray) -> FloatArray:
    return np.asarray(weights_3[0] * base_K + weights_3[1] * score_NK + weights_3[2])


def _events(rows: Rows) -> IntArray:
    return rows["item"].astype(np.int64) * _ACTIONS + rows["action"]


def _weights(
    config: NeighbourConfig,
    events_V: IntArray,
    data: TrainingSet,
    decisions: Decisions,
    pages: IntArray,
) -> Iterator[tuple[IntArray, npt.NDArray[np.float32]]]:
    """Pages a part at a time with their histories' weights, (part, V)."""
    for start in range(0, len(pages), _PAGES_AT_ONCE):
        part = pages[start : start + _PAGES_AT_ONCE]
        found = histories(data, decisions, part)
        rows = concatenated(found)
        page = np.repeat(np.arange(len(part)), [len(history) for history in found])
        age_days = (decisions.time_ms[part][page] - rows["time_ms"]) / DAY_MS
        event = _events(rows)
        place = np.minimum(np.searchsorted(events_V, event), len(events_V) - 1)
        is_known = events_V[place] == event
        weights = np.zeros((len(part), len(events_V)), np.float32)
        values = 0.5 ** (age_days[is_known] / config.half_life_days)
        np.maximum.at(weights, (page[is_known], place[is_known]), values.astype(np.float32))
        yield part, weights


def _affinities(
    config: NeighbourConfig,
    events_V: IntArray,
    rate_K: FloatArray,
    data: TrainingSet,
    pages: IntArray,
) -> FloatArray:
    """Log lift of each goal after each event, (V, K)."""
    reached = np.zeros((len(events_V), len(rate_K)))
    trials = np.zeros_like(reached)
    for part, weights in _weights(config, events_V, data, data.train, pages):
        known = data.train.time_ms[part, None] + data.window_ms <= data.train.observed_until_ms
        reached += weights.T @ converted(data, data.train, part).astype(np.float32)
        trials += weights.T @ known.astype(np.float32)
    return np.log((reached + config.prior) / (trials * rate_K + config.prior))


def _nearest(affinity_VK: FloatArray, config: NeighbourConfig) -> FloatArray:
    """The affinities with all but the `num_neighbours` largest sizes of each item at 0."""
    if len(affinity_VK) <= config.num_neighbours:
        return affinity_VK
    size = np.abs(affinity_VK)
    least_K = np.partition(size, -config.num_neighbours, axis=0)[-config.num_neighbours]
    return np.where(size >= least_K, affinity_VK, 0.0)


def _scores(
    config: NeighbourConfig,
    events_V: IntArray,
    affinity_VK: FloatArray,
    data: TrainingSet,
    decisions: Decisions,
    pages: IntArray,
) -> FloatArray:
    """Weighted sums of affinities, (N, K)."""
    parts = [np.zeros((0, affinity_VK.shape[1]))]
    parts += [w @ affinity_VK for _, w in _weights(config, events_V, data, decisions, pages)]
    return np.concatenate(parts)

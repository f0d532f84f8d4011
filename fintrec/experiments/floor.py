"""The best possible scores of the judged pages, by the bank's hidden truth.

The only module of the experiments that may read it: the floor judges models, nothing here trains
one. `fintrec/bank/oracle.py` says what the predictors know.

Shapes: N pages, K items
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS
from fintrec.bank import oracle, truth
from fintrec.bank.forecast import Forecast
from fintrec.datasets import TrainingSet
from fintrec.experiments.bank_data import IntArray, Judged

FloatArray = npt.NDArray[np.float64]
FORESIGHT: Final = "foresight"
HINDSIGHT: Final = "hindsight"
CLICKS: Final = "clicks_floor"


def predictions(log_dir: Path, data: TrainingSet, judged: Judged) -> dict[str, FloatArray]:
    """Probabilities (N, K) of every floor by its row's name; those of clicks only where shown.

    ValueError if the truth's labels are not the data set's: then floor and models would be judged
    on different things.
    """
    log = oracle.read(log_dir)
    ids, _ = truth.read_users(log_dir)
    person = {name: at for at, name in enumerate(ids)}
    item_ids = [item.item_id for item in log.catalogue.items]
    column = np.array([item_ids.index(name) for name in data.items])
    window_days = np.empty(len(item_ids))
    window_days[column] = data.window_ms / DAY_MS
    forecast = Forecast(log, int(data.test.time_ms.min()), window_days)
    shape = judged.known.shape
    hindsight, foresight = np.zeros(shape), np.zeros(shape)
    clicks = np.zeros(shape)
    shown = log.exposures
    bounds = np.searchsorted(shown.user, np.arange(len(ids) + 1))
    for user in np.unique(judged.user):
        rows = np.flatnonzero(judged.user == user)
        times, place = np.unique(judged.time_ms[rows], return_inverse=True)
        who = person[data.users[user]]
        later, now, label, _, _ = forecast.of_user(who, times)
        size = (len(times), len(item_ids))
        hindsight[rows] = later.reshape(size)[place][:, column]
        foresight[rows] = now.reshape(size)[place][:, column]
        _check(label.reshape(size)[place][:, column], judged, rows)
        mine = shown.of(slice(bounds[who], bounds[who + 1]))
        click = _clicks(mine.time_ms, mine.item, mine.click, times, len(item_ids))
        clicks[rows] = click[place][:, column]
    return {FORESIGHT: foresight, HINDSIGHT: hindsight, CLICKS: clicks}


def _clicks(
    time_ms: IntArray, item: IntArray, click: FloatArray, times: IntArray, num_items: int
) -> FloatArray:
    """True click probabilities of what was shown at each of the times, 0 elsewhere."""
    out = np.zeros((len(times), num_items))
    at = np.minimum(np.searchsorted(times, time_ms), len(times) - 1)
    here = times[at] == time_ms
    out[at[here], item[here]] = click[here]
    return out


def _check(label: npt.NDArray[np.bool_], judged: Judged, rows: IntArray) -> None:
    known = judged.known[rows]
    wrong = (label != judged.converted[rows]) & known
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} labels of {int(known.sum())} differ between the bank's log and "
            "the data set: expected one and the same log"
        )

"""The best possible scores of the judged pages, by the bank's hidden truth.

The floor judges models, nothing here trains one. `fintrec/bank/oracle.py` says what the predictors
know.

Shapes: N pages, K items
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fintrec.datasets import TrainingSet
from fintrec.experiments.bank_data import Judged
from fintrec.experiments.hidden_truth import Truth

FloatArray = npt.NDArray[np.float64]
FORESIGHT: Final = "foresight"
HINDSIGHT: Final = "hindsight"
CLICKS: Final = "clicks_floor"


def predictions(log_dir: Path, data: TrainingSet, judged: Judged) -> dict[str, FloatArray]:
    """Probabilities (N, K) of every floor by its row's name; those of clicks only where shown.

    ValueError if the truth's labels are not the data set's: then floor and models would be judged
    on different things.
    """
    known = Truth(log_dir, data)
    hindsight, foresight, label = known.forecast(data.test, judged.pages)
    wrong = (label != judged.converted) & judged.known
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} labels of {int(judged.known.sum())} differ between the bank's log "
            "and the data set: expected one and the same log"
        )
    clicks = np.zeros(judged.known.shape)
    row, slot = np.nonzero(judged.shown >= 0)
    shown = known.exposures(data.test, judged.pages[row], slot)
    clicks[row, judged.shown[row, slot]] = shown.click
    return {FORESIGHT: foresight, HINDSIGHT: hindsight, CLICKS: clicks}

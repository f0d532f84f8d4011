"""A model's probabilities against the true ones of a simulated log.

A label says one bit of an event whose probability was, say, 0.04; the truth says the 0.04. So a few
thousand impressions show a bias that labels would drown, and how far below the base rate's log loss
any model could come: the mean entropy of the truth.

- clicks: the true probability of a click on each impression, given that it is shown
- conversions of shown items: the true probability of a conversion *caused by* the exposure
- conversions of any cause, which is what pCVR is trained on: `foresight`, the honest predictor of
  `fintrec/bank/oracle.py`, over shown items and over all. Neither it nor pCVR is told what the page
  will show, so over shown items both lack what the exposure adds; the observed rate stands beside

By decile of truth a model that knows less than the truth is too high below and too low above, and
rightly so. By decile of its own prediction an honest model is right everywhere.

Shapes: N examples, B pages, K items
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS
from fintrec.bank import oracle, truth
from fintrec.bank.forecast import Exposures, Forecast, Log
from fintrec.bank.mechanism import Mechanism
from fintrec.calibration import conversion_probabilities
from fintrec.checkpoint import Checkpoint
from fintrec.datasets import Decisions, TrainingSet, converted, label_known
from fintrec.evaluation import score
from fintrec.learning.tasks import sampled
from fintrec.logistic import WEAK, logit, regression
from fintrec.metrics import binned, log_loss

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
DECILES: Final = 10
_SMALLEST: Final = 1e-8
_DIGITS: Final = 6


class Truth:
    """The truth of a LOG_DIR in the order of a training set's users and items.

    Raises LogError where no truth lies beside the log.
    """

    def __init__(self, log_dir: Path, data: TrainingSet) -> None:
        self.log: Log = oracle.read(log_dir)
        ids, _ = truth.read_users(log_dir)
        person = {name: place for place, name in enumerate(ids)}
        self._person = np.array([person[name] for name in data.users], np.int64)
        place = {item.item_id: at for at, item in enumerate(self.log.catalogue.items)}
        self.column = np.array([place[name] for name in data.items], np.int64)
        self.window_days = np.zeros(len(place))
        self.window_days[self.column] = data.window_ms / DAY_MS

    def person(self, user: npt.NDArray[Any]) -> IntArray:
        """Places of the training set's users in the truth."""
        return self._person[user]

    def exposures(self, decisions: Decisions, page: IntArray, slot: IntArray) -> Exposures:
        """The truth of what was shown in slots of pages; ValueError if the log never showed it."""
        shown = self.log.exposures
        wanted = (
            self.person(decisions.user[page]),
            self.column[decisions.shown[page, slot]],
            decisions.time_ms[page],
        )
        known = _keys(shown.user, shown.item, shown.time_ms)
        asked = _keys(*wanted)
        order = np.argsort(known)
        at = order[np.minimum(np.searchsorted(known, asked, sorter=order), len(known) - 1)]
        if (known[at] != asked).any():
            lost = int((known[at] != asked).sum())
            raise ValueError(
                f"{lost} of {len(asked)} impressions are not in the truth: expected the truth of "
                "the log that the data set was built from"
            )
        return shown.of(at)

    def caused(self, shown: Exposures) -> FloatArray:
        """Probabilities that exposures lead to their goals within the label windows."""
        within = Mechanism(self.log.catalogue).within_window(self.window_days)
        goal = shown.click * shown.if_clicked + (1 - shown.click) * shown.if_not
        return np.asarray(goal * within[shown.item])

    def forecast(
        self, decisions: Decisions, pages: IntArray
    ) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Hindsight, foresight and labels of any cause, (B, K) each."""
        hindsight, foresight, label = self._by_user(
            decisions, pages, 3, lambda asked, user, times: asked.of_user(user, times)[:3]
        )
        return hindsight, foresight, label > 0

    def of_pages(self, decisions: Decisions, pages: IntArray) -> FloatArray:
        """`Forecast.of_page` of pages, (4, B, K): foresight, P(goal | not shown), what an exposure
        adds, how often the logging policy shows it.
        """
        return self._by_user(
            decisions, pages, 4, lambda asked, user, times: asked.of_page(user, times)
        )

    def _by_user(
        self,
        decisions: Decisions,
        pages: IntArray,
        num: int,
        ask: Callable[[Forecast, int, IntArray], tuple[npt.NDArray[Any], ...]],
    ) -> FloatArray:
        """`num` answers for every page and item, (num, B, K); asked once a user."""
        from_ms = int(decisions.time_ms.min()) if len(decisions) else 0
        forecast = Forecast(self.log, from_ms, self.window_days)
        person = self.person(decisions.user[pages])
        out = np.zeros((num, len(pages), len(self.column)))
        for user in np.unique(person).tolist():
            rows = np.flatnonzero(person == user)
            times, place = np.unique(decisions.time_ms[pages[rows]], return_inverse=True)
            for number, found in enumerate(ask(forecast, user, times)):
                out[number, rows] = found.reshape(len(times), -1)[place][:, self.column]
        return out


def _keys(user: IntArray, item: IntArray, time_ms: IntArray) -> npt.NDArray[Any]:
    found = np.zeros(len(user), [("user", "i8"), ("time_ms", "i8"), ("item", "i8")])
    found["user"], found["time_ms"], found["item"] = user, time_ms, item
    return found


def judge_clicks(
    known: Truth, decisions: Decisions, pages: IntArray, pctr_BK: FloatArray
) -> dict[str, Any]:
    """pCTR of the items that pages showed against their true click probability."""
    row, slot = np.nonzero(decisions.shown[pages] >= 0)
    page = pages[row]
    shown = known.exposures(decisions, page, slot)
    predicted = pctr_BK[row, decisions.shown[page, slot]]
    return compared(predicted, shown.click, decisions.clicked[page, slot])


def judge_conversions(
    known: Truth, data: TrainingSet, decisions: Decisions, pages: IntArray, pcvr_BK: FloatArray
) -> dict[str, Any]:
    """pCVR: of shown items against caused conversions; of shown and of all against foresight.

    Labels enter the last two, so these are over complete ones.
    """
    complete = label_known(data, decisions)[pages]
    label = converted(data, decisions, pages)
    _, foresight, _ = known.forecast(decisions, pages)
    row, slot = np.nonzero(decisions.shown[pages] >= 0)
    item = decisions.shown[pages[row], slot]
    caused = known.caused(known.exposures(decisions, pages[row], slot))
    is_shown = np.zeros_like(complete)
    is_shown[row, item] = True
    return {
        "shown_caused": compared(pcvr_BK[row, item], caused, None),
        **{
            name: compared(pcvr_BK[which], foresight[which], label[which])
            for name, which in (
                ("shown_any_cause", complete & is_shown),
                ("all_any_cause", complete),
            )
        },
    }


def compared(
    predicted_N: FloatArray, true_N: FloatArray, label_N: BoolArray | None
) -> dict[str, Any]:
    """One set of predictions against true probabilities (and the labels drawn from them, if any).

    `expected_log_loss` is over the draw of labels; the entropy is its lowest value and the constant
    rate the least that knowing nothing costs. `explained` is the share of that way which is covered.
    Slope and intercept are those of `calibration_line`, on the truth in place of labels.
    """
    if not len(true_N):
        return {"examples": 0}
    predicted = np.clip(np.asarray(predicted_N, np.float64), _SMALLEST, 1 - _SMALLEST)
    floor, cost = _cross_entropy(true_N, true_N), _cross_entropy(true_N, predicted)
    constant = _cross_entropy(true_N, np.full(len(true_N), true_N.mean()))
    slope, intercept = _line(predicted, true_N)
    found: dict[str, float] = {
        "mean_predicted": predicted.mean(),
        "mean_true": true_N.mean(),
        "bias": (predicted - true_N).mean(),
        "mean_absolute_error": np.abs(predicted - true_N).mean(),
        "mean_absolute_error_of_constant": np.abs(true_N.mean() - true_N).mean(),
        "expected_log_loss": cost,
        "entropy": floor,
        "expected_log_loss_of_constant": constant,
        "explained": (constant - cost) / (constant - floor) if constant > floor else np.nan,
        "slope": slope,
        "intercept": intercept,
    }
    if label_N is not None:
        found["observed"] = float(label_N.mean())
        found["log_loss"] = log_loss(predicted, label_N)
        found["log_loss_of_truth"] = log_loss(true_N, label_N)
    return {
        "examples": len(true_N),
        **{name: round(float(v), _DIGITS) if np.isfinite(v) else None for name, v in found.items()},
        "by_truth": _by(true_N, predicted, true_N),
        "by_prediction": _by(predicted, predicted, true_N),
    }


def _cross_entropy(true_N: FloatArray, said_N: FloatArray) -> float:
    said = np.clip(said_N, 1e-12, 1 - 1e-12)
    return float(-(true_N * np.log(said) + (1 - true_N) * np.log1p(-said)).mean())


def _line(predicted: FloatArray, true_N: FloatArray) -> tuple[float, float]:
    said = logit(predicted)
    centre = said.mean()
    inputs = np.stack((said - centre, np.ones_like(said)))
    slope, level = regression(inputs, true_N, (1.0, 0.0), (WEAK, WEAK), (None, None))
    return float(slope), float(level - slope * centre)


def _by(key: FloatArray, predicted: FloatArray, true_N: FloatArray) -> list[dict[str, Any]]:
    return [
        {
            "examples": len(part),
            "true": round(float(true_N[part].mean()), _DIGITS),
            "predicted": round(float(predicted[part].mean()), _DIGITS),
            "bias": round(float((predicted[part] - true_N[part]).mean()), _DIGITS),
        }
        for part in binned(key, DECILES, "mass")
    ]


def judge_checkpoint(
    log_dir: Path, checkpoint: Checkpoint, data: TrainingSet, pages: int = 4096
) -> dict[str, Any]:
    """The models of a checkpoint on at most `pages` test pages, drawn by the recipe's seed."""
    known, decisions = Truth(log_dir, data), data.test
    chosen = sampled(decisions, pages, checkpoint.recipe.training.seed)
    scored = score(checkpoint.pctr, checkpoint.pcvr, data, decisions, chosen)
    found: dict[str, Any] = {"pages": len(scored.pages)}
    if checkpoint.calibration is not None:
        pctr = checkpoint.calibration.apply(scored.pctr_logits)
        found["clicks"] = judge_clicks(known, decisions, scored.pages, pctr)
    if checkpoint.pcvr is not None:
        pcvr = conversion_probabilities(scored.pcvr_logits)
        found["conversions"] = judge_conversions(known, data, decisions, scored.pages, pcvr)
    return found

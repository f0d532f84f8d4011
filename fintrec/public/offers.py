"""Offer conversion: is an offer sent accepted within 30 days, told at the instant it is sent?

Protocol: every O_SENT whose 30 days end within the log is an example; it is positive if the case's
O_ACCEPTED follows within 30 days. Offers by instant, the first 80 % train, the last 20 % test. What is
known are the rows of the case up to the O_SENT itself, in the order they were logged.

The training offers' own 30 days reach into the test period. That is the published protocol; the
purged variant leaves out the training offers whose outcome was not known when the first test offer
was sent, which is all that a bank could have learned from.

Shapes: O offers, X context features
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.spec import DAY_MS, HOUR_MS
from fintrec.baselines.per_item import log_odds
from fintrec.intervals import paired_difference
from fintrec.logistic import sigmoid
from fintrec.logs import LogError
from fintrec.metrics import auroc, log_loss, losses
from fintrec.public.event_log import EventLog, IntArray
from fintrec.public.leaks import check_known
from fintrec.public.side_features import fit_side_features

SENT: Final = "O_SENT"
ACCEPTED: Final = "O_ACCEPTED"
FOLLOW_UP_MS: Final = 30 * DAY_MS
TRAIN_SHARE: Final = 0.8
FEWEST: Final = 50  # offers, below which no model is trained
FEWEST_EACH: Final = 2  # accepted and refused ones of each part
FEWEST_CASES: Final = 2  # of the test offers: with one there is nothing to resample
GOAL_LOG_LOSS: Final = 0.6507  # of the forest, as published
VARIANTS: Final = ("published", "purged")
BOTH: Final = "encoder and forest"  # the mean of their log odds
JUDGED: Final = {"encoder": "test", BOTH: "with_forest"}  # what an encoder's cell calls our models
MODELS: Final = ("constant", "forest", "boosting", "logistic")
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Offers:
    """Offers by the instant they were sent."""

    row_O: IntArray  # of the O_SENT in the log
    first_O: IntArray  # first row of its case
    case_O: IntArray
    sent_ms_O: IntArray
    is_accepted_O: BoolArray

    def __len__(self) -> int:
        return len(self.row_O)

    def take(self, chosen: IntArray | BoolArray | slice) -> "Offers":
        """The chosen offers."""
        return Offers(
            self.row_O[chosen],
            self.first_O[chosen],
            self.case_O[chosen],
            self.sent_ms_O[chosen],
            self.is_accepted_O[chosen],
        )


def find_offers(log: EventLog) -> Offers:
    """All offers with a full follow-up, accepted or not; empty where the log has none."""
    sent = np.flatnonzero(log.activity_N == SENT)
    sent = sent[log.time_ms_N[sent] + FOLLOW_UP_MS <= log.time_ms_N.max()]
    sent = sent[np.argsort(log.time_ms_N[sent], kind="stable")]
    case_O, sent_ms_O = log.case_N[sent], log.time_ms_N[sent]
    is_accepted_O = np.zeros(len(sent), np.bool_)
    accepted = np.flatnonzero(log.activity_N == ACCEPTED)
    keys = log.case_N[accepted], log.time_ms_N[accepted]
    span = int(log.time_ms_N.max() - log.time_ms_N.min()) + FOLLOW_UP_MS + 1
    start = int(log.time_ms_N.min())
    code = np.sort(keys[0] * span + (keys[1] - start))
    low = np.searchsorted(code, case_O * span + (sent_ms_O - start), side="right")
    high = np.searchsorted(code, case_O * span + (sent_ms_O - start) + FOLLOW_UP_MS, side="right")
    is_accepted_O[:] = high > low
    return Offers(sent, log.start_C1[case_O], case_O, sent_ms_O, is_accepted_O)


def split(offers: Offers) -> tuple[Offers, Offers]:
    """(train, test); LogError with too few offers or cases, or only accepted or only refused ones."""
    if len(offers) < FEWEST:
        raise LogError(f"{len(offers)} offers with a full follow-up, expected at least {FEWEST}")
    num_train = int(TRAIN_SHARE * len(offers))
    train, test = offers.take(slice(0, num_train)), offers.take(slice(num_train, len(offers)))
    _check_outcomes("training", train)
    _check_outcomes("test", test)
    if len(np.unique(test.case_O)) < FEWEST_CASES:
        raise LogError(f"all {len(test)} test offers are of one case, expected {FEWEST_CASES}")
    return train, test


def _check_outcomes(name: str, offers: Offers) -> None:
    accepted = int(offers.is_accepted_O.sum())
    if min(accepted, len(offers) - accepted) < FEWEST_EACH:
        raise LogError(
            f"{accepted} of {len(offers)} {name} offers are accepted, expected at least "
            f"{FEWEST_EACH} accepted and {FEWEST_EACH} refused"
        )


def context(log: EventLog, offers: Offers, activities: Sequence[str]) -> FloatArray:
    """What the case's rows up to the O_SENT say in numbers, (O, X): what the forest sees.

    How often each of the ascending `activities` happened; log(1 + ms) since the case began and since the row before; log
    of the amount asked for; hour; weekday.
    """
    # Rows of a case are in the order of time, so its ends stand for all between them.
    ends_O2 = np.stack((offers.first_O, offers.row_O), axis=1)
    check_known(log, offers, ends_O2, np.ones(ends_O2.shape, np.bool_))
    names = np.array(activities)
    place_N = np.minimum(np.searchsorted(names, log.activity_N), len(names) - 1)
    code_N = np.where(names[place_N] == log.activity_N, place_N, len(names))
    count_OA = np.stack(
        [
            np.bincount(code_N[first : row + 1], minlength=len(names) + 1)[: len(names)]
            for first, row in zip(offers.first_O, offers.row_O, strict=True)
        ]
    )
    before_ms = log.time_ms_N[np.maximum(offers.row_O - 1, offers.first_O)]
    numbers = (
        np.log1p(offers.sent_ms_O - log.time_ms_N[offers.first_O]),
        np.log1p(offers.sent_ms_O - before_ms),
        np.log1p(np.maximum(log.amount_N[offers.row_O], 0.0)),
        offers.sent_ms_O // HOUR_MS % 24,
        (offers.sent_ms_O // DAY_MS + 3) % 7,
    )
    return np.column_stack((count_OA, *numbers)).astype(np.float64)


def contexts(log: EventLog, train: Offers, test: Offers) -> tuple[FloatArray, FloatArray]:
    """(train, test): the context of both over all activities of the log."""
    activities = tuple(np.unique(log.activity_N).tolist())
    return context(log, train, activities), context(log, test, activities)


def purged(train: Offers, test: Offers) -> Offers:
    """The training offers whose 30 days were over when the first test offer was sent."""
    return train.take(train.sent_ms_O + FOLLOW_UP_MS <= int(test.sent_ms_O.min()))


def variants(offers: Offers) -> dict[str, tuple[Offers, Offers]]:
    """(train, test) of the published protocol, and of the one without outcomes of the test period.

    LogError where either has too few training offers, or only accepted or only refused ones.
    """
    train, test = split(offers)
    found = {"published": (train, test), "purged": (purged(train, test), test)}
    _check_outcomes("purged training", found["purged"][0])
    return found


def baseline_probabilities(
    log: EventLog, train: Offers, test: Offers, names: Sequence[str] = MODELS
) -> dict[str, FloatArray]:
    """Of the `test` offers being accepted, (O,), by each of the named models fitted on `train`."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    known, asked = contexts(log, train, test)
    side = fit_side_features(known, len(np.unique(log.activity_N)))
    found = {"constant": np.full(len(test), train.is_accepted_O.mean())}
    classifiers = {
        "forest": (RandomForestClassifier(300, min_samples_leaf=10, random_state=0), known, asked),
        "boosting": (HistGradientBoostingClassifier(random_state=0), known, asked),
        "logistic": (LogisticRegression(C=0.01, max_iter=1000), side.of(known), side.of(asked)),
    }
    for name in classifiers.keys() & set(names):
        model, features, of_test = classifiers[name]
        model.fit(features, train.is_accepted_O)
        found[name] = model.predict_proba(of_test)[:, 1]
    return {name: found[name] for name in names}


def baselines(log: EventLog, train: Offers, test: Offers) -> dict[str, dict[str, Any]]:
    """`figures` on `test` of all baselines, fitted on `train`."""
    found = baseline_probabilities(log, train, test)
    return {name: figures(found[name], test, found["forest"]) for name in MODELS}


def mean_of_log_odds(one_O: FloatArray, other_O: FloatArray) -> FloatArray:
    """The probability whose log odds are the mean of two models': equal weights, nothing to tune."""
    return sigmoid((log_odds(one_O) + log_odds(other_O)) / 2)


def offer_baselines(log: EventLog) -> dict[str, Any]:
    """The baselines on both variants; only the number of offers and the reason where none can be."""
    offers = find_offers(log)
    found: dict[str, Any] = {"offers": len(offers)}
    try:
        parts = variants(offers)
    except LogError as refused:
        return {**found, "reason": str(refused)}
    for name, (train, test) in parts.items():
        found["test_offers"] = len(test)
        found[name] = {"train_offers": len(train), **baselines(log, train, test)}
    return found


def figures(
    probability_O: FloatArray, offers: Offers, forest_O: FloatArray | None = None
) -> dict[str, Any]:
    """Log loss and AUROC; beside a forest's probabilities also the log loss minus the forest's.

    `minus_forest` is a 95 % interval of the same offers' paired difference, by resampling cases: the
    offers of one case share their fate. ValueError where all offers are of one case.
    """
    found: dict[str, Any] = {
        "log_loss": round(log_loss(probability_O, offers.is_accepted_O), 4),
        "auroc": round(auroc(probability_O, offers.is_accepted_O), 4),
    }
    if forest_O is not None:
        ours_O, theirs_O = (
            losses(each, offers.is_accepted_O) for each in (probability_O, forest_O)
        )
        found["minus_forest"] = paired_difference(ours_O, theirs_O, offers.case_O).to_dict()
    return found

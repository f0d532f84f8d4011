"""The bank and the data set of an experiment, made once, and the pages that all rows share."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fintrec import datasets
from fintrec.datasets import Decisions, TrainingSet, converted, label_known
from fintrec.experiments.setting import DATASET, Setting

_TRAIN_SEED, _HELD_OUT_SEED, _JUDGED_SEED, _TRIED_SEED = (
    11,
    12,
    13,
    14,
)  # pages are the same whatever is trained
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """The pages that every row is judged on, and what happened, (N, K) and (N, S)."""

    pages: IntArray  # (N,) places in the decisions of their period
    user: IntArray  # (N,) places in the training set's users
    time_ms: IntArray
    converted: BoolArray
    known: BoolArray
    shown: npt.NDArray[np.int32]
    clicked: BoolArray


def load(out: Path) -> TrainingSet:
    """The training set of an experiment's folder."""
    return datasets.load_training_set(out / DATASET)


def judged(data: TrainingSet, setting: Setting) -> Judged:
    """The same test pages for every row and seed."""
    return judged_of(data, data.test, _drawn(data.test, setting.judged_pages, _JUDGED_SEED))


def tried(data: TrainingSet, setting: Setting, limit: int) -> Judged:
    """Validation pages that trials are judged on: none of them is held out for a calibration."""
    others = np.setdiff1d(np.arange(len(data.validation)), held_out(data, setting))
    return judged_of(data, data.validation, _drawn(data.validation, limit, _TRIED_SEED, others))


def judged_of(data: TrainingSet, decisions: Decisions, pages: IntArray) -> Judged:
    """Some pages of a period and what happened."""
    return Judged(
        pages=pages,
        user=decisions.user[pages].astype(np.int64),
        time_ms=decisions.time_ms[pages],
        converted=converted(data, decisions, pages),
        known=label_known(data, decisions)[pages],
        shown=decisions.shown[pages],
        clicked=decisions.clicked[pages],
    )


def held_out(data: TrainingSet, setting: Setting) -> IntArray:
    """Validation pages that calibrations are fitted on."""
    return _drawn(data.validation, setting.held_out_pages, _HELD_OUT_SEED)


def thinned(data: TrainingSet, num_pages: int) -> TrainingSet:
    """The training set with so many of its training pages, for pCVR of the transformers.

    Pages with some complete label only: the last days of training have none yet, and would be
    encoded for nothing.
    """
    labelled = np.flatnonzero(label_known(data, data.train).any(axis=1))
    chosen = _drawn(data.train, num_pages, _TRAIN_SEED, labelled)
    return replace(data, train=data.train.taken(chosen))


def _drawn(decisions: Decisions, limit: int, seed: int, among: IntArray | None = None) -> IntArray:
    pages = np.arange(len(decisions), dtype=np.int64) if among is None else among
    if len(pages) <= limit:
        return pages
    return np.sort(np.random.default_rng(seed).choice(pages, limit, replace=False))

"""How a model treats groups: age bands, channels, content types (the slices of a model card).

Of each group: log loss, mean predicted and observed rate, and their gap with an interval over
users. A gap whose interval does not hold 0 is flagged: the model promises this group too much or
too little. Age is read here and nowhere else (`fintrec/demographics.py`).

Shapes: N rows
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.encoding import REQUEST_COLUMNS
from features.vocabulary import CHANNELS
from fintrec.datasets import Decisions, TrainingSet
from fintrec.demographics import AGE_BANDS, read_age_bands
from fintrec.judged import Judged, log_loss_interval, mean_interval

MIN_USERS: Final = 30  # of a slice that is judged
MIN_POSITIVES: Final = 10
AGE, CHANNEL, CONTENT_TYPE = "age band", "channel", "content type"
FITS, LOW, HIGH, TOO_SMALL = "fits", "predicts too little", "predicts too much", "too small"
_CHANNEL_COLUMN: Final = REQUEST_COLUMNS.index("channel")


@dataclass(frozen=True, slots=True)
class Groups:
    """One attribute: the names of its groups, and the group of each user, page or item."""

    attribute: str
    names: tuple[str, ...]
    of: npt.NDArray[np.int64]  # -1 where it is not known
    by: str  # "user", "page" or "item": what `of` is indexed by

    def rows(self, judged: Judged) -> npt.NDArray[np.int64]:
        """Group of each row, (N,)."""
        index: npt.NDArray[np.int64] = getattr(judged, self.by)
        return self.of[index]


def groups_of(data: TrainingSet, decisions: Decisions, source: Path | None) -> list[Groups]:
    """The attributes that are known; age only if the LOG_DIR or DATASET_DIR `source` has it."""
    found = []
    ages = None if source is None else read_age_bands(source, data.users)
    if ages is not None:
        found.append(_ages(ages, data.users))
    codes = decisions.request[:, _CHANNEL_COLUMN]
    channels = [name or "none" for name in CHANNELS]
    found.append(Groups(CHANNEL, tuple(channels), codes, "page"))
    kinds = tuple(sorted(set(data.content_types)))
    kind = np.array([kinds.index(name) for name in data.content_types], np.int64)
    found.append(Groups(CONTENT_TYPE, kinds, kind, "item"))
    return found


def _ages(ages: Mapping[str, str], users: Sequence[str]) -> Groups:
    band = np.array(
        [AGE_BANDS.index(ages[user]) if user in ages else -1 for user in users], np.int64
    )
    return Groups(AGE, AGE_BANDS, band, "user")


def slices(judged: Judged, groups: Sequence[Groups]) -> list[dict[str, Any]]:
    """A row a group that has any example, in the order of the attributes and their names."""
    found = []
    for attribute in groups:
        group_N = attribute.rows(judged)
        for number, name in enumerate(attribute.names):
            inside = np.flatnonzero(group_N == number)
            if len(inside):
                found.append(_slice(attribute.attribute, name, _taken(judged, inside)))
    return found


def _taken(judged: Judged, rows: npt.NDArray[np.int64]) -> Judged:
    return Judged(*(getattr(judged, name)[rows] for name in Judged.__slots__))


def _slice(attribute: str, name: str, inside: Judged) -> dict[str, Any]:
    num_users, positives = len(np.unique(inside.user)), int(inside.label.sum())
    gap = mean_interval(inside.probability - inside.label, inside.user)
    loss = log_loss_interval(inside)
    verdict = TOO_SMALL
    if gap is not None and num_users >= MIN_USERS and positives >= MIN_POSITIVES:
        verdict = FITS if gap.holds(0.0) else (HIGH if gap.value > 0 else LOW)
    return {
        "attribute": attribute,
        "group": name,
        "rows": len(inside),
        "users": num_users,
        "positives": positives,
        "predicted": float(inside.probability.mean()),
        "observed": float(inside.label.mean()),
        "gap": gap and gap.to_dict(),
        "log_loss": loss and loss.to_dict(),
        "verdict": verdict,
    }

"""Base rates of items: the tier that needs no model, and items that the model does not know.

Click rate given shown, and conversion rate of a page (with or without exposure), both measured on
training decisions and shrunk: an item towards its content type, a content type towards all.

Shapes: M decisions, P positions, K items
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fintrec.datasets import TrainingSet

PRIOR_WEIGHT: Final = 100.0  # impressions (or pages) that the prior counts for
ANY_TYPE: Final = ""
_FLOOR: Final = 1e-6
_DECIMALS: Final = 8
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Popularity:
    """`ctr` and `cvr` in item order; priors by content type, `ANY_TYPE` for one never seen."""

    ctr: tuple[float, ...]
    cvr: tuple[float, ...]
    prior_ctr: Mapping[str, float]
    prior_cvr: Mapping[str, float]

    def prior(self, content_type: str) -> tuple[float, float]:
        """(pCTR, pCVR) of an item that the model has no output for."""
        kind = content_type if content_type in self.prior_ctr else ANY_TYPE
        return self.prior_ctr[kind], self.prior_cvr[kind]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Popularity":
        """Inverse of `to_dict`."""
        return cls(
            tuple(data["ctr"]),
            tuple(data["cvr"]),
            dict(data["prior_ctr"]),
            dict(data["prior_cvr"]),
        )


def measure(data: "TrainingSet") -> Popularity:
    """Base rates of the training decisions; a conversion label counts where it is complete."""
    from fintrec.datasets import label_known

    decisions, num_items = data.train, len(data.items)
    shown = decisions.shown >= 0
    impressions = np.bincount(decisions.shown[shown], minlength=num_items)
    clicks = np.bincount(decisions.shown[shown & decisions.clicked], minlength=num_items)
    conversions = np.bincount(decisions.converted_items, minlength=num_items)
    pages = label_known(data, decisions).sum(axis=0)
    kinds = np.array(data.content_types)
    ctr, prior_ctr = _shrunk(clicks, impressions, kinds)
    cvr, prior_cvr = _shrunk(conversions, pages, kinds)
    return Popularity(ctr, cvr, prior_ctr, prior_cvr)


def log_exposure(data: "TrainingSet") -> FloatArray:
    """Log share of training impressions that each item had, (K,); one more each, so finite."""
    shown = data.train.shown[data.train.shown >= 0]
    counts = np.bincount(shown, minlength=len(data.items)) + 1.0
    shares: FloatArray = np.log(counts / counts.sum())
    return shares


def _shrunk(
    hits: npt.NDArray[np.int64], trials: npt.NDArray[np.int64], kinds: npt.NDArray[np.str_]
) -> tuple[tuple[float, ...], dict[str, float]]:
    priors = {ANY_TYPE: max(float(hits.sum()) / max(float(trials.sum()), 1.0), _FLOOR)}
    rates = np.zeros(len(hits))
    for kind in np.unique(kinds):
        own = kinds == kind
        priors[str(kind)] = _toward(priors[ANY_TYPE], float(hits[own].sum()), trials[own].sum())
        rates[own] = _toward(priors[str(kind)], hits[own], trials[own])
    rounded = {kind: round(float(rate), _DECIMALS) for kind, rate in priors.items()}
    return tuple(np.round(rates, _DECIMALS).tolist()), rounded


def _toward(prior: float, hits: Any, trials: Any) -> Any:
    return (hits + PRIOR_WEIGHT * prior) / (trials + PRIOR_WEIGHT)

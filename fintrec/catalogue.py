"""The catalogue compiled for ranking: items as columns, in the order of their ids.

Items come from items.v1 and change while requests flow; a model version scores the K items it was
trained on. `Candidates` is the part of the catalogue that a surface may show, with the model's
output column of each item (`NO_COLUMN` for an item the model does not know: it is scored by the
prior of its content type and flagged).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from features.records import CONTENT_TYPES, Item, RankingPolicy
from features.spec import ENROLLMENTS

NO_COLUMN: Final = -1
_FOREVER_MS: Final = 1 << 62
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def _mask(names: Iterable[str]) -> int:
    """Bit i for ENROLLMENTS[i]; a name outside them sets bit 31, which nobody owns."""
    places = [ENROLLMENTS.index(name) if name in ENROLLMENTS else 31 for name in names]
    return sum(1 << place for place in set(places))


@dataclass(frozen=True)
class Catalogue:
    """Items sorted by id; arrays hold one entry an item."""

    items: tuple[Item, ...]

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Catalogue":
        """A catalogue of the newest version of each item."""
        newest: dict[str, Item] = {}
        for item in items:
            if item.item_id not in newest or newest[item.item_id].version <= item.version:
                newest[item.item_id] = item
        return cls(tuple(newest[item_id] for item_id in sorted(newest)))

    @cached_property
    def version(self) -> str:
        """Fingerprint of what is in it; two workers with the same items agree."""
        text = "\n".join(repr(item) for item in self.items)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def place_of(self) -> Mapping[str, int]:
        """Item id to its place."""
        return {item.item_id: place for place, item in enumerate(self.items)}

    def places(self, product: str, wanted: Sequence[str] | None) -> IntArray:
        """Places of a surface's candidates in id order; only `wanted` ones where given."""
        chosen: Sequence[int] = range(len(self.items))
        if wanted is not None:
            chosen = sorted({self.place_of[i] for i in wanted if i in self.place_of})
        shown = [
            p for p in chosen if not self.items[p].products or product in self.items[p].products
        ]
        return np.array(shown, np.int64)


@dataclass(frozen=True)
class Candidates:
    """What a surface may show under one policy and one model: arrays over M candidates.

    `column_M` is the model's output column; `prior_pctr_M`, `prior_pcvr_M` stand in where there
    is none (and for every item in the popularity tier).
    """

    item_ids: tuple[str, ...]
    column_M: IntArray
    prior_pctr_M: FloatArray
    prior_pcvr_M: FloatArray
    value_usd_M: FloatArray
    urgency_M: FloatArray
    is_marketing_M: npt.NDArray[np.bool_]
    requires_M: npt.NDArray[np.uint32]
    excludes_M: npt.NDArray[np.uint32]
    min_tenure_days_M: IntArray
    valid_from_ms_M: IntArray
    valid_until_ms_M: IntArray
    pinned_M: IntArray  # position asked for, 0 none

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, slots=True)
class ItemPriors:
    """What a model version's manifest says about items apart from the network.

    `column` maps the K scored items to output columns; `popularity` has each item's calibrated
    click and conversion rate, `by_content_type` the rates of a content type.
    """

    column: Mapping[str, int]
    popularity: Mapping[str, tuple[float, float]]
    by_content_type: Mapping[str, tuple[float, float]]

    def prior(self, item: Item) -> tuple[float, float]:
        """(pCTR, pCVR) of an item without a network."""
        known = self.popularity.get(item.item_id)
        return known or self.by_content_type.get(item.content_type, (0.0, 0.0))


NO_PRIORS: Final = ItemPriors({}, {}, dict.fromkeys(CONTENT_TYPES, (0.01, 0.001)))


def candidates(
    catalogue: Catalogue,
    product: str,
    policy: RankingPolicy,
    priors: ItemPriors,
    wanted: Sequence[str] | None = None,
    marketing: bool = True,
) -> Candidates:
    """Compile the candidates of a surface; the policy's values and urgencies go before the item's.

    `marketing=False` leaves marketing out, for a tier that cannot know a user's consent.
    """
    items = [catalogue.items[place] for place in catalogue.places(product, wanted)]
    items = [item for item in items if marketing or item.content_type != "marketing"]
    prior = [priors.prior(item) for item in items]
    rules = [item.eligibility for item in items]
    return Candidates(
        item_ids=tuple(item.item_id for item in items),
        column_M=np.array([priors.column.get(i.item_id, NO_COLUMN) for i in items], np.int64),
        prior_pctr_M=np.array([pctr for pctr, _ in prior], np.float64),
        prior_pcvr_M=np.array([pcvr for _, pcvr in prior], np.float64),
        value_usd_M=np.array([policy.value_usd.get(i.item_id, i.value_usd) for i in items], float),
        urgency_M=np.array([policy.urgency.get(i.item_id, i.urgency) for i in items], float),
        is_marketing_M=np.array([i.content_type == "marketing" for i in items], bool),
        requires_M=np.array([_mask(r.requires_enrollments) for r in rules], np.uint32),
        excludes_M=np.array([_mask(r.excludes_enrollments) for r in rules], np.uint32),
        min_tenure_days_M=np.array([r.min_tenure_days for r in rules], np.int64),
        valid_from_ms_M=np.array([i.valid_from_ms for i in items], np.int64),
        valid_until_ms_M=np.array(
            [_FOREVER_MS if i.valid_until_ms is None else i.valid_until_ms for i in items], np.int64
        ),
        pinned_M=np.array([i.pinned_position or 0 for i in items], np.int64),
    )

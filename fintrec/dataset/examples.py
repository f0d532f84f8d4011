"""Examples of a shard: one row a click step, one row a (decision, item) of the conversion model.

pCTR: every shown item of a page ends the sequence before it in a click or no click. pCVR: every
item whose window is complete is an example of the page, shown or not. All positives stay; of the
negatives a stated share, chosen by a hash of user, time, place and item, so that no choice depends
on the engine, on the shards or on what came later. A kept negative weighs the inverse of the share.

Shapes: M decisions, K items.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.rows import event_fingerprint
from fintrec.dataset.axis import BoolArray, IntArray
from fintrec.dataset.plan import Plan
from fintrec.dataset.shard import Shard
from fintrec.dataset.training_set import Decisions

UNSHOWN, SHOWN, CLICKED = range(3)
EXPOSURES: Final = ("neither", "exposure", "click")  # by the codes above
_CHUNK: Final = 4096  # decisions at once, so that (decisions, items) stays small
_WHOLE: Final = 1 << 64
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ConversionExamples:
    """Rows of one period in (decision, item) order; `exposure` says what the page did."""

    decision: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    converted: BoolArray
    exposure: npt.NDArray[np.int8]
    weight: npt.NDArray[np.float32]
    num_labels: int  # complete labels before down-sampling


def conversion_examples(shard: Shard, decisions: Decisions, plan: Plan) -> ConversionExamples:
    """The examples of one period's decisions."""
    parts = list(_chunks(shard, decisions, plan))
    num_labels = sum(part[1] for part in parts)
    decision, item, label, exposure = (
        np.concatenate([np.empty(0, kind), *(part[0][column] for part in parts)])
        for column, kind in enumerate((np.int32, np.int32, np.bool_, np.int8))
    )
    weight = np.where(label, 1.0, 1 / plan.negatives_rate).astype(np.float32)
    return ConversionExamples(
        decision.astype(np.int32),
        item.astype(np.int32),
        label,
        exposure.astype(np.int8),
        weight,
        num_labels,
    )


def _chunks(
    shard: Shard, decisions: Decisions, plan: Plan
) -> Iterator[tuple[tuple[npt.NDArray[Any], ...], int]]:
    """(decision, item, label, exposure) of the examples of a few decisions, and how many labels."""
    window_ms = np.array(plan.window_ms, np.int64)
    people = np.array([event_fingerprint(name) for name in shard.users], np.uint64)
    things = np.array([zlib.crc32(name.encode()) for name in plan.item_ids], np.uint64)
    for start in range(0, len(decisions), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(decisions)))
        time_ms = decisions.time_ms[rows]
        known = time_ms[:, None] + window_ms <= decisions.observed_until_ms
        label = np.zeros(known.shape, bool)
        low, high = decisions.converted_indptr[[rows[0], rows[-1] + 1]]
        counts = np.diff(decisions.converted_indptr[start : rows[-1] + 2])
        label[np.repeat(rows - start, counts), decisions.converted_items[low:high]] = True
        exposure = np.zeros(known.shape, np.int8)
        page, slot = np.nonzero(decisions.shown[rows] >= 0)
        item = decisions.shown[rows][page, slot]
        # A page may show an item twice; a click on either counts.
        np.maximum.at(exposure, (page, item), SHOWN + decisions.clicked[rows][page, slot])
        drawn = _hashed(_places(people, decisions, rows)[:, None] ^ _hashed(things)[None])
        kept = known & (label | _below(drawn, plan.negatives_rate))
        where, what = np.nonzero(kept)
        columns = (where + start, what, label[kept], exposure[kept])
        yield columns, int(known.sum())


def _places(people: Words, decisions: Decisions, rows: IntArray) -> Words:
    """A hash of each decision's user, time and place."""
    mixed = people[decisions.user[rows]]
    for column in range(decisions.request.shape[1] - 1):  # all but the newest event's time
        mixed = _hashed(mixed ^ decisions.request[rows, column].astype(np.uint64))
    return mixed


def _hashed(values: Words) -> Words:
    """Well mixed 64 bits of each value (the finaliser of SplitMix64)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _below(drawn: Words, share: float) -> BoolArray:
    if share >= 1:
        return np.ones(drawn.shape, bool)
    return drawn < np.uint64(int(share * _WHOLE))

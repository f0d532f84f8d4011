"""Eq. 1 and the order of a slate.

    RS(i, u) = l_us * us(i) + l_ctr * pCTR(i, u) + l_cvr * pCVR(i, u) * v(i)

A pure function with a total order: best first, equal ranking scores in the order of item ids, an
eligible item with a pinned position at that position.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from features.records import RankingPolicy
from fintrec.catalogue import FloatArray, IntArray

DECIMALS: Final = 8


def ranking_scores(
    policy: RankingPolicy,
    pctr_BM: FloatArray,
    pcvr_BM: FloatArray,
    value_usd_M: FloatArray,
    urgency_M: FloatArray,
) -> FloatArray:
    """Eq. 1 for every user and candidate, (B, M), rounded to 8 decimals so that replays agree."""
    scores = (
        policy.lambda_us * urgency_M
        + policy.lambda_ctr * pctr_BM
        + policy.lambda_cvr * pcvr_BM * value_usd_M
    )
    return np.round(scores, DECIMALS)


def order(
    scores_BM: FloatArray, eligible_BM: npt.NDArray[np.bool_], pinned_M: IntArray
) -> tuple[IntArray, IntArray]:
    """Candidates best first, (B, M) places, and how many of each row are eligible, (B,).

    Candidates stand in id order, so a stable sort breaks ties by id. Only the first `count`
    places of a row are eligible.
    """
    ranked = np.argsort(np.where(eligible_BM, -scores_BM, np.inf), axis=1, kind="stable")
    count = eligible_BM.sum(axis=1)
    pinned = np.flatnonzero(pinned_M > 0)
    if len(pinned):
        # By position, then by place.
        pinned = pinned[np.argsort(pinned_M[pinned], kind="stable")]
        positions = pinned_M[pinned].tolist()
        for row, chosen in enumerate(eligible_BM[:, pinned].tolist()):
            pins = [
                (position, place)
                for position, place, is_eligible in zip(
                    positions, pinned.tolist(), chosen, strict=True
                )
                if is_eligible
            ]
            if pins:
                _pin(ranked[row, : count[row]], pins)
    return ranked, count


def _pin(ranked: IntArray, pins: Sequence[tuple[int, int]]) -> None:
    """Move pinned places of a row's eligible order to their positions, in place.

    Of several at one position the lowest id has it, the others follow behind.
    """
    head = ranked.tolist()
    for _, place in pins:
        head.remove(place)
    free = 0
    for position, place in pins:
        at = max(free, min(position - 1, len(head)))
        head.insert(at, place)
        free = at + 1
    ranked[:] = head

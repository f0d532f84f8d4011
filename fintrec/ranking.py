"""Eq. 1 and the order of a slate.

    RS(i, u) = l_us * us(i) + l_ctr * pCTR(i, u) + l_cvr * pCVR(i, u) * v(i)

A pure function with a total order: best first, equal ranking scores in the order of item ids, an
eligible item with a pinned position at that position.
"""

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
    if pinned_M.any():
        for row in range(len(ranked)):
            ranked[row] = _pinned(ranked[row], int(count[row]), eligible_BM[row], pinned_M)
    return ranked, count


def _pinned(
    ranked_M: IntArray, count: int, eligible_M: npt.NDArray[np.bool_], pinned_M: IntArray
) -> IntArray:
    """A row's order with its pinned, eligible candidates moved to their positions.

    Of several at one position the lowest id has it, the others follow behind.
    """
    pinned = sorted(
        (int(pinned_M[place]), int(place)) for place in np.flatnonzero(eligible_M & (pinned_M > 0))
    )
    fixed = {place for _, place in pinned}
    head = [int(place) for place in ranked_M[:count] if int(place) not in fixed]
    free = 0
    for position, place in pinned:
        at = max(free, min(position - 1, len(head)))
        head.insert(at, place)
        free = at + 1
    return np.concatenate((np.array(head, np.int64), ranked_M[count:]))

"""Full ranking: the place of each user's next item among all items, and HR and NDCG of it.

- every item is a candidate, except those of the user's whole history (masked out)
- a tie counts against the model: the target stands behind every item of the same score, so equal
  scores for all give the worst rank, and no random number decides anything
- a target that is in the history is masked like the rest and counts as a miss
- one item is relevant, so HR@k = [rank <= k] and NDCG@k = [rank <= k] / log2(1 + rank)

Shapes: U users, B batch, T history, N items (column j is item j + 1)
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fintrec.public.item_sequences import IntArray, ItemSequences, Part, padded

CUTOFFS: Final = (1, 5, 10, 20)
_BATCH: Final = 256
FloatArray = npt.NDArray[np.float32]
Scorer = Callable[[IntArray], FloatArray]
"""Padded histories (B, T) -> scores (B, N), higher is likelier."""


def ranks(
    data: ItemSequences, part: Part, scorer: Scorer, users: IntArray | None = None
) -> IntArray:
    """Rank of the target of all users (or of those given, by place), 1 is best, (U,).

    Users are scored in order of history length, so that a batch holds little padding. Raises
    ValueError for scores of another shape or that are not numbers.
    """
    chosen = np.arange(data.num_users) if users is None else users
    histories, targets = data.histories(part), data.targets(part)
    order = chosen[np.argsort([len(histories[user]) for user in chosen], kind="stable")]
    rank_of = np.zeros(data.num_users, dtype=np.int64)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        seen = [histories[user] for user in batch]
        scores_BN = scorer(padded(seen))
        if scores_BN.shape != (len(batch), data.num_items):
            raise ValueError(
                f"scores have shape {scores_BN.shape}, expected {(len(batch), data.num_items)}"
            )
        rank_of[batch] = _ranks(scores_BN, seen, targets[batch])
    return rank_of[chosen]


def _ranks(scores_BN: FloatArray, seen: Sequence[IntArray], targets_B: IntArray) -> IntArray:
    if np.isnan(scores_BN).any():
        raise ValueError("scores hold NaN, expected numbers")
    rows_B = np.arange(len(targets_B))
    open_BN = np.ones(scores_BN.shape, dtype=bool)
    open_BN[np.repeat(rows_B, [len(items) for items in seen]), np.concatenate(seen) - 1] = False
    of_target_B = scores_BN[rows_B, targets_B - 1]
    before_B = ((scores_BN >= of_target_B[:, None]) & open_BN).sum(axis=1)
    masked_B = ~open_BN[rows_B, targets_B - 1]
    # An open target counts itself among those before it, which makes its count the rank.
    return np.where(masked_B, scores_BN.shape[1] + 1, before_B)


def metrics(ranks_U: IntArray) -> dict[str, float]:
    """`hr@k` and `ndcg@k` of every cutoff, means over users, unrounded."""
    found = {}
    for cutoff in CUTOFFS:
        hit_U = ranks_U <= cutoff
        found[f"hr@{cutoff}"] = float(hit_U.mean())
        found[f"ndcg@{cutoff}"] = float((hit_U / np.log2(1.0 + ranks_U)).mean())
    return found

"""Item vectors from what occurs close together in training sequences: where a decoder starts.

Most items of a public file occur a handful of times, so a table learned from next items alone knows
little of them. The factors of the log of pointwise mutual information, which skip-gram embeddings
approximate (Levy and Goldberg, 2014), put items of one kind close together before training begins.

Shapes: N items, D width, Z pairs of items that occur close together
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fintrec.public.item_sequences import IntArray
from fintrec.public.neighbours import NeighbourSettings, fit

REACH: Final = 5  # places apart at most, weight 1 / places
SHIFT: Final = 5.0  # pairs that occur this often beyond chance have log 2
_SPARE: Final = 32  # extra factors that make the randomised factorisation exact enough
_ROUNDS: Final = 4


def item_vectors(sequences: Sequence[IntArray], num_items: int, width: int, seed: int) -> Tensor:
    """Unit vectors (N, D) of items 1..N; zeros for an item that has no neighbour.

    At most N factors exist: the columns beyond them are zero. Deterministic by seed.
    """
    counted = fit(sequences, num_items, NeighbourSettings(reach=REACH, damping=0.0))
    rows_Z = np.repeat(np.arange(num_items), np.diff(counted.starts))
    weight_N = np.bincount(rows_Z, counted.affinities, minlength=num_items)
    chance_Z = weight_N[rows_Z] * weight_N[counted.others] / max(weight_N.sum(), 1e-9)
    lift_Z = np.log1p(counted.affinities / chance_Z / SHIFT)
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack((rows_Z, counted.others))),
        torch.from_numpy(lift_Z).to(torch.float32),
        (num_items, num_items),
        check_invariants=False,
    ).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, strength, _ = torch.svd_lowrank(
            matrix, q=min(width + _SPARE, num_items), niter=_ROUNDS
        )
    vectors_ND = torch.zeros(num_items, width)
    kept = min(width, len(strength))
    vectors_ND[:, :kept] = left[:, :kept] * strength[:kept].sqrt()
    length_N1 = vectors_ND.norm(dim=1, keepdim=True)
    # Items without a neighbour have rows of rounding errors, which must not become directions.
    alone_N1 = torch.from_numpy(weight_N == 0)[:, None] | (length_N1 < 1e-6)
    return torch.where(alone_N1, 0.0, vectors_ND / length_N1.clamp(min=1e-6))

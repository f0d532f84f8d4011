"""Both attention paths, the masks, and the cheaper last layer."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fintrec.models.attention import Blocks, visible_all, visible_before, visible_upto

TIMES = torch.tensor([[0, 0, 5, 5, 8, 9], [0, 0, 0, 0, 0, 0], [1, 2, 2, 2, 3, 3]])


def slow_mask(times: list[int], sees: str) -> list[list[bool]]:
    """Row i, column j: whether query i sees key j, spelled out."""
    size = len(times)
    mask = [[i == j for j in range(size)] for i in range(size)]
    for i in range(size):
        for j in range(size):
            if times[j] == 0:
                continue
            if (
                (sees == "before" and times[j] < times[i])
                or (sees == "upto" and j <= i)
                or sees == "all"
            ):
                mask[i][j] = True
    return mask


@pytest.mark.parametrize(
    ("function", "sees"),
    [(visible_before, "before"), (visible_upto, "upto"), (visible_all, "all")],
)
def test_mask_equals_its_slow_twin(function, sees: str) -> None:
    random = np.random.default_rng(1).integers(0, 6, (20, 9))
    random.sort(axis=1)
    for times in (TIMES, torch.from_numpy(random)):
        expected = [slow_mask(row, sees) for row in times.tolist()]
        assert function(times).tolist() == expected


def blocks_and_input(batch: int, size: int) -> tuple[Blocks, Tensor]:
    torch.manual_seed(3)
    return Blocks(3, 16, 4, 24, 0.0).eval(), torch.randn(batch, size, 16)


@pytest.mark.parametrize("function", [visible_before, visible_upto, visible_all])
def test_fused_and_explicit_attention_agree(function) -> None:
    blocks, x_BTD = blocks_and_input(3, 6)
    visible = function(TIMES)
    explicit, weights = blocks.explained(x_BTD, visible)
    # Two orders of summation in float32.
    torch.testing.assert_close(blocks(x_BTD, visible, 6), explicit, atol=1e-5, rtol=1e-5)
    assert weights.shape == (3, 3, 4, 6, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3, 4, 6))
    assert (weights.amax((0, 2))[~visible] == 0).all()


def test_gradients_of_both_paths_agree() -> None:
    blocks, x_BTD = blocks_and_input(3, 6)
    visible = visible_before(TIMES)
    one, two = x_BTD.clone().requires_grad_(), x_BTD.clone().requires_grad_()
    blocks(one, visible, 6).square().sum().backward()
    blocks.explained(two, visible)[0].square().sum().backward()
    torch.testing.assert_close(one.grad, two.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_queries", [1, 2, 6])
def test_last_layer_for_the_newest_positions_alone_changes_nothing(num_queries: int) -> None:
    blocks, x_BTD = blocks_and_input(3, 6)
    visible = visible_before(TIMES)
    full = blocks(x_BTD, visible, 6)
    torch.testing.assert_close(
        blocks(x_BTD, visible, num_queries), full[:, -num_queries:], atol=1e-6, rtol=1e-5
    )

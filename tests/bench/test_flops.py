"""The formula of a step's operations, held against torch's own counter."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.flops import Product, bare, forward_flops, products, training_flops
from bench.training_measure import sizes_of
from bench.training_work import scoring_works, training_works
from fintrec.models.config import Recipe, TrainingConfig
from tests.fintrec.tiny import ITEMS, config, training_set

VARIANTS = (
    {},
    {"num_layers": 1, "use_fm": False, "timestamp_mask": "upto"},
    {"dynamic_fusion": "concat", "time_encoding": "learned", "pooling": "last_two"},
    {"window": 5, "time_encoding": "none"},
    {"item_history": True},
)


@pytest.fixture(scope="module")
def data():
    return training_set(num_users=6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", ["pctr", "pcvr"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_step_counts_what_torch_counts(data, variant, model, padded) -> None:
    recipe = Recipe(name="tiny", model=config(**variant), training=TrainingConfig(batch_size=4))
    (work,) = [work for work in training_works("tiny", data, recipe) if work.model == model]
    batch = work.encode(work.plan[0], padded)
    found = products(recipe.model, sizes_of(work, recipe, batch, len(ITEMS), True))
    # The fused attention computes scores again in its backward; the plain one does what is needed.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = work.module(batch)
    assert counter.get_total_flops() == forward_flops(found)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work.module(batch).backward()
    assert counter.get_total_flops() == training_flops(found)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scoring_counts_what_torch_counts(data, variant) -> None:
    recipe = Recipe(name="tiny", model=config(**variant), training=TrainingConfig(batch_size=4))
    for work in scoring_works("tiny", data, recipe):
        batch = work.encode(work.plan[0], True)
        found = products(recipe.model, sizes_of(work, recipe, batch, len(ITEMS), False))
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            work.module(batch)
        assert counter.get_total_flops() == forward_flops(found), work.model


def test_the_bare_products_do_as_many_operations() -> None:
    found = [Product(2, 1, 6, 5, 4), Product(1, 3, 6, 5, 4), Product(1, 1, 6, 5, 4, of_data=True)]
    for training, expected in ((True, training_flops(found)), (False, forward_flops(found))):
        run = bare(found, training, torch.device("cpu"), torch.float32)
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == expected


def test_a_product_and_its_backward_by_hand() -> None:
    product = Product(2, 3, 4, 5, 6)
    assert product.flops() == 2 * 2 * 3 * 4 * 5 * 6
    assert training_flops([product]) == 3 * product.flops()
    assert training_flops([product._replace(of_data=True)]) == 2 * product.flops()
    assert np.isclose(forward_flops([product, product]), 2 * product.flops())

"""Matrix products of a step of pCTR or pCVR, counted from the sizes, and the same products bare.

A product of (m, k) and (k, n) counts 2 m k n operations. For B windows of T tokens, of which the last
block works for Q, width D, feed-forward F, S rows in the head of width P, K items, G category rows:

    block       8 B T D^2 (query, key, value, output) + 4 B T^2 D (scores, mix) + 4 B T D F
    last block  4 B T D^2 (key, value) + 4 B Q D^2 + 4 B Q T D + 4 B Q D F
    embedding   2 B T D (F_d, and D where it is concatenated) + 2 B T D (elapsed times), T before the
                window is cut
    head        2 S P (D + F_s + F_fm + 1 + 2 of the time since the last event + K + G)
    item counts 2 B T (D + L) U + 2 S (L * slots + D) U' (L values, U and U' units), where they are kept
    backward    twice the forward, once where the input is data and wants no gradient

Softmax, norms, gelu, dropout, tables and the optimiser count nothing: they are overhead here. So is
what a fused attention computes again in its backward. Masked pairs count, since kernels compute them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from features.spec import FM_WIDTH, NUM_DYNAMIC, NUM_STATIC
from fintrec.models.config import ModelConfig
from fintrec.models.head import NUM_CATEGORIES
from fintrec.models.item_counts import (
    CATEGORY_SLOTS,
    HALF_LIVES_H,
    HEAD_UNITS,
    ITEM_SLOTS,
    UNITS,
)

_CALENDAR = 3  # inputs of a learned time encoding beside the elapsed times
_SILENCE = 2  # inputs of the head's time since the last event


class Product(NamedTuple):
    """`count` products (batch, m, k) @ (batch, k, n); `of_data` inputs want no gradient."""

    count: int
    batch: int
    m: int
    k: int
    n: int
    of_data: bool = False

    def flops(self) -> int:
        """Operations of the forward."""
        return 2 * self.count * self.batch * self.m * self.k * self.n


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What a step computes besides the architecture.

    `queries` are the positions that the last block works for, `states` the rows of the head;
    `until_newest` is true for pCVR, whose embedding has a second elapsed time.
    """

    batch: int
    length: int
    queries: int
    states: int
    num_items: int
    until_newest: bool


def products(config: ModelConfig, sizes: Sizes) -> list[Product]:
    """All products of a forward."""
    length = min(sizes.length, config.window)
    queries = min(sizes.queries, length)
    found = [
        *_embedding(config, sizes),  # of all: the window is cut afterwards
        *_block(config, sizes.batch, length, length, config.num_layers - 1),
        *_block(config, sizes.batch, length, queries, 1),
        *_head(config, sizes),
        *(_item_counts(config, sizes, length) if config.item_history else ()),
    ]
    return [product for product in found if product.count]


def _block(config: ModelConfig, batch: int, length: int, queries: int, count: int) -> list[Product]:
    d, heads, feed = config.d_model, config.num_heads, config.d_feed_forward
    each = d // heads
    return [
        Product(2 * count, 1, batch * length, d, d),
        Product(2 * count, 1, batch * queries, d, d),
        Product(count, batch * heads, queries, each, length),
        Product(count, batch * heads, queries, length, each),
        Product(count, 1, batch * queries, d, feed),
        Product(count, 1, batch * queries, feed, d),
    ]


def _embedding(config: ModelConfig, sizes: Sizes) -> list[Product]:
    tokens, d = sizes.batch * sizes.length, config.d_model
    elapsed = 2 if sizes.until_newest else 1
    concat = config.dynamic_fusion == "concat"
    found = [Product(1, 1, tokens, NUM_DYNAMIC + d * concat, d, of_data=not concat)]
    if config.time_encoding == "product":
        found.append(Product(1, 1, tokens, elapsed, d, of_data=True))
    elif config.time_encoding == "learned":
        found.append(Product(1, 1, tokens, elapsed + _CALENDAR, d, of_data=True))
    return found


def _head(config: ModelConfig, sizes: Sizes) -> list[Product]:
    rows, width = sizes.states, config.d_head
    data = [NUM_STATIC, _SILENCE] + [FM_WIDTH + 1] * config.use_fm
    return [
        Product(1, 1, rows, config.d_model, width),
        *(Product(1, 1, rows, columns, width, of_data=True) for columns in data),
        Product(1, 1, rows, width, sizes.num_items),
        Product(1, 1, rows, width, NUM_CATEGORIES),
    ]


def _item_counts(config: ModelConfig, sizes: Sizes, length: int) -> list[Product]:
    tokens, rows, values = sizes.batch * length, sizes.states, len(HALF_LIVES_H)
    return [
        Product(1, 1, tokens, config.d_model, UNITS),
        Product(1, 1, tokens, UNITS, values),
        Product(1, 1, rows * ITEM_SLOTS, values, HEAD_UNITS),
        Product(1, 1, rows * CATEGORY_SLOTS, values, HEAD_UNITS),
        Product(1, 1, rows, config.d_model, HEAD_UNITS),
    ]


def forward_flops(found: Iterable[Product]) -> int:
    """Operations of a forward."""
    return sum(product.flops() for product in found)


def training_flops(found: Iterable[Product]) -> int:
    """Operations of a forward and a backward."""
    return sum(product.flops() * (2 if product.of_data else 3) for product in found)


def bare(
    found: Iterable[Product], training: bool, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    """The products and nothing else, into memory that is there already; with `training` those of
    the backward too. Equal shapes share their arrays, so this is the best a machine can do.
    """
    ready: list[tuple[int, Tensor, Tensor, Tensor]] = []
    for product in found:
        lead = () if product.batch == 1 else (product.batch,)

        def array(*shape: int, lead: tuple[int, ...] = lead) -> Tensor:
            return torch.randn(*lead, *shape, device=device).to(dtype)

        x, w, y = (
            array(product.m, product.k),
            array(product.n, product.k),
            array(product.m, product.n),
        )
        ready.append((product.count, x, w.transpose(-1, -2), y))
        if training:
            ready.append((product.count, y.transpose(-1, -2), x, w.clone()))
            if not product.of_data:
                ready.append((product.count, y, w, x.clone()))

    def run() -> None:
        for count, left, right, out in ready:
            for _ in range(count):
                torch.matmul(left, right, out=out)

    return run

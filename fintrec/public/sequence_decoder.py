"""Decoder of the next item: fintrec's transformer blocks over item embeddings alone.

- causal by `visible_before` with an item's order as its timestamp, as the pCTR decoder's mask
- one table embeds inputs and scores outputs (tied weights)
- cosine scores over a temperature: an item's length in the table cannot stand for popularity

Shapes: B batch, T history, D width, N items, M labelled positions (column j is item j + 1)
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fintrec.models.attention import Blocks, visible_before
from fintrec.public.full_ranking import FloatArray
from fintrec.public.item_sequences import WINDOW, IntArray

START_NOISE: Final = 0.3  # of the random start, beside given vectors


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderShape:
    """Sizes of a decoder; ValueError for ones that no decoder can have."""

    d_model: int = 256
    num_layers: int = 1
    num_heads: int = 2
    d_feed_forward: int = 256
    dropout: float = 0.4
    input_dropout: float = 0.4
    temperature: float = 0.07  # of cosine scores; 0 is for dot products

    def __post_init__(self) -> None:
        if min(self.num_layers, self.num_heads, self.d_feed_forward) < 1:
            raise ValueError(
                "num_layers, num_heads and d_feed_forward are expected to be 1 or more"
            )
        if self.d_model < 1 or self.d_model % self.num_heads:
            raise ValueError(
                f"d_model is {self.d_model}, expected a multiple of num_heads, {self.num_heads}"
            )
        for name in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to less than 1")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}, expected 0 or more")


class SequenceDecoder(nn.Module):
    """Hidden states of a history's items, and scores of all items by them."""

    def __init__(self, num_items: int, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.num_items = num_items
        self.table = nn.Embedding(num_items + 1, shape.d_model, padding_idx=0)
        self.position = nn.Embedding(WINDOW + 1, shape.d_model, padding_idx=0)
        self.dropout = nn.Dropout(shape.input_dropout)
        self.blocks = Blocks(
            shape.num_layers, shape.d_model, shape.num_heads, shape.d_feed_forward, shape.dropout
        )
        nn.init.normal_(self.table.weight, std=shape.d_model**-0.5)
        nn.init.normal_(self.position.weight, std=shape.d_model**-0.5 / 2)
        with torch.no_grad():
            self.table.weight[0] = 0.0
            self.position.weight[0] = 0.0

    @torch.no_grad()
    def start_at(self, vectors_ND: Tensor) -> None:
        """Put the table at given vectors; an item whose vector is zero keeps its random one."""
        known_N1 = (vectors_ND != 0).any(dim=1, keepdim=True)
        noise_ND = self.table.weight[1:]
        started_ND = vectors_ND + START_NOISE * noise_ND
        self.table.weight[1:] = torch.where(known_N1, started_ND, noise_ND)

    def forward(self, items_BT: Tensor, num_queries: int) -> Tensor:
        """Hidden states of the newest `num_queries` items, (B, num_queries, D)."""
        known_BT = items_BT > 0
        order_BT = known_BT.cumsum(1) * known_BT
        x_BTD = self.table(items_BT) + self.position(order_BT)
        return self.blocks(self.dropout(x_BTD), visible_before(order_BT), num_queries)

    def logits(self, hidden_MD: Tensor, items_S: Tensor | None = None) -> Tensor:
        """Scores (M, N) of all items, or (M, S) of the given ones."""
        rows_SD = self.table.weight[1:] if items_S is None else self.table(items_S)
        hidden_MD, rows_SD = self._scaled(hidden_MD, rows_SD)
        return hidden_MD @ rows_SD.T

    def logits_of(self, hidden_MD: Tensor, items_M: Tensor) -> Tensor:
        """Score (M,) of one item for each hidden state."""
        hidden_MD, rows_MD = self._scaled(hidden_MD, self.table(items_M))
        return (hidden_MD * rows_MD).sum(dim=1)

    def _scaled(self, hidden_MD: Tensor, rows_SD: Tensor) -> tuple[Tensor, Tensor]:
        if not self.shape.temperature:
            return hidden_MD, rows_SD
        return (
            functional.normalize(hidden_MD, dim=-1) / self.shape.temperature,
            functional.normalize(rows_SD, dim=-1),
        )

    @torch.no_grad()
    def score(self, padded_BT: IntArray) -> FloatArray:
        """A Scorer: histories (B, T) to scores (B, N). For a model in evaluation mode."""
        hidden_BD = self(torch.from_numpy(padded_BT), 1)[:, 0]
        return self.logits(hidden_BD).numpy()

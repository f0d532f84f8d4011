"""Decoder of the next item: fintrec's transformer blocks over item embeddings alone.

- causal by `visible_before` with an item's order as its timestamp, as the pCTR decoder's mask
- one table embeds inputs and scores outputs (tied weights)
- cosine scores over a temperature: an item's length in the table cannot stand for popularity, so a
  bias for each item may do that

Shapes: B batch, T history, D width, N items, M labelled positions (column j is item j + 1)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fintrec.models.attention import Blocks, visible_before
from fintrec.public.full_ranking import FloatArray
from fintrec.public.item_sequences import WINDOW, IntArray

START_NOISE = 0.3  # of the random start, beside given vectors


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderShape:
    """Sizes and switches of a decoder."""

    d_model: int = 128
    num_layers: int = 1
    num_heads: int = 2
    d_feed_forward: int = 256
    dropout: float = 0.4
    input_dropout: float = 0.4
    order: str = "absolute"  # absolute, relative, none
    temperature: float = 0.07  # of cosine scores; 0 is for dot products
    item_bias: bool = True


class SequenceDecoder(nn.Module):
    """Hidden states of a history's items, and scores of all items by them."""

    def __init__(self, num_items: int, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.num_items = num_items
        self.table = nn.Embedding(num_items + 1, shape.d_model, padding_idx=0)
        self.position = nn.Embedding(WINDOW + 1, shape.d_model, padding_idx=0)
        self.distance = nn.Parameter(torch.zeros(WINDOW))
        self.bias = nn.Parameter(torch.zeros(num_items))
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
        x_BTD = self.table(items_BT)
        if self.shape.order == "absolute":
            x_BTD = x_BTD + self.position(order_BT)
        visible_BTT = visible_before(order_BT)
        if self.shape.order == "relative":
            size = items_BT.shape[1]
            place = torch.arange(size)
            ago = (place[:, None] - place[None, :]).clamp(min=0)
            visible_BTT = self.distance[ago].masked_fill(~visible_BTT, float("-inf"))
        return self.blocks(self.dropout(x_BTD), visible_BTT, num_queries)

    def logits(self, hidden_MD: Tensor, items_S: Tensor | None = None) -> Tensor:
        """Scores (M, N) of all items, or (M, S) of the given ones."""
        rows_SD = self.table.weight[1:] if items_S is None else self.table(items_S)
        bias_S = self.bias if items_S is None else self.bias[items_S - 1]
        hidden_MD, rows_SD = self.scaled(hidden_MD, rows_SD)
        scores = hidden_MD @ rows_SD.T
        return scores + bias_S if self.shape.item_bias else scores

    def logits_of(self, hidden_MD: Tensor, items_M: Tensor) -> Tensor:
        """Score (M,) of one item for each hidden state."""
        hidden_MD, rows_MD = self.scaled(hidden_MD, self.table(items_M))
        scores_M = (hidden_MD * rows_MD).sum(dim=1)
        return scores_M + self.bias[items_M - 1] if self.shape.item_bias else scores_M

    def scaled(self, hidden_MD: Tensor, rows_SD: Tensor) -> tuple[Tensor, Tensor]:
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

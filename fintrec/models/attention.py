"""Pre-norm transformer blocks, and which key each query may see.

- attention has two paths: fused (training and serving) and explicit (returns its weights, for
  explanations); a test holds them together
- a block can work for the newest `num_queries` positions alone, which makes the last layer of a
  pooled encoder cheaper and changes nothing
- a position always sees itself, so a row of padding has finite outputs; nobody else sees padding

Shapes: B batch, T history, Q queries (the newest Q of T), D width, H heads, E = D / H
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def visible_before(times_BT: Tensor) -> Tensor:
    """Decoder mask by timestamp (FinTRec section 3.2), (B, T, T): t_j < t_i, or j = i."""
    before = times_BT[:, None, :] < times_BT[:, :, None]
    return _itself(before & (times_BT > 0)[:, None, :])


def visible_upto(times_BT: Tensor) -> Tensor:
    """The alternative: t_j <= t_i in window order, so tokens of one page see their elders."""
    size = times_BT.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=times_BT.device).tril()
    return _itself((times_BT > 0)[:, None, :] & causal)


def visible_all(times_BT: Tensor) -> Tensor:
    """Encoder mask, (B, T, T): every interaction, no padding."""
    size = times_BT.shape[1]
    return _itself((times_BT > 0)[:, None, :].expand(-1, size, -1))


def _itself(visible_BTT: Tensor) -> Tensor:
    size = visible_BTT.shape[1]
    return visible_BTT | torch.eye(size, dtype=torch.bool, device=visible_BTT.device)


class Attention(nn.Module):
    """Multi-head attention of the newest Q positions over all T.

    Query, key, value and output are layers of their own, so that each can carry an adapter.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.d_each = d_model // num_heads
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)

    def _heads(self, x_BTD: Tensor) -> Tensor:
        batch, size, _ = x_BTD.shape
        return x_BTD.view(batch, size, self.num_heads, self.d_each).transpose(1, 2)

    def _joined(self, x_BHQE: Tensor) -> Tensor:
        batch, _, size, _ = x_BHQE.shape
        return x_BHQE.transpose(1, 2).reshape(batch, size, self.num_heads * self.d_each)

    def forward(self, x_BTD: Tensor, visible_BQT: Tensor) -> Tensor:
        """Fused path, (B, Q, D)."""
        newest_BQD = x_BTD[:, x_BTD.shape[1] - visible_BQT.shape[1] :]
        mixed_BHQE = functional.scaled_dot_product_attention(
            self._heads(self.query(newest_BQD)),
            self._heads(self.key(x_BTD)),
            self._heads(self.value(x_BTD)),
            attn_mask=visible_BQT[:, None],
        )
        return self.output(self._joined(mixed_BHQE))

    def explained(self, x_BTD: Tensor, visible_BQT: Tensor) -> tuple[Tensor, Tensor]:
        """Explicit path: the same output and the attention weights, (B, Q, D) and (B, H, Q, T)."""
        newest_BQD = x_BTD[:, x_BTD.shape[1] - visible_BQT.shape[1] :]
        query_BHQE = self._heads(self.query(newest_BQD))
        scores_BHQT = query_BHQE @ self._heads(self.key(x_BTD)).transpose(2, 3)
        scores_BHQT = scores_BHQT / float(self.d_each) ** 0.5
        hidden = scores_BHQT.masked_fill(~visible_BQT[:, None], float("-inf"))
        weights_BHQT = torch.softmax(hidden, dim=-1)
        mixed_BHQE = weights_BHQT @ self._heads(self.value(x_BTD))
        return self.output(self._joined(mixed_BHQE)), weights_BHQT


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with its residual."""

    def __init__(self, d_model: int, num_heads: int, d_feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = Attention(d_model, num_heads)
        self.feed_norm = nn.LayerNorm(d_model)
        self.feed_in = nn.Linear(d_model, d_feed_forward)
        self.feed_out = nn.Linear(d_feed_forward, d_model)
        self.dropout = nn.Dropout(dropout)

    def _fed(self, x_BQD: Tensor) -> Tensor:
        fed = self.feed_out(functional.gelu(self.feed_in(self.feed_norm(x_BQD))))
        return x_BQD + self.dropout(fed)

    def forward(self, x_BTD: Tensor, visible_BQT: Tensor) -> Tensor:
        """The newest Q positions, one layer on: (B, Q, D)."""
        newest_BQD = x_BTD[:, x_BTD.shape[1] - visible_BQT.shape[1] :]
        mixed = self.attention(self.attention_norm(x_BTD), visible_BQT)
        return self._fed(newest_BQD + self.dropout(mixed))

    def explained(self, x_BTD: Tensor, visible_BQT: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, with the attention weights (B, H, Q, T)."""
        newest_BQD = x_BTD[:, x_BTD.shape[1] - visible_BQT.shape[1] :]
        mixed, weights_BHQT = self.attention.explained(self.attention_norm(x_BTD), visible_BQT)
        return self._fed(newest_BQD + self.dropout(mixed)), weights_BHQT


class Blocks(nn.Module):
    """A stack of blocks and the final norm."""

    def __init__(
        self, num_layers: int, d_model: int, num_heads: int, d_feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.layers = nn.ModuleList(
            [Block(d_model, num_heads, d_feed_forward, dropout) for _ in range(num_layers)]
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x_BTD: Tensor, visible_BTT: Tensor, num_queries: int) -> Tensor:
        """Hidden states of the newest `num_queries` positions, (B, num_queries, D).

        Only the last layer may skip positions: the ones before feed every key.
        """
        for place, layer in enumerate(self.layers):
            if place == self.num_layers - 1:
                size = visible_BTT.shape[1]
                x_BTD = layer(x_BTD, visible_BTT[:, size - num_queries :])
            else:
                x_BTD = layer(x_BTD, visible_BTT)
        return self.norm(x_BTD)

    def explained(self, x_BTD: Tensor, visible_BTT: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of all positions (B, T, D) and weights (layers, B, H, T, T)."""
        weights = []
        for layer in self.layers:
            assert isinstance(layer, Block)
            x_BTD, weights_BHTT = layer.explained(x_BTD, visible_BTT)
            weights.append(weights_BHTT)
        return self.norm(x_BTD), torch.stack(weights)

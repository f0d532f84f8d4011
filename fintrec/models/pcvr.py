"""pCVR: a bidirectional encoder over the history (FinTRec section 3.2, figure 5a).

h = pool(Encoder(tokens + F_d + p * e)); logits = head(h, F_s, F_fm, request), one sigmoid an item.

Shapes: B batch, T history, C token columns, F dynamic features, X context, R request columns,
D width, C width of item counts, W = D + C width of a state, K items
"""

import torch
from torch import Tensor, nn

from features.history import WINDOW
from features.vocabulary import Vocabulary
from fintrec.models.attention import Blocks, visible_all
from fintrec.models.config import ModelConfig
from fintrec.models.embedding import HistoryEmbedding
from fintrec.models.head import ItemHead
from fintrec.models.item_counts import ItemCounts, NoItemCounts


class NoMemory(nn.Module):
    """The pooled state as it is."""

    def forward(self, state_BD: Tensor, hidden_BPD: Tensor, item_BPD: Tensor) -> Tensor:
        """(B, D)."""
        return state_BD


class ItemMemory(nn.Module):
    """The pooled state plus the items of the history themselves, each as much as its hidden state
    says: the head can compare a scored item with what was clicked or reached (`Compared`).

    It starts with nothing, and a weight may be negative.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.each = d_model // num_heads
        self.weight = nn.Linear(d_model, num_heads)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)

    def forward(self, state_BD: Tensor, hidden_BPD: Tensor, item_BPD: Tensor) -> Tensor:
        """(B, D); a row of padding has no item."""
        weight_BPD = self.weight(hidden_BPD).repeat_interleave(self.each, dim=2)
        return state_BD + (weight_BPD * item_BPD).sum(1)


class ConversionEncoder(nn.Module):
    """History arrays to one state, pooled; zeros for a user without history."""

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig) -> None:
        super().__init__()
        self.window = config.window
        self.is_cut = config.window < WINDOW
        self.pool_last_two = config.pooling == "last_two"
        self.has_memory = config.item_vectors == "compared"
        self.memory = (
            ItemMemory(config.d_model, config.num_heads) if self.has_memory else NoMemory()
        )
        self.embedding = HistoryEmbedding(
            vocabulary,
            config.d_model,
            config.dropout,
            config.time_encoding,
            config.dynamic_fusion == "concat",
            True,
            config.elapsed,
        )
        self.blocks = Blocks(
            config.num_layers,
            config.d_model,
            config.num_heads,
            config.d_feed_forward,
            config.dropout,
        )
        self.item_counts = (
            ItemCounts(vocabulary, config.d_model) if config.item_history else NoItemCounts()
        )

    def hidden(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """Pooled state and item counts, (B, W) float32."""
        x_BTD = self.embedding(tokens_BTC, times_BT, dynamic_BTF)
        if self.is_cut:
            # Once embedded: at odd lengths a row's last bits would depend on its batch.
            tokens_BTC = tokens_BTC[:, -self.window :]
            times_BT = times_BT[:, -self.window :]
            x_BTD = x_BTD[:, -self.window :]
        size = times_BT.shape[1]
        num_pooled = min(2, size) if self.pool_last_two else size
        hidden_BPD = self.blocks(x_BTD, visible_all(times_BT), num_pooled)
        valid_BP1 = (times_BT[:, size - num_pooled :, None] > 0).to(torch.float32)
        state_BD = (hidden_BPD * valid_BP1).sum(1) / valid_BP1.sum(1).clamp(min=1.0)
        print_BT = tokens_BTC[:, :, 0].to(torch.int64)
        if self.has_memory:
            item_BPD = self.embedding.item(print_BT[:, size - num_pooled :])
            state_BD = self.memory(state_BD, hidden_BPD, item_BPD * valid_BP1)
        return self.item_counts(
            state_BD,
            self.item_counts.values(x_BTD),
            print_BT,
            times_BT,
            times_BT[:, -1],
            times_BT > 0,
        )

    def forward(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """State as it is stored, (B, W) float16."""
        return self.hidden(tokens_BTC, times_BT, dynamic_BTF).to(torch.float16)


class Pcvr(nn.Module):
    """K conversion logits of a user at a request."""

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = ConversionEncoder(vocabulary, config)
        self.item_head = ItemHead(vocabulary, config)
        if config.item_vectors == "compared":
            self.item_head.compare_with(self.encoder.embedding.item, vocabulary.items)

    def encode(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """State (B, W) float16: the part that depends on the user's events alone."""
        return self.encoder(tokens_BTC, times_BT, dynamic_BTF)

    def head(self, state_BW: Tensor, context_BX: Tensor, request_BR: Tensor) -> Tensor:
        """Logits (B, K) float32 of stored states."""
        return self.item_head(state_BW, context_BX, request_BR)

    def forward(
        self,
        tokens_BTC: Tensor,
        times_BT: Tensor,
        dynamic_BTF: Tensor,
        context_BX: Tensor,
        request_BR: Tensor,
    ) -> Tensor:
        """Logits (B, K) float32."""
        return self.head(self.encode(tokens_BTC, times_BT, dynamic_BTF), context_BX, request_BR)

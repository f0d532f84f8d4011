"""pCTR: a causal decoder over the history (FinTRec section 3.2, figure 5b).

h_t = Decoder(tokens + F_d + p * e), masked by timestamp; logits_t = head(h_t, F_s, F_fm, request).

Shapes: B batch, T history, C token columns, F dynamic features, X context, R request columns,
D width, H heads, C width of item counts, W = D + C width of a state, K items
"""

import torch
from torch import Tensor, nn

from features.history import WINDOW
from features.vocabulary import Vocabulary
from fintrec.models.attention import Blocks, visible_before, visible_upto
from fintrec.models.config import ModelConfig
from fintrec.models.embedding import HistoryEmbedding
from fintrec.models.head import ItemHead
from fintrec.models.item_counts import ItemCounts, NoItemCounts


class ClickDecoder(nn.Module):
    """History arrays to states."""

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig) -> None:
        super().__init__()
        self.window = config.window
        self.is_cut = config.window < WINDOW
        self.sees_page = config.timestamp_mask == "upto"
        self.embedding = HistoryEmbedding(
            vocabulary,
            config.d_model,
            config.dropout,
            config.time_encoding,
            config.dynamic_fusion == "concat",
            False,
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

    def visible(self, times_BT: Tensor) -> Tensor:
        """Attention mask (B, T, T), True where query i may see key j."""
        return visible_upto(times_BT) if self.sees_page else visible_before(times_BT)

    def hidden(
        self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor, num_queries: int
    ) -> Tensor:
        """float32 states of the newest `num_queries` positions, (B, num_queries, W): hidden states
        and item counts.
        """
        x_BTD = self.embedding(tokens_BTC, times_BT, dynamic_BTF)
        if self.is_cut:
            # Once embedded: at odd lengths a row's last bits would depend on its batch.
            tokens_BTC = tokens_BTC[:, -self.window :]
            times_BT = times_BT[:, -self.window :]
            x_BTD = x_BTD[:, -self.window :]
        visible_BTT = self.visible(times_BT)
        hidden_BQD = self.blocks(x_BTD, visible_BTT, num_queries)
        print_BT = tokens_BTC[:, :, 0].to(torch.int64)
        seen_BQT = visible_BTT[:, times_BT.shape[1] - num_queries :]
        return self.item_counts(hidden_BQD, x_BTD, print_BT, times_BT, seen_BQT)

    def forward(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """State at the newest interaction as it is stored, (B, W) float16."""
        return self.hidden(tokens_BTC, times_BT, dynamic_BTF, 1)[:, 0].to(torch.float16)


class Pctr(nn.Module):
    """K click logits of a user at a request."""

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig) -> None:
        super().__init__()
        self.link = config.click_link
        self.encoder = ClickDecoder(vocabulary, config)
        self.item_head = ItemHead(
            vocabulary,
            config.d_model,
            config.d_head,
            config.dropout,
            config.use_fm,
            config.item_history,
        )
        if config.item_vectors == "compared":
            self.item_head.compare_with(self.encoder.embedding.item, vocabulary.items)

    def encode(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """State (B, W) float16: the part that depends on the user's events alone."""
        return self.encoder(tokens_BTC, times_BT, dynamic_BTF)

    def encode_all(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """States of all positions of the window, (B, min(T, window), W) float32."""
        size = min(times_BT.shape[1], self.encoder.window)
        return self.encoder.hidden(tokens_BTC, times_BT, dynamic_BTF, size)

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

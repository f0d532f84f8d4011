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

    def hidden(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """State at the newest interaction, (B, W) float32: hidden state and item counts."""
        x_BTD, print_BT, times_BT = self._embedded(tokens_BTC, times_BT, dynamic_BTF)
        visible_BTT = self.visible(times_BT)
        return self.item_counts(
            self.blocks(x_BTD, visible_BTT, 1)[:, 0],
            self.item_counts.values(x_BTD),
            print_BT,
            times_BT,
            times_BT[:, -1],
            visible_BTT[:, -1],
        )

    def hidden_at(
        self,
        tokens_BTC: Tensor,
        times_BT: Tensor,
        dynamic_BTF: Tensor,
        window_L: Tensor,
        from_end_L: Tensor,
    ) -> Tensor:
        """States (L, W) float32 at positions of the windows of a batch, counted from their ends: the
        newest is 1. Each is what `hidden` gives of the window that ends there.
        """
        x_BTD, print_BT, times_BT = self._embedded(tokens_BTC, times_BT, dynamic_BTF)
        visible_BTT = self.visible(times_BT)
        size = times_BT.shape[1]
        place_L = size - from_end_L
        return self.item_counts(
            self.blocks(x_BTD, visible_BTT, size)[window_L, place_L],
            self.item_counts.values(x_BTD)[window_L],
            print_BT[window_L],
            times_BT[window_L],
            times_BT[window_L, place_L],
            visible_BTT[window_L, place_L],
        )

    def _embedded(
        self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embedded interactions, fingerprints of their items, and their times, within the window."""
        x_BTD = self.embedding(tokens_BTC, times_BT, dynamic_BTF)
        print_BT = tokens_BTC[:, :, 0].to(torch.int64)
        if self.is_cut:
            # Once embedded: at odd lengths a row's last bits would depend on its batch.
            x_BTD = x_BTD[:, -self.window :]
            print_BT = print_BT[:, -self.window :]
            times_BT = times_BT[:, -self.window :]
        return x_BTD, print_BT, times_BT

    def forward(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """State at the newest interaction as it is stored, (B, W) float16."""
        return self.hidden(tokens_BTC, times_BT, dynamic_BTF).to(torch.float16)


class Pctr(nn.Module):
    """K click logits of a user at a request."""

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig) -> None:
        super().__init__()
        self.link = config.click_link
        self.encoder = ClickDecoder(vocabulary, config)
        self.item_head = ItemHead(vocabulary, config)
        if config.item_vectors == "compared":
            self.item_head.compare_with(self.encoder.embedding.item, vocabulary.items)

    def encode(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """State (B, W) float16: the part that depends on the user's events alone."""
        return self.encoder(tokens_BTC, times_BT, dynamic_BTF)

    def encode_at(
        self,
        tokens_BTC: Tensor,
        times_BT: Tensor,
        dynamic_BTF: Tensor,
        window_L: Tensor,
        from_end_L: Tensor,
    ) -> Tensor:
        """States (L, W) float32 at positions of a batch's windows: `ClickDecoder.hidden_at`."""
        return self.encoder.hidden_at(tokens_BTC, times_BT, dynamic_BTF, window_L, from_end_L)

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

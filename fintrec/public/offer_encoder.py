"""pCVR of an offer: our bidirectional encoder over the case, mean pooling, side features at the head.

h = mean(Encoder(kind + fields + p_t * e_t)); logit = w x + MLP([h, x]), as the pCVR encoder of
FinTRec section 3.2, with the offer's static context x (F_s) concatenated to the pooled state. The
elapsed times (F_d) are part of e_t. The head starts as the base rate: w and the MLP's last layer at 0.

Shapes: B batch, T places, D width, X side features
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fintrec.models.attention import Blocks, visible_all
from fintrec.public.event_series import NUM_ELAPSED
from fintrec.public.kind_models import KindEmbedding, KindSettings
from fintrec.public.kind_windows import KindBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class OfferSettings:
    """Size, pretraining and training of an offer encoder; chosen on time blocks of training offers."""

    kinds: KindSettings = field(
        default_factory=lambda: KindSettings(
            d_model=16,
            num_layers=1,
            num_heads=2,
            d_feed_forward=32,
            dropout=0.3,
            window=64,
            learning_rate=3e-3,
            batch_tokens=2048,
            epochs=3,
        )
    )  # of the encoder, and of its training on next events
    d_head: int = 16
    head_dropout: float = 0.4
    learning_rate: float = 1e-3
    weight_decay: float = 0.3
    batch_size: int = 64
    epochs: int = 9
    members: int = 3

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


class OfferEncoder(nn.Module):
    """Rows of a case up to an offer, and its side features, to one conversion logit."""

    def __init__(
        self,
        num_kinds: int,
        num_side: int,
        base_rate: float,
        settings: OfferSettings,
    ) -> None:
        super().__init__()
        size = settings.kinds
        self.embedding = KindEmbedding(num_kinds, NUM_ELAPSED, size)
        self.blocks = Blocks(
            size.num_layers, size.d_model, size.num_heads, size.d_feed_forward, size.dropout
        )
        self.wide = nn.Linear(num_side, 1)
        self.deep_in = nn.Linear(size.d_model + num_side, settings.d_head)
        self.deep_out = nn.Linear(settings.d_head, 1, bias=False)
        self.dropout = nn.Dropout(settings.head_dropout)
        nn.init.zeros_(self.wide.weight)
        nn.init.constant_(self.wide.bias, float(np.log(base_rate / (1 - base_rate))))
        nn.init.zeros_(self.deep_out.weight)

    def hidden(self, batch: KindBatch) -> Tensor:
        """Mean of the encoded rows, (B, D)."""
        x_BTD = self.embedding(batch)
        hidden_BTD = self.blocks(x_BTD, visible_all(batch.time_BT), x_BTD.shape[1])
        real_BT1 = (batch.time_BT > 0)[:, :, None].to(hidden_BTD.dtype)
        return (hidden_BTD * real_BT1).sum(1) / real_BT1.sum(1)

    def forward(self, batch: KindBatch, side_BX: Tensor) -> Tensor:
        """Logits (B,)."""
        both = torch.cat((self.hidden(batch), side_BX), dim=1)
        deep_B1 = self.deep_out(self.dropout(functional.gelu(self.deep_in(both))))
        return (self.wide(side_BX) + deep_B1)[:, 0]

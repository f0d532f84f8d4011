"""Static, foundation-model and request fusion, and the output head (FinTRec section 3.2).

`MLP([h, F_s, F_fm, request])` with its first dense layer written as a sum of layers, one for each
part. That equals concatenate-and-project, and lets a part be frozen, missing or added.

Shapes: B batch, X context, S static, E embedding, R request columns, D width, K items
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.spec import FM_WIDTH, NUM_STATIC
from features.vocabulary import Vocabulary
from fintrec.models.embedding import RequestEmbedding, Standardise


class ItemHead(nn.Module):
    """K logits of a hidden state, its context and the request."""

    def __init__(self, vocabulary: Vocabulary, d_model: int, d_head: int) -> None:
        super().__init__()
        self.num_static = NUM_STATIC
        self.fm_end = NUM_STATIC + FM_WIDTH
        self.static_scale = Standardise(NUM_STATIC)
        self.fuse_h = nn.Linear(d_model, d_head)
        self.fuse_s = nn.Linear(NUM_STATIC, d_head, bias=False)
        self.fuse_fm = nn.Linear(FM_WIDTH + 1, d_head, bias=False)
        self.fuse_request = RequestEmbedding(vocabulary, d_head)
        self.output = nn.Linear(d_head, len(vocabulary.items))

    def forward(self, state_BD: Tensor, context_BX: Tensor, request_BR: Tensor) -> Tensor:
        """Logits (B, K) float32. A flagged F_fm counts as zeros whatever the array holds."""
        context_BX = context_BX.to(torch.float32)
        static_BS = self.static_scale(context_BX[:, : self.num_static])
        missing_B1 = context_BX[:, self.fm_end :]
        fm_BE = context_BX[:, self.num_static : self.fm_end]
        fm_BE = torch.where(missing_B1 > 0, torch.zeros_like(fm_BE), fm_BE)
        fused = (
            self.fuse_h(state_BD.to(torch.float32))
            + self.fuse_s(static_BS)
            + self.fuse_fm(torch.cat((fm_BE, missing_B1), dim=1))
            + self.fuse_request(request_BR)
        )
        return self.output(functional.gelu(fused))

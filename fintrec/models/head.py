"""Static, foundation-model and request fusion, and the output head (FinTRec section 3.2).

`MLP([h, F_s, F_fm, request])` with its first dense layer written as a sum of layers, one for each
part. That equals concatenate-and-project, and lets a part be frozen, missing or added.

The output layer is a sum as well: an item's logit is its own row plus the row of its category, so
what is learnt of one travel offer holds for the others, and a few thousand clicks go further.

Shapes: B batch, G categories, X context, S static, E embedding, R request columns,
D width, C width of item counts, W = D + C width of a state, K items
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.spec import FM_WIDTH, NUM_STATIC
from features.vocabulary import Vocabulary, fingerprint
from fintrec.models.config import ModelConfig
from fintrec.models.embedding import OpenField, RequestEmbedding, Standardise
from fintrec.models.item_counts import COUNTS_WIDTH, ItemCountsHead, NoItemCountsHead

NUM_CATEGORIES: Final = 64  # rows there are; more categories share the last one


class NotCompared(nn.Module):
    """Logits as they are."""

    def forward(self, logits_BK: Tensor, state_BD: Tensor) -> Tensor:
        """(B, K)."""
        return logits_BK


class Compared(nn.Module):
    """Logits plus <state, item>: so that an item in the history can speak for itself from the start.

    The vectors begin as the history's and then go their own way, so head and encoder stay artefacts
    that share nothing. The comparison begins small: the first logits are near the base rates.
    """

    def __init__(self, history_items: OpenField, items: Sequence[str]) -> None:
        super().__init__()
        width = history_items.table.embedding_dim
        self.view = nn.Linear(width, width, bias=False)
        self.vectors = nn.Linear(width, len(items), bias=False)
        prints = torch.tensor([fingerprint("item", name) for name in items])
        with torch.no_grad():
            self.view.weight.copy_(torch.eye(width) * 0.1)
            self.vectors.weight.copy_(history_items.table.weight[history_items.rows(prints)])

    def forward(self, logits_BK: Tensor, state_BD: Tensor) -> Tensor:
        """(B, K)."""
        return logits_BK + self.vectors(self.view(state_BD))


class ItemHead(nn.Module):
    """K logits of a hidden state, its context and the request.

    `category_K` is each item's category; `set_categories` fills it before training. Without
    `use_fm` the part of F_fm stays in its place, frozen at zero, and is not computed.
    """

    category_K: Tensor

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig) -> None:
        super().__init__()
        num_items, d_model, d_head = len(vocabulary.items), config.d_model, config.d_head
        self.use_fm = config.use_fm
        self.d_model = d_model
        self.state_width = d_model + (COUNTS_WIDTH if config.item_history else 0)
        self.num_static = NUM_STATIC
        self.fm_end = NUM_STATIC + FM_WIDTH
        self.static_scale = Standardise(NUM_STATIC)
        self.fuse_h = nn.Linear(d_model, d_head)
        self.fuse_s = nn.Linear(NUM_STATIC, d_head, bias=False)
        self.fuse_fm = nn.Linear(FM_WIDTH + 1, d_head, bias=False)
        if not config.use_fm:
            nn.init.zeros_(self.fuse_fm.weight)
            self.fuse_fm.requires_grad_(False)
        self.fuse_request = RequestEmbedding(vocabulary, d_head)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(d_head, num_items)
        self.by_category = nn.Linear(d_head, NUM_CATEGORIES, bias=False)
        self.register_buffer("category_K", torch.zeros(num_items, dtype=torch.int64))
        # Start at the base rates, which the training puts into the bias, not at noise around them.
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.normal_(self.by_category.weight, std=0.01)
        self.compared: nn.Module = NotCompared()
        self.counts_head = (
            ItemCountsHead(num_items, d_model) if config.item_history else NoItemCountsHead()
        )

    def compare_with(self, history_items: OpenField, items: Sequence[str]) -> None:
        """Add the comparison of a state with the items' vectors, which start as the history's."""
        self.compared = Compared(history_items, items)

    @torch.no_grad()
    def set_categories(self, categories: Sequence[str]) -> None:
        """Number the items' categories, in item order."""
        names = sorted(set(categories))
        places = [min(names.index(name), NUM_CATEGORIES - 1) for name in categories]
        self.category_K.copy_(torch.tensor(places))
        if isinstance(self.counts_head, ItemCountsHead):
            self.counts_head.set_categories(self.category_K)

    def forward(self, state_BW: Tensor, context_BX: Tensor, request_BR: Tensor) -> Tensor:
        """Logits (B, K) float32. A flagged F_fm counts as zeros whatever the array holds."""
        state_BW = state_BW.to(torch.float32)
        state_BD, counts_BC = state_BW[:, : self.d_model], state_BW[:, self.d_model :]
        context_BX = context_BX.to(torch.float32)
        static_BS = self.static_scale(context_BX[:, : self.num_static])
        fused = self.fuse_h(state_BD) + self.fuse_s(static_BS) + self.fuse_request(request_BR)
        if self.use_fm:
            missing_B1 = context_BX[:, self.fm_end :]
            fm_BE = context_BX[:, self.num_static : self.fm_end]
            fm_BE = torch.where(missing_B1 > 0, torch.zeros_like(fm_BE), fm_BE)
            fused = fused + self.fuse_fm(torch.cat((fm_BE, missing_B1), dim=1))
        fused = self.dropout(functional.gelu(fused))
        by_category_BG = self.by_category(fused)
        logits_BK = self.output(fused) + by_category_BG[:, self.category_K]
        logits_BK = self.compared(logits_BK, state_BD)
        return self.counts_head(logits_BK, state_BD, counts_BC, request_BR)

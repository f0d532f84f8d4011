"""What a history holds of each item, apart from all others: learned counts that fade.

What a user did with an item says most of that very item, then of its category. A pooled state mixes
the items of a history in one vector, from which a head has to tell hundreds apart. Here an
interaction adds a few learned values to the slot of its item and to that of its category, each
value fades with a half-life of its own, and for a scored item the head reads its two slots. That is
an attention of every item to the history by exact match and age. It is not in FinTRec.

The counts are part of the stored state, and the head lets them fade on until the request. There is
a fixed number of slots, so a state's width does not follow the catalogue: items and categories
beyond them share slots.

Shapes: N states, B batch, T history, D width, L values, S slots, C width of the counts (L * S),
K items, U hidden units
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.encoding import REQUEST_COLUMNS
from features.spec import HOUR_MS
from features.vocabulary import Vocabulary, fingerprint

ITEM_SLOTS: Final = 256
CATEGORY_SLOTS: Final = 16  # behind those of the items
HALF_LIVES_H: Final = (3.0, 24.0, 120.0, 720.0)  # where training starts, one a value
COUNTS_WIDTH: Final = len(HALF_LIVES_H) * (ITEM_SLOTS + CATEGORY_SLOTS)
UNITS: Final = 32  # that read an interaction
HEAD_UNITS: Final = 16  # that read the slots of a scored item


class Fade(nn.Module):
    """What is left of L values after some time: 2^(-elapsed / half-life), half-lives learned.

    What is learned is the log of their change: weight decay draws it to none.
    """

    start_L: Tensor

    def __init__(self) -> None:
        super().__init__()
        start_L = torch.tensor(HALF_LIVES_H, dtype=torch.float64) * HOUR_MS
        self.register_buffer("start_L", start_L, persistent=False)
        self.log_change_L = nn.Parameter(torch.zeros(len(HALF_LIVES_H)))

    def half_lives_ms(self) -> Tensor:
        """(L,) float64."""
        return self.start_L * torch.exp(self.log_change_L.to(torch.float64))

    def forward(self, elapsed_ms: Tensor) -> Tensor:
        """Shape of `elapsed_ms` + (L,), float32; a negative time counts as none.

        Computed in float64: in float32 exp2 is another function at the end of an array, so a row's
        last bit would depend on its batch.
        """
        elapsed = elapsed_ms.clamp(min=0).to(torch.float64)
        return torch.exp2(-elapsed[..., None] / self.half_lives_ms()).to(torch.float32)


class NoItemCounts(nn.Module):
    """States without counts."""

    def values(self, x_BTD: Tensor) -> Tensor:
        """(B, T, 0)."""
        return x_BTD[:, :, :0]

    def forward(
        self,
        state_ND: Tensor,
        value_NTL: Tensor,
        print_NT: Tensor,
        times_NT: Tensor,
        now_N: Tensor,
        seen_NT: Tensor,
    ) -> Tensor:
        """(N, D)."""
        return state_ND


class ItemCounts(nn.Module):
    """States with the counts of what they see behind them."""

    sorted_prints_K: Tensor
    item_at_K: Tensor
    category_slot_K: Tensor

    def __init__(self, vocabulary: Vocabulary, d_model: int) -> None:
        super().__init__()
        prints = torch.tensor([fingerprint("item", name) for name in vocabulary.items])
        ascending, places = torch.sort(prints)
        self.last_place = len(prints) - 1
        self.num_item_slots = ITEM_SLOTS
        self.num_slots = ITEM_SLOTS + CATEGORY_SLOTS
        self.register_buffer("sorted_prints_K", ascending)
        self.register_buffer("item_at_K", places)
        self.register_buffer("category_slot_K", torch.full_like(places, ITEM_SLOTS))
        self.mix = nn.Linear(d_model, UNITS)
        self.value = nn.Linear(UNITS, len(HALF_LIVES_H))
        self.fade = Fade()

    @torch.no_grad()
    def set_categories(self, category_K: Tensor) -> None:
        """Give each item the slot of its category, both by number."""
        self.category_slot_K.copy_(ITEM_SLOTS + category_K % CATEGORY_SLOTS)

    def slots(self, print_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Slots of an interaction's item and of its category, each (N, T); S for one not scored."""
        place_NT = torch.searchsorted(self.sorted_prints_K, print_NT.contiguous())
        place_NT = place_NT.clamp(max=self.last_place)
        is_scored_NT = self.sorted_prints_K[place_NT] == print_NT
        item_NT = self.item_at_K[place_NT]
        return (
            torch.where(is_scored_NT, item_NT % self.num_item_slots, self.num_slots),
            torch.where(is_scored_NT, self.category_slot_K[item_NT], self.num_slots),
        )

    def values(self, x_BTD: Tensor) -> Tensor:
        """What each embedded interaction adds to its slots, (B, T, L)."""
        return self.value(functional.gelu(self.mix(x_BTD)))

    def forward(
        self,
        state_ND: Tensor,
        value_NTL: Tensor,
        print_NT: Tensor,
        times_NT: Tensor,
        now_N: Tensor,
        seen_NT: Tensor,
    ) -> Tensor:
        """(N, D + C). Each state has a history: values, fingerprints of the items, times in ms, and
        which of them it sees; and its own time.
        """
        left_NTL = self.fade(now_N[:, None] - times_NT) * seen_NT[:, :, None]
        added_NLT = (left_NTL * value_NTL).transpose(1, 2)
        item_NT, category_NT = self.slots(print_NT)
        # The last slot takes what has none, and is dropped.
        counts_NLS = added_NLT.new_zeros(added_NLT.shape[0], added_NLT.shape[1], self.num_slots + 1)
        counts_NLS = counts_NLS.scatter_add(2, item_NT[:, None].expand_as(added_NLT), added_NLT)
        counts_NLS = counts_NLS.scatter_add(2, category_NT[:, None].expand_as(added_NLT), added_NLT)
        return torch.cat((state_ND, counts_NLS[:, :, :-1].flatten(1)), dim=1)


class NoItemCountsHead(nn.Module):
    """Logits as they are."""

    def forward(
        self, logits_BK: Tensor, state_BD: Tensor, counts_BC: Tensor, request_BR: Tensor
    ) -> Tensor:
        """(B, K)."""
        return logits_BK


class ItemCountsHead(nn.Module):
    """Logits plus what the counts of each item and of its category say at the request.

    It starts with nothing.
    """

    item_slot_K: Tensor
    category_place_K: Tensor

    def __init__(self, num_items: int, d_model: int) -> None:
        super().__init__()
        self.num_item_slots = ITEM_SLOTS
        self.num_values = len(HALF_LIVES_H)
        self.num_slots = ITEM_SLOTS + CATEGORY_SLOTS
        self.time, self.last = map(REQUEST_COLUMNS.index, ("time_ms", "last_event_ms"))
        items = torch.arange(num_items)
        self.register_buffer("item_slot_K", items % ITEM_SLOTS, persistent=False)
        self.register_buffer("category_place_K", torch.zeros_like(items))
        self.fade = Fade()
        self.own = nn.Linear(self.num_values, HEAD_UNITS)
        self.category = nn.Linear(self.num_values, HEAD_UNITS, bias=False)
        self.state = nn.Linear(d_model, HEAD_UNITS, bias=False)
        self.item_KU = nn.Parameter(torch.randn(num_items, HEAD_UNITS) * 0.3)
        self.output_U = nn.Parameter(torch.zeros(HEAD_UNITS))
        self.output_KU = nn.Parameter(torch.zeros(num_items, HEAD_UNITS))

    @torch.no_grad()
    def set_categories(self, category_K: Tensor) -> None:
        """Give each item the slot of its category, both by number."""
        self.category_place_K.copy_(category_K % CATEGORY_SLOTS)

    def forward(
        self, logits_BK: Tensor, state_BD: Tensor, counts_BC: Tensor, request_BR: Tensor
    ) -> Tensor:
        """(B, K) of states and counts of the newest interaction, which the request names."""
        left_BL = self.fade(request_BR[:, self.time] - request_BR[:, self.last])
        counts_BLS = counts_BC.reshape(-1, self.num_values, self.num_slots) * left_BL[:, :, None]
        counts_BSL = counts_BLS.transpose(1, 2)
        own_BSU = self.own(counts_BSL[:, : self.num_item_slots])
        category_BSU = self.category(counts_BSL[:, self.num_item_slots :])
        units_BKU = own_BSU[:, self.item_slot_K] + category_BSU[:, self.category_place_K]
        units_BKU = functional.gelu(units_BKU + self.state(state_BD)[:, None] + self.item_KU)
        return logits_BK + (units_BKU * (self.output_KU + self.output_U)).sum(2)

"""What a history holds of each item, apart from all others: learned counts that fade.

What a user did with an item says most of that very item, then of its category. A pooled state mixes
the items of a history in one vector, from which a head has to tell hundreds apart. Here an
interaction adds a few learned values to the slot of its item and to that of its category, each
value fades with a half-life of its own, and for a scored item the head reads its two slots. That is
an attention of every item to the history by exact match and age. It is not in FinTRec.

The counts are part of the stored state, and the head lets them fade on until the request. Slots are
bounded, so a state does not grow with the catalogue: items and categories beyond them share slots.

Shapes: B batch, Q queries (the newest Q of T), T history, D width, L values, S slots,
C width of the counts (L * S), K items, U hidden units
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.encoding import REQUEST_COLUMNS
from features.spec import HOUR_MS
from features.vocabulary import Vocabulary, fingerprint

ITEM_SLOTS: Final = 256
CATEGORY_SLOTS: Final = 16
HALF_LIVES_H: Final = (3.0, 24.0, 120.0, 720.0)  # where training starts, one a value
_UNITS: Final = 32  # that read an interaction
_HEAD_UNITS: Final = 16  # that read the slots of a scored item


def item_slots(num_items: int) -> int:
    """How many slots items have; those of categories come behind them."""
    return min(num_items, ITEM_SLOTS)


def counts_width(num_items: int) -> int:
    """Width of the counts in a state."""
    return len(HALF_LIVES_H) * (item_slots(num_items) + CATEGORY_SLOTS)


class Fade(nn.Module):
    """What is left of L values after some time: 2^(-elapsed / half-life), half-lives learned."""

    def __init__(self) -> None:
        super().__init__()
        started = [math.log(hours * HOUR_MS) for hours in HALF_LIVES_H]
        self.log_half_life_L = nn.Parameter(torch.tensor(started))

    def forward(self, elapsed_ms: Tensor, is_served: bool) -> Tensor:
        """Shape of `elapsed_ms` + (L,), float32; a negative time counts as none.

        `is_served`: computed in float64. In float32 exp2 is another function at the end of an
        array, so a row's last bit would depend on its batch.
        """
        elapsed = elapsed_ms.clamp(min=0).to(torch.float64 if is_served else torch.float32)
        half_life_L = torch.exp(self.log_half_life_L).to(elapsed.dtype)
        return torch.exp2(-elapsed[..., None] / half_life_L).to(torch.float32)


class NoItemCounts(nn.Module):
    """States without counts."""

    def forward(
        self, state_BQD: Tensor, x_BTD: Tensor, print_BT: Tensor, times_BT: Tensor, seen_BQT: Tensor
    ) -> Tensor:
        """(B, Q, D)."""
        return state_BQD


class ItemCounts(nn.Module):
    """States with the counts of what each query sees behind them."""

    sorted_prints_K: Tensor
    item_at_K: Tensor
    category_slot_K: Tensor

    def __init__(self, vocabulary: Vocabulary, d_model: int) -> None:
        super().__init__()
        num_items = len(vocabulary.items)
        prints = torch.tensor([fingerprint("item", name) for name in vocabulary.items])
        ascending, places = torch.sort(prints)
        self.last_place = num_items - 1
        self.num_item_slots = item_slots(num_items)
        self.num_slots = self.num_item_slots + CATEGORY_SLOTS
        self.register_buffer("sorted_prints_K", ascending)
        self.register_buffer("item_at_K", places)
        self.register_buffer("category_slot_K", torch.full_like(places, self.num_item_slots))
        self.mix = nn.Linear(d_model, _UNITS)
        self.value = nn.Linear(_UNITS, len(HALF_LIVES_H))
        self.fade = Fade()

    @torch.no_grad()
    def set_categories(self, category_K: Tensor) -> None:
        """Give each item the slot of its category, both by number."""
        self.category_slot_K.copy_(self.num_item_slots + category_K % CATEGORY_SLOTS)

    def slots(self, print_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Slots of an interaction's item and of its category, each (B, T); S for one not scored."""
        place_BT = torch.searchsorted(self.sorted_prints_K, print_BT.contiguous())
        place_BT = place_BT.clamp(max=self.last_place)
        is_scored_BT = self.sorted_prints_K[place_BT] == print_BT
        item_BT = self.item_at_K[place_BT]
        return (
            torch.where(is_scored_BT, item_BT % self.num_item_slots, self.num_slots),
            torch.where(is_scored_BT, self.category_slot_K[item_BT], self.num_slots),
        )

    def forward(
        self, state_BQD: Tensor, x_BTD: Tensor, print_BT: Tensor, times_BT: Tensor, seen_BQT: Tensor
    ) -> Tensor:
        """(B, Q, D + C) of embedded interactions, their items' fingerprints and times in ms, and
        which of them a query sees.
        """
        num_queries = seen_BQT.shape[1]
        now_BQ1 = times_BT[:, times_BT.shape[1] - num_queries :, None]
        value_BTL = self.value(functional.gelu(self.mix(x_BTD)))
        left_BQTL = self.fade(now_BQ1 - times_BT[:, None, :], num_queries == 1)
        left_BQTL = left_BQTL * seen_BQT[:, :, :, None]
        added_BXT = (left_BQTL * value_BTL[:, None]).transpose(2, 3).flatten(1, 2)  # X = Q * L
        item_BT, category_BT = self.slots(print_BT)
        # The last slot takes what has none, and is dropped.
        counts_BXS = added_BXT.new_zeros(added_BXT.shape[0], added_BXT.shape[1], self.num_slots + 1)
        counts_BXS = counts_BXS.scatter_add(2, item_BT[:, None].expand_as(added_BXT), added_BXT)
        counts_BXS = counts_BXS.scatter_add(2, category_BT[:, None].expand_as(added_BXT), added_BXT)
        counts_BQC = counts_BXS[:, :, :-1].reshape(len(state_BQD), num_queries, -1)
        return torch.cat((state_BQD, counts_BQC), dim=2)


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
        self.num_item_slots = item_slots(num_items)
        self.num_values = len(HALF_LIVES_H)
        self.time, self.last = map(REQUEST_COLUMNS.index, ("time_ms", "last_event_ms"))
        items = torch.arange(num_items)
        self.register_buffer("item_slot_K", items % self.num_item_slots, persistent=False)
        self.register_buffer("category_place_K", torch.zeros_like(items))
        self.fade = Fade()
        self.own = nn.Linear(self.num_values, _HEAD_UNITS)
        self.category = nn.Linear(self.num_values, _HEAD_UNITS, bias=False)
        self.state = nn.Linear(d_model, _HEAD_UNITS, bias=False)
        self.item_KU = nn.Parameter(torch.randn(num_items, _HEAD_UNITS) * 0.3)
        self.output_U = nn.Parameter(torch.zeros(_HEAD_UNITS))
        self.output_KU = nn.Parameter(torch.zeros(num_items, _HEAD_UNITS))

    @torch.no_grad()
    def set_categories(self, category_K: Tensor) -> None:
        """Give each item the slot of its category, both by number."""
        self.category_place_K.copy_(category_K % CATEGORY_SLOTS)

    def forward(
        self, logits_BK: Tensor, state_BD: Tensor, counts_BC: Tensor, request_BR: Tensor
    ) -> Tensor:
        """(B, K) of states and counts of the newest interaction, which the request names."""
        left_BL = self.fade(request_BR[:, self.time] - request_BR[:, self.last], True)
        counts_BLS = counts_BC.reshape(len(counts_BC), self.num_values, -1) * left_BL[:, :, None]
        counts_BSL = counts_BLS.transpose(1, 2)
        own_BSU = self.own(counts_BSL[:, : self.num_item_slots])
        category_BSU = self.category(counts_BSL[:, self.num_item_slots :])
        units_BKU = own_BSU[:, self.item_slot_K] + category_BSU[:, self.category_place_K]
        units_BKU = functional.gelu(units_BKU + self.state(state_BD)[:, None] + self.item_KU)
        return logits_BK + (units_BKU * (self.output_KU + self.output_U)).sum(2)

"""The input embedding: tokens, dynamic context, order and time of a history; and a request's.

- open names arrive as 31-bit fingerprints; the artefact finds their embedding row (or UNKNOWN)
- closed names arrive as codes; one beyond the list this model knows counts as UNKNOWN
- F_d(t) is standardised with constants fitted on training data, projected, and fused with the
  token at t (FinTRec section 3.2)
- the embedding of a token is the sum of its fields' embeddings

Shapes: B batch, T history, C token columns, F dynamic features, R request columns, D width
"""

import torch
from torch import Tensor, nn

from features.encoding import REQUEST_COLUMNS, TOKEN_COLUMNS
from features.spec import DYNAMIC_FEATURES, NUM_DYNAMIC
from features.vocabulary import CLOSED_FIELDS, FIRST_KNOWN, NONE, OPEN_FIELDS, UNKNOWN, Vocabulary
from fintrec.models.calendar import (
    LOG_SCALE,
    NUM_HOURS,
    NUM_WEEKDAYS,
    hour,
    order_and_time,
    weekday,
)
from fintrec.models.config import Elapsed, TimeEncoding

NUM_POSITIONS = 16
LIMIT = 8.0  # standard deviations; an outlier must not drown the token
_TOUCH = [feature.name for feature in DYNAMIC_FEATURES].index("touch_recency")


class OpenField(nn.Module):
    """Embedding of an open name: fingerprint -> row by binary search, 1 for one not known."""

    sorted_prints: Tensor
    print_rows: Tensor

    def __init__(self, fingerprints: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.unknown = UNKNOWN
        self.last_place = len(fingerprints)
        known = torch.tensor([NONE, *fingerprints], dtype=torch.int64)
        rows = torch.tensor([NONE, *range(FIRST_KNOWN, FIRST_KNOWN + len(fingerprints))])
        ascending, places = torch.sort(known)
        self.register_buffer("sorted_prints", ascending)
        self.register_buffer("print_rows", rows[places])
        self.table = nn.Embedding(len(fingerprints) + FIRST_KNOWN, width)

    def rows(self, fingerprints: Tensor) -> Tensor:
        """Embedding rows of int64 fingerprints, any shape."""
        place = torch.searchsorted(self.sorted_prints, fingerprints.contiguous())
        place = place.clamp(max=self.last_place)
        known = self.sorted_prints[place] == fingerprints
        return torch.where(known, self.print_rows[place], self.unknown)

    def forward(self, fingerprints: Tensor) -> Tensor:
        """Embeddings, shape of `fingerprints` + (width,)."""
        return self.table(self.rows(fingerprints))


class ClosedField(nn.Module):
    """Embedding of a closed name's code; a code added after this model was trained is UNKNOWN."""

    def __init__(self, num_codes: int, width: int) -> None:
        super().__init__()
        self.unknown = UNKNOWN
        self.num_codes = num_codes
        self.table = nn.Embedding(num_codes, width)

    def forward(self, codes: Tensor) -> Tensor:
        """Embeddings, shape of `codes` + (width,)."""
        known = (codes >= 0) & (codes < self.num_codes)
        return self.table(torch.where(known, codes, self.unknown))


class Standardise(nn.Module):
    """(x - mean) / std with fitted constants, clamped; the identity until `fit`."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.limit = LIMIT
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Set the constants; a feature that never varied is left unscaled."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, features: Tensor) -> Tensor:
        """float32, shape of `features`."""
        return ((features.to(torch.float32) - self.mean) / self.std).clamp(-self.limit, self.limit)


class HistoryEmbedding(nn.Module):
    """Tokens + F_d(t) + p_t * e_t.

    `until_newest` adds the time to the newest interaction to e_t. That looks ahead, so only the
    bidirectional encoder may use it: pooling would otherwise not know old from new.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        d_model: int,
        dropout: float,
        time_encoding: TimeEncoding,
        concat_dynamic: bool,
        until_newest: bool,
        elapsed: Elapsed = "log",
    ) -> None:
        super().__init__()
        self.until_newest = until_newest
        self.concat_dynamic = concat_dynamic
        self.touch = _TOUCH
        self.item = OpenField(vocabulary.fingerprints("item"), d_model)
        self.product = OpenField(vocabulary.fingerprints("product"), d_model)
        self.page = OpenField(vocabulary.fingerprints("page"), d_model)
        self.placement = OpenField(vocabulary.fingerprints("placement"), d_model)
        self.layout = OpenField(vocabulary.fingerprints("layout"), d_model)
        self.action = ClosedField(len(CLOSED_FIELDS["action"]), d_model)
        self.channel = ClosedField(len(CLOSED_FIELDS["channel"]), d_model)
        self.device = ClosedField(len(CLOSED_FIELDS["device"]), d_model)
        self.position = nn.Embedding(NUM_POSITIONS, d_model)
        self.last_position = NUM_POSITIONS - 1
        self.dynamic_scale = Standardise(NUM_DYNAMIC)
        joined = d_model + NUM_DYNAMIC if concat_dynamic else NUM_DYNAMIC
        self.dynamic = nn.Linear(joined, d_model)
        self.order_time = order_and_time(time_encoding, d_model, 2 if until_newest else 1, elapsed)
        self.dropout = nn.Dropout(dropout)
        init_tables(self)

    def _tokens(self, tokens_BTC: Tensor) -> Tensor:
        item, product, page, placement, layout, action, channel, device, position, _ = (
            tokens_BTC.unbind(2)
        )
        return (
            self.item(item)
            + self.product(product)
            + self.page(page)
            + self.placement(placement)
            + self.layout(layout)
            + self.action(action)
            + self.channel(channel)
            + self.device(device)
            + self.position(position.clamp(0, self.last_position))
        )

    def _elapsed(self, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        since_touch_BT = dynamic_BTF[:, :, self.touch].to(torch.float32)
        if not self.until_newest:
            return since_touch_BT[:, :, None]
        ago_BT = (times_BT[:, -1:] - times_BT).clamp(min=0)
        return torch.stack((since_touch_BT, torch.log1p(ago_BT.to(torch.float32))), dim=2)

    def forward(self, tokens_BTC: Tensor, times_BT: Tensor, dynamic_BTF: Tensor) -> Tensor:
        """Model input, (B, T, D)."""
        tokens_BTC = tokens_BTC.to(torch.int64)
        token_BTD = self._tokens(tokens_BTC)
        dynamic = self.dynamic_scale(dynamic_BTF)
        if self.concat_dynamic:
            fused_BTD = self.dynamic(torch.cat((token_BTD, dynamic), dim=2))
        else:
            fused_BTD = token_BTD + self.dynamic(dynamic)
        elapsed_BTE = self._elapsed(times_BT, dynamic_BTF)
        return self.dropout(
            fused_BTD + self.order_time(tokens_BTC[:, :, -1], times_BT, elapsed_BTE)
        )


class RequestEmbedding(nn.Module):
    """Where and when the slate will be shown: a summand of the head's first dense layer."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.product = OpenField(vocabulary.fingerprints("product"), width)
        self.page = OpenField(vocabulary.fingerprints("page"), width)
        self.placement = OpenField(vocabulary.fingerprints("placement"), width)
        self.layout = OpenField(vocabulary.fingerprints("layout"), width)
        self.channel = ClosedField(len(CLOSED_FIELDS["channel"]), width)
        self.device = ClosedField(len(CLOSED_FIELDS["device"]), width)
        self.log_scale = LOG_SCALE
        self.hour = nn.Embedding(NUM_HOURS, width)
        self.weekday = nn.Embedding(NUM_WEEKDAYS, width)
        self.since_last = nn.Linear(2, width, bias=False)
        init_tables(self)
        for table in (self.hour, self.weekday):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, request_BR: Tensor) -> Tensor:
        """(B, width)."""
        product, page, placement, layout, channel, device, time, last = request_BR.unbind(1)
        silence = torch.log1p((time - last).clamp(min=0).to(torch.float32)) * self.log_scale
        has_last = (last > 0).to(torch.float32)
        return (
            self.product(product)
            + self.page(page)
            + self.placement(placement)
            + self.layout(layout)
            + self.channel(channel)
            + self.device(device)
            + self.hour(hour(time))
            + self.weekday(weekday(time))
            + self.since_last(torch.stack((silence * has_last, has_last), dim=1))
        )


def init_tables(module: nn.Module) -> None:
    """Start the fields' tables so that their sum has about unit variance."""
    for child in module.modules():
        if isinstance(child, OpenField | ClosedField):
            nn.init.normal_(child.table.weight, std=0.3)
    position = getattr(module, "position", None)
    if isinstance(position, nn.Embedding):
        nn.init.normal_(position.weight, std=0.3)


# The unpacking orders above are the encoder's column orders.
assert TOKEN_COLUMNS[: len(OPEN_FIELDS)] == OPEN_FIELDS
assert TOKEN_COLUMNS[len(OPEN_FIELDS) :] == (*CLOSED_FIELDS, "position", "order")
assert (*OPEN_FIELDS[1:], "channel", "device", "time_ms", "last_event_ms") == REQUEST_COLUMNS

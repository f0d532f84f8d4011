"""Our encoder of a case up to the offer, and its head: pCVR's shape on an event log.

Bidirectional over the rows up to the O_SENT, pooled by their mean; the context numbers stand for the
paper's F_d and join in the head's first layer (FinTRec section 3.2). There are few offers and many
events, so the embedding and the blocks start from a decoder that learned the next event on all that
happened before the first offer to be judged; the head starts at the base rate. The prediction is the
mean over a few members that differ by seed.

Shapes: B batch, T places, D width, X context features, O offers
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fintrec.metrics import log_loss
from fintrec.models.attention import Blocks, visible_all
from fintrec.models.config import TrainingConfig
from fintrec.public.event_log import EventLog, IntArray
from fintrec.public.event_series import NUM_ELAPSED, EventFields, cases, fit_fields, happened_before
from fintrec.public.kind_models import KindDecoder, KindEmbedding, KindSettings, train_decoder
from fintrec.public.kind_windows import KindBatch, Series, Windows, grouped
from fintrec.public.offers import FloatArray, Offers, context
from fintrec.training import Progress, Task
from fintrec.training import fit as fit_task

_LIMIT: Final = 4.0  # standard deviations of a context number


@dataclass(frozen=True, slots=True)
class OfferSettings:
    """Size and training of the encoder; `kinds` is the decoder that it starts from."""

    kinds: KindSettings = field(
        default_factory=lambda: KindSettings(
            d_model=64, d_feed_forward=128, dropout=0.2, epochs=8, batch_tokens=1024
        )
    )
    use_fields: bool = True
    use_events: bool = True
    d_head: int = 32
    dropout: float = 0.5
    context_dropout: float = 0.0
    learning_rate: float = 3e-4
    weight_decay: float = 0.1
    batch_size: int = 64
    epochs: int = 6
    num_members: int = 3

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class OfferBatch:
    """Cases up to their offers."""

    events: KindBatch
    context_BX: Tensor
    accepted_B: Tensor


class OfferEncoder(nn.Module):
    """Logit of acceptance."""

    def __init__(
        self,
        num_kinds: int,
        field_sizes: tuple[int, ...],
        num_context: int,
        settings: OfferSettings,
    ) -> None:
        super().__init__()
        kinds = settings.kinds
        self.use_events = settings.use_events
        self.embedding = KindEmbedding(num_kinds, field_sizes, NUM_ELAPSED, kinds)
        self.blocks = Blocks(
            kinds.num_layers, kinds.d_model, kinds.num_heads, kinds.d_feed_forward, kinds.dropout
        )
        self.fuse_h = nn.Linear(kinds.d_model, settings.d_head)
        self.fuse_context = nn.Linear(num_context, settings.d_head, bias=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(settings.d_head, 1)
        nn.init.normal_(self.output.weight, std=0.01)

    def forward(self, events: KindBatch, context_BX: Tensor) -> Tensor:
        """(B,)."""
        x_BTD = self.embedding(events)
        hidden_BTD = self.blocks(x_BTD, visible_all(events.time_BT), x_BTD.shape[1])
        real_BT1 = (events.time_BT > 0)[:, :, None].to(torch.float32)
        pooled_BD = (hidden_BTD * real_BT1).sum(1) / real_BT1.sum(1)
        if not self.use_events:
            pooled_BD = torch.zeros_like(pooled_BD)
        fused = self.fuse_h(self.dropout(pooled_BD)) + self.fuse_context(context_BX)
        return self.output(self.dropout(functional.gelu(fused)))[:, 0]


class AcceptanceLoss(nn.Module):
    """Mean binary cross entropy."""

    def __init__(self, encoder: OfferEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: OfferBatch) -> Tensor:
        """Scalar."""
        logit_B = self.encoder(batch.events, batch.context_BX)
        return functional.binary_cross_entropy_with_logits(logit_B, batch.accepted_B)


@dataclass(frozen=True, slots=True)
class OfferModel:
    """Fitted members and what they need to read a log."""

    members: tuple[OfferEncoder, ...]
    fields: EventFields
    use_fields: bool
    activities: tuple[str, ...]
    mean_X: FloatArray
    std_X: FloatArray

    @torch.no_grad()
    def predict(self, log: EventLog, offers: Offers) -> FloatArray:
        """Probability of acceptance, (O,): the mean of the members'."""
        found = np.zeros((len(self.members), len(offers)))
        cases_of, context_OX = self._cases(log, offers), self._context(log, offers)
        for member, encoder in enumerate(self.members):
            encoder.eval()
            for chosen in grouped(np.argsort(cases_of.length_W), cases_of.length_W, 4096):
                batch = self._batch(cases_of, context_OX, offers, chosen)
                logit_B = encoder(batch.events, batch.context_BX)
                found[member, chosen] = torch.sigmoid(logit_B).numpy()
        return found.mean(axis=0)

    def batches(
        self, log: EventLog, offers: Offers, batch_size: int, rng: np.random.Generator
    ) -> Iterator[OfferBatch]:
        """Batches of offers in random order."""
        cases_of, context_OX = self._cases(log, offers), self._context(log, offers)
        order = rng.permutation(len(offers))
        for begin in range(0, len(order), batch_size):
            yield self._batch(cases_of, context_OX, offers, order[begin : begin + batch_size])

    def _cases(self, log: EventLog, offers: Offers) -> Windows:
        series: Series = cases(log, self.fields if self.use_fields else None)
        length_O = offers.row_O - offers.first_O + 1
        first_O = offers.first_O + offers.case_O  # an END stands after each case before
        return Windows(series, first_O, length_O, length_O, series.kinds.place_N)

    def _context(self, log: EventLog, offers: Offers) -> FloatArray:
        numbers = (context(log, offers, self.activities) - self.mean_X) / self.std_X
        return np.clip(numbers, -_LIMIT, _LIMIT)

    def _batch(
        self, cases_of: Windows, context_OX: FloatArray, offers: Offers, chosen: IntArray
    ) -> OfferBatch:
        return OfferBatch(
            cases_of.batch(chosen),
            torch.from_numpy(context_OX[chosen].astype(np.float32)),
            torch.from_numpy(offers.is_accepted_O[chosen].astype(np.float32)),
        )


def pretrained(
    log: EventLog, until_ms: int, settings: OfferSettings, seed: int, report: Any
) -> tuple[KindDecoder, EventFields]:
    """A decoder of the next event, from what had happened before an instant."""
    past = happened_before(log, until_ms)
    fields = fit_fields(past, np.ones(len(past.kind_N), np.bool_))
    series = cases(past, fields if settings.use_fields else None)
    cut = int(0.9 * past.num_cases)
    decoder, _ = train_decoder(
        series.between(0, cut),
        series.between(cut, past.num_cases),
        settings.kinds,
        seed,
        None,
        report,
    )
    return decoder, fields


def train_offers(
    log: EventLog,
    train: Offers,
    validation: Offers,
    start: tuple[KindDecoder, EventFields],
    settings: OfferSettings,
    seed: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[OfferModel, list[dict[str, Any]]]:
    """Train the members on offers; each keeps its weights with the lowest validation loss."""
    decoder, fields = start
    activities = tuple(np.unique(log.activity_N).tolist())
    numbers = context(log, train, activities)
    std = numbers.std(axis=0)
    std[std < 1e-6] = 1.0
    empty = OfferModel((), fields, settings.use_fields, activities, numbers.mean(axis=0), std)
    members, histories = [], []
    for member in range(settings.num_members):
        torch.manual_seed(1000 * seed + member)
        encoder = OfferEncoder(
            len(log.kinds) + 1,
            fields.sizes if settings.use_fields else (),
            numbers.shape[1],
            settings,
        )
        encoder.embedding.load_state_dict(decoder.embedding.state_dict())
        encoder.blocks.load_state_dict(decoder.blocks.state_dict())
        rate = float(train.is_accepted_O.mean())
        nn.init.constant_(encoder.output.bias, float(np.log(rate / (1 - rate))))
        alone = OfferModel(
            (encoder,), fields, settings.use_fields, activities, empty.mean_X, empty.std_X
        )
        histories.append(
            fit_task(
                Task(
                    f"offers {member + 1}",
                    encoder,
                    AcceptanceLoss(encoder),
                    lambda epoch, alone=alone, member=member: alone.batches(  # type: ignore[misc]
                        log,
                        train,
                        settings.batch_size,
                        np.random.default_rng((seed, member, epoch)),
                    ),
                    -(-len(train) // settings.batch_size),
                    lambda alone=alone: log_loss(  # type: ignore[misc]
                        alone.predict(log, validation), validation.is_accepted_O
                    ),
                ),
                TrainingConfig(
                    learning_rate=settings.learning_rate,
                    weight_decay=settings.weight_decay,
                    epochs=settings.epochs,
                    seed=seed,
                ),
                None,
                report,
            )
        )
        members.append(encoder)
    model = OfferModel(
        tuple(members), fields, settings.use_fields, activities, empty.mean_X, empty.std_X
    )
    return model, histories

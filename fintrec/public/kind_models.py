"""Our transformer over sequences of kinds: the pCTR decoder's blocks, mask and time encoding.

Tokens are the embeddings of kinds; order and time are the paper's product p_t * e_t (FinTRec section
3.2), with weekday, week of month, hour and elapsed times, where instants are known. `before` is the paper's mask by timestamp: what happened at the very instant of an event is
hidden from it. `upto` shows it what was logged before it, at the same instant too.

Shapes: B batch, T places, E elapsed times, D width, K kinds
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fintrec.learning.loop import Progress, Task
from fintrec.learning.loop import fit as fit_task
from fintrec.models.attention import Blocks, visible_before, visible_upto
from fintrec.models.calendar import Order, OrderAndTime
from fintrec.models.config import TrainingConfig
from fintrec.public.kind_windows import IGNORED, KindBatch, Series, windows
from fintrec.public.ragged import IntArray

_INIT: Final = 0.3


@dataclass(frozen=True, slots=True)
class KindSettings:
    """Size and training of a decoder over kinds."""

    d_model: int = 96
    num_layers: int = 2
    num_heads: int = 4
    d_feed_forward: int = 192
    dropout: float = 0.1
    window: int = 256
    mask: Literal["before", "upto"] = "upto"
    use_time: bool = True
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    batch_tokens: int = 2048
    epochs: int = 20

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


class KindEmbedding(nn.Module):
    """Kind, order and time of every place."""

    def __init__(self, num_kinds: int, num_elapsed: int, settings: KindSettings) -> None:
        super().__init__()
        width = settings.d_model
        self.kind = nn.Embedding(num_kinds, width)
        self.order_time = OrderAndTime(width, num_elapsed) if settings.use_time else Order(width)
        self.dropout = nn.Dropout(settings.dropout)
        nn.init.normal_(self.kind.weight, std=_INIT)

    def forward(self, batch: KindBatch) -> Tensor:
        """(B, T, D)."""
        order_time_BTD = self.order_time(batch.place_BT, batch.time_BT, batch.elapsed_BTE)
        return self.dropout(self.kind(batch.kind_BT) + order_time_BTD)


class KindDecoder(nn.Module):
    """Causal decoder: logits of the next kind at every place."""

    def __init__(self, num_kinds: int, num_elapsed: int, settings: KindSettings) -> None:
        super().__init__()
        self.visible = visible_before if settings.mask == "before" else visible_upto
        self.embedding = KindEmbedding(num_kinds, num_elapsed, settings)
        self.blocks = Blocks(
            settings.num_layers,
            settings.d_model,
            settings.num_heads,
            settings.d_feed_forward,
            settings.dropout,
        )
        self.output = nn.Linear(settings.d_model, num_kinds)

    def forward(self, batch: KindBatch) -> Tensor:
        """(B, T, K)."""
        x_BTD = self.embedding(batch)
        visible_BTT = self.visible(batch.time_BT)
        return self.output(self.blocks(x_BTD, visible_BTT, x_BTD.shape[1]))


class NextKindLoss(nn.Module):
    """Negative log-likelihood of the judged places in nats: its sum and their number."""

    def __init__(self, decoder: KindDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, batch: KindBatch) -> Tensor:
        """(1, 2)."""
        target_N = batch.target_BT.flatten()
        total = functional.cross_entropy(
            self.decoder(batch).flatten(0, 1), target_N, ignore_index=IGNORED, reduction="sum"
        )
        return torch.stack((total, (target_N != IGNORED).sum().to(total.dtype)))[None]


def decoder_for(series: Series, settings: KindSettings, seed: int) -> KindDecoder:
    """A decoder with fresh weights for sequences like these."""
    torch.manual_seed(seed)
    return KindDecoder(series.kinds.num_kinds, series.elapsed_NE.shape[1], settings)


@torch.no_grad()
def judge(decoder: KindDecoder, series: Series, settings: KindSettings) -> dict[str, float]:
    """Mean negative log-likelihood in nats and top-1 accuracy over all targets."""
    decoder.eval()
    nll, right, found = 0.0, 0, windows(series, settings.window)
    for batch in map(found.batch, found.plan(4 * settings.batch_tokens, None)):
        logits, target = decoder(batch).flatten(0, 1), batch.target_BT.flatten()
        nll += float(
            functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        )
        right += int((logits.argmax(1) == target).sum())
    num = found.num_targets
    return {"nll": nll / num, "accuracy": right / num, "targets": num}


def train_decoder(
    train: Series,
    validation: Series,
    settings: KindSettings,
    seed: int,
    budget_minutes: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[KindDecoder, dict[str, Any]]:
    """Train by the project's one loop; the weights with the lowest validation loss are kept."""
    decoder = decoder_for(train, settings, seed)
    found = windows(train, settings.window)

    def plan(epoch: int) -> list[IntArray]:
        return found.plan(settings.batch_tokens, np.random.default_rng((seed, epoch)))

    task = Task(
        "next kind",
        decoder,
        NextKindLoss(decoder),
        plan,
        found.batch,
        lambda: judge(decoder, validation, settings)["nll"],
    )
    history = fit_task(task, training_config(settings, seed), budget_minutes, report)
    num_weights = sum(math.prod(weight.shape) for weight in decoder.parameters())
    return decoder, {**history, "weights": num_weights}


def training_config(settings: KindSettings, seed: int) -> TrainingConfig:
    """The loop's own settings."""
    return TrainingConfig(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        epochs=settings.epochs,
        seed=seed,
    )

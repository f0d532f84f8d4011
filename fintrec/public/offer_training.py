"""Training of the offer encoder: pretrained on next events before the split, then an ensemble.

- pretraining: the same embedding and blocks, causal, learn the next event of all cases from what the
  log held before the first test offer; its last tenth of cases chooses the epoch
- `members` encoders start there and learn from all training offers for a fixed number of epochs, so
  no offers are spent on choosing one; they differ by their seeds
- the probability of an offer is the mean of the members'
- beside it, the encoder and the forest together: the mean of their log odds

Shapes: O offers
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fintrec.learning.loop import Progress, Report, Task, fit, silent
from fintrec.models.config import TrainingConfig
from fintrec.public.event_log import EventLog
from fintrec.public.event_series import cases, happened_before
from fintrec.public.kind_models import train_decoder
from fintrec.public.leaks import check_past
from fintrec.public.offer_encoder import OfferEncoder, OfferSettings
from fintrec.public.offer_windows import OfferBatch, OfferWindows, offer_windows
from fintrec.public.offers import (
    Offers,
    baseline_probabilities,
    contexts,
    figures,
    find_offers,
    mean_of_log_odds,
    variants,
)
from fintrec.public.ragged import IntArray
from fintrec.public.side_features import fit_side_features
from fintrec.public.suite import Say

FloatArray = npt.NDArray[np.float64]
Weights = dict[str, Tensor]
_JUDGED_TOGETHER = 256  # offers
_PRETRAIN_SHARE = 0.1  # of the cases, the last, that choose the epoch of pretraining


class OfferLoss(nn.Module):
    """Binary cross entropy of a batch of offers: its sum and their number."""

    def __init__(self, encoder: OfferEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: OfferBatch) -> Tensor:
        """(1, 2)."""
        total = functional.binary_cross_entropy_with_logits(
            self.encoder(batch.window, batch.side_BX), batch.is_accepted_B, reduction="sum"
        )
        return torch.stack((total, total.new_tensor(float(len(batch.is_accepted_B)))))[None]


def pretrained(log: EventLog, split_ms: int, settings: OfferSettings, seed: int) -> Weights:
    """Weights of embedding and blocks after learning next events of what happened before a split."""
    past = happened_before(log, split_ms)
    check_past(past, split_ms)
    series = cases(past)
    num_fit = past.num_cases - max(1, int(_PRETRAIN_SHARE * past.num_cases))
    decoder, _ = train_decoder(
        series.between(0, num_fit), series.between(num_fit, past.num_cases), settings.kinds, seed
    )
    return {
        name: weight
        for name, weight in decoder.state_dict().items()
        if name.startswith(("embedding.", "blocks."))
    }


def windows_of(
    log: EventLog, train: Offers, test: Offers, settings: OfferSettings
) -> tuple[OfferWindows, OfferWindows]:
    """(train, test) as windows; side features are scaled by the training offers."""
    known, asked = contexts(log, train, test)
    side = fit_side_features(known, len(np.unique(log.activity_N)))
    size = settings.kinds.window
    return (
        offer_windows(log, train, side.of(known), size),
        offer_windows(log, test, side.of(asked), size),
    )


@torch.no_grad()
def probabilities(encoder: OfferEncoder, windows: OfferWindows) -> FloatArray:
    """Of being accepted, (O,)."""
    encoder.eval()
    found = np.zeros(len(windows))
    for chosen in windows.plan(_JUDGED_TOGETHER, None):
        batch = windows.batch(chosen)
        found[chosen] = torch.sigmoid(encoder(batch.window, batch.side_BX)).numpy()
    return found


def train_member(
    train: OfferWindows,
    start: Weights,
    settings: OfferSettings,
    seed: int,
    budget_minutes: float | None = None,
    report: Report = silent,
) -> tuple[OfferEncoder, dict[str, Any]]:
    """One encoder from pretrained weights, as it is after the last epoch."""
    torch.manual_seed(seed)
    encoder = OfferEncoder(
        train.series.kinds.num_kinds,
        train.side_OX.shape[1],
        float(train.offers.is_accepted_O.mean()),
        settings,
    )
    encoder.load_state_dict({**encoder.state_dict(), **start})

    def plan(epoch: int) -> list[IntArray]:
        return train.plan(settings.batch_size, np.random.default_rng((seed, epoch)))

    # The loop keeps the epoch with the lowest validation loss: a count that falls keeps the last.
    last = itertools.count(0, -1)
    task = Task("offers", encoder, OfferLoss(encoder), plan, train.batch, lambda: next(last))
    config = TrainingConfig(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        epochs=settings.epochs,
        seed=seed,
    )
    history = fit(task, config, budget_minutes, report)
    return encoder, {name: history[name] for name in ("epochs", "steps", "seconds")}


def ensemble(
    train: OfferWindows,
    test: OfferWindows,
    start: Weights,
    settings: OfferSettings,
    seed: int,
    budget_minutes: float | None = None,
    report: Callable[[int, Progress], None] = lambda member, progress: None,
) -> tuple[FloatArray, dict[str, Any]]:
    """Train the members: the mean of their probabilities on `test`, (O,), and what each one is."""
    minutes = None if budget_minutes is None else budget_minutes / settings.members
    found, members = np.zeros(len(test)), []
    for member in range(settings.members):
        encoder, history = train_member(
            train,
            start,
            settings,
            seed * settings.members + member,
            minutes,
            lambda progress, member=member: report(member, progress),  # type: ignore[misc]
        )
        alone = probabilities(encoder, test)
        found += alone / settings.members
        members.append({**history, **figures(alone, test.offers)})
    return found, {
        "members": members,
        "weights": sum(math.prod(weight.shape) for weight in encoder.parameters()),
    }


def encoder_quality(
    log: EventLog,
    seed: int,
    budget_minutes: float | None,
    say: Say,
    settings: OfferSettings | None = None,
) -> dict[str, Any]:
    """The encoder, trained with a seed, on both variants: `judged` with the ensemble's members."""
    settings = settings or OfferSettings()
    found: dict[str, Any] = {}
    start: Weights | None = None
    for variant, (train, test) in variants(find_offers(log)).items():
        split_ms = int(test.sent_ms_O.min())
        if start is None:
            start = pretrained(log, split_ms, settings, seed)
        known, asked = windows_of(log, train, test, settings)
        report = _told(say, variant, seed, settings)
        ours_O, trained = ensemble(known, asked, start, settings, seed, budget_minutes, report)
        forest_O = baseline_probabilities(log, train, test, ("forest",))["forest"]
        found[variant] = {"train_offers": len(train), **judged(ours_O, forest_O, test), **trained}
    return found


def judged(encoder_O: FloatArray, forest_O: FloatArray, test: Offers) -> dict[str, Any]:
    """Figures of the encoder, `test`, and of the encoder and the forest together, `with_forest`."""
    both_O = mean_of_log_odds(encoder_O, forest_O)
    return {
        "test": figures(encoder_O, test, forest_O),
        "with_forest": figures(both_O, test, forest_O),
    }


def _told(
    say: Say, variant: str, seed: int, settings: OfferSettings
) -> Callable[[int, Progress], None]:
    def report(member: int, progress: Progress) -> None:
        share = (member + progress.share) / settings.members
        say(f"offers, {variant}, seed {seed}", share, f"member {member + 1}")

    return report

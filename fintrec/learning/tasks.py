"""What is trained: next clicks and conversions, each as a task of the loop.

Every epoch's order, and its sample of pages, is drawn from a generator of (seed, epoch) alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from features.errors import FintrecError
from fintrec.batches import (
    ClickBatch,
    ConversionBatch,
    ImpressionBatch,
    PageSample,
    Places,
    Window,
    click_batch,
    click_windows,
    conversion_batch,
    converting_pages,
    grouped,
    history_lengths,
    impression_batch,
    impression_windows,
    sample_pages,
)
from fintrec.datasets import Decisions, TrainingSet, label_known
from fintrec.exposure import ExposurePrior
from fintrec.learning import base_rates
from fintrec.learning.compute import CPU, Compute
from fintrec.learning.loop import Task
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.objectives import ClickObjective, ConversionObjective, ImpressionObjective

IntArray = npt.NDArray[np.int64]


class NoExamples(FintrecError):
    """A data set has nothing to learn from; the message says what it lacks."""


def sampled(decisions: Decisions, limit: int, seed: int) -> IntArray:
    """At most `limit` pages, evenly likely, in order."""
    pages = np.arange(len(decisions), dtype=np.int64)
    if len(pages) <= limit:
        return pages
    return np.sort(np.random.default_rng(seed).choice(pages, limit, replace=False))


def click_task(
    model: Pctr,
    data: TrainingSet,
    recipe: Recipe,
    prior: ExposurePrior,
    compute: Compute = CPU,
) -> Task[Places, Any]:
    """pCTR on every clicked step of the training pages, or with a sigmoid link on every page that
    shows an item; NoExamples without clicks.
    """
    config = recipe.training
    stride = min(config.label_stride, recipe.model.window // 2)
    of_each = model.link == "sigmoid"
    find: Callable[..., list[Window]] = impression_windows if of_each else click_windows
    encode: Callable[..., Any] = impression_batch if of_each else click_batch
    windows, held_out = (
        find(data, decisions, stride) for decisions in (data.train, data.validation)
    )
    clicked, judged_clicks = (
        int((decisions.clicked & (decisions.shown >= 0)).any(axis=1).sum())
        for decisions in (data.train, data.validation)
    )
    if not clicked or not held_out:
        raise NoExamples(
            f"pCTR needs clicks: training has {clicked} pages with one, validation {judged_clicks}"
        )
    if len(held_out) > config.validation_rows:
        rng = np.random.default_rng(config.seed)
        chosen = rng.choice(len(held_out), config.validation_rows, replace=False)
        held_out = [held_out[place] for place in sorted(chosen.tolist())]
    lengths = np.array([window.length for window in windows])
    judged = grouped(np.array([window.length for window in held_out]), config.batch_size, None)
    objective: nn.Module
    if of_each:
        objective, base_loss = ImpressionObjective(model), base_rates.impression_loss(data)
    else:
        objective = ClickObjective(model, prior)
        base_loss = base_rates.click_loss(objective, data, windows)
    objective.to(compute.device)

    def plan(epoch: int) -> list[Places]:
        return grouped(lengths, config.batch_size, np.random.default_rng([config.seed, epoch]))

    def batch(places: Places) -> Any:
        chosen = [windows[place] for place in compute.group.share(places.chosen)]
        return encode(data, data.train, chosen, places.bucket)

    def held_out_batch(places: Places) -> Any:
        chosen = [held_out[place] for place in places.chosen]
        return encode(data, data.validation, chosen, places.bucket)

    return Task(
        "pctr",
        model,
        compute.group.wrapped(objective),
        plan,
        batch,
        lambda: _judge(objective, held_out_batch, judged, compute),
        _click_tokens,
        base_loss,
    )


def conversion_task(
    model: Pcvr, data: TrainingSet, config: TrainingConfig, compute: Compute = CPU
) -> Task[Any, ConversionBatch]:
    """pCVR on pages, sampled by `page_rate`; NoExamples without pages or conversions."""
    held_out = sampled(data.validation, config.validation_rows, config.seed)
    converting = converting_pages(data, data.train)
    if not len(converting) or not len(held_out):
        raise NoExamples(
            f"pCVR needs pages: training has {len(converting)}, validation {len(held_out)}"
        )
    if not converting.any():
        raise NoExamples(
            f"pCVR needs conversions: after none of the {len(converting)} training pages one is "
            "known"
        )
    if not label_known(data, data.validation.taken(held_out)).any():
        raise NoExamples(
            f"pCVR needs known labels: of the {len(held_out)} validation pages none is old enough"
        )
    lengths = history_lengths(data, data.train)
    judged = grouped(history_lengths(data, data.validation)[held_out], config.batch_size, None)
    objective = ConversionObjective(model)

    def plan(epoch: int) -> list[tuple[int, PageSample]]:
        rng = np.random.default_rng([config.seed, epoch])
        sample = sample_pages(converting, config.page_rate, rng)
        return [
            (bucket, PageSample(sample.pages[chosen], sample.weight[chosen]))
            for bucket, chosen in grouped(lengths[sample.pages], config.batch_size, rng)
        ]

    def batch(planned: tuple[int, PageSample]) -> ConversionBatch:
        bucket, sample = planned
        share = compute.group.share
        sample = PageSample(share(sample.pages), share(sample.weight))
        return conversion_batch(data, data.train, sample, bucket)

    def held_out_batch(places: Places) -> ConversionBatch:
        sample = PageSample(held_out[places.chosen], np.ones(len(places.chosen), np.float32))
        return conversion_batch(data, data.validation, sample, places.bucket)

    return Task(
        "pcvr",
        model,
        compute.group.wrapped(objective),
        plan,
        batch,
        lambda: _judge(objective, held_out_batch, judged, compute),
        _conversion_tokens,
        base_rates.conversion_loss(objective, data),
    )


def _click_tokens(batch: ClickBatch | ImpressionBatch) -> int:
    return int((batch.times_WT > 0).sum())


def _conversion_tokens(batch: ConversionBatch) -> int:
    return int((batch.times_BT > 0).sum())


@torch.inference_mode()
def _judge(
    objective: nn.Module,
    encode: Callable[[Places], Any],
    judged: list[Places],
    compute: Compute,
) -> float:
    """Mean loss over the batches of all processes, each of which computes its own."""
    own = judged[compute.group.rank :: compute.group.size]
    sums = torch.zeros(1, 2, dtype=torch.float64, device=compute.device)
    for batch in compute.batches(encode, own):
        with compute.autocast():
            sums += objective(compute.placed(batch))
    sums = compute.group.total(sums)
    return float((sums[:, 0] / sums[:, 1]).sum())

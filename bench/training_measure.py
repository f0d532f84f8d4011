"""Measurements of the training bench. Sides take turns batch by batch, the first one changing, so
that what else the machine does falls on all of them alike; every ratio is of one repeat.

The clock is CPU time of the process on one thread of a CPU, where others only take turns; else
wall time, after everything queued on the device is done.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from bench import flops
from bench.training_work import PARTS, Trainer, Work
from fintrec.learning.compute import Compute, Precision
from fintrec.learning.loader import loaded
from fintrec.models.config import Recipe

SIDES: Final = ("padded", "bucketed")
_DTYPES: Final[dict[Precision, torch.dtype]] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_FLOPS: Final = 1e11  # of all steps of a repeat on a CPU: a wide model is measured on fewer
_POSITIONS: Final = 25_000  # padded ones of a repeat on a CPU
_LARGE: Final = {"cpu": 1024, "cuda": 8192}  # rows of the product that the peak is measured by
Clock = Callable[[], float]
Row = dict[str, Any]


def clock_of(device: torch.device, threads: int) -> tuple[str, Clock]:
    """The clock and its name, `CPU` or `wall`."""
    if device.type == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return "wall", synchronised
    return ("CPU", time.process_time) if threads == 1 else ("wall", time.perf_counter)


def spread(values: Sequence[float], digits: int = 3) -> list[float]:
    """Median, lowest and highest."""
    found = (float(np.median(values)), min(values), max(values))
    return [round(value, digits) for value in found]


def padding(
    work: Work,
    step: Callable[[str, Any], object],
    compute: Compute,
    clock: Clock,
    num_batches: int,
    repeats: int,
) -> Row:
    """Real tokens a second of both paddings, with the encoding of the batches and without.

    `step(side, batch)` does the work on a batch, a training step or the scores.
    """
    first = work.present(_made(work, work.plan[0], "padded"))
    if compute.device.type == "cpu":
        num_batches = max(1, min(num_batches, _POSITIONS // first.numel()))
    plan, wide = list(work.plan[:num_batches]), first.shape[1]
    for side in SIDES:  # the first batch of a shape is not counted
        for planned in {len(work.present(_made(work, p, side))[0]): p for p in plan}.values():
            step(side, compute.placed(_made(work, planned, side)))
    counted = [work.present(_made(work, planned, "bucketed")) for planned in plan]
    real = sum(int(present.sum()) for present in counted)
    lengths = np.concatenate([present.sum(1).numpy() for present in counted])
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for repeat in range(repeats):
        spent: Counter[tuple[str, str]] = Counter()
        for number, planned in enumerate(plan):
            for side in SIDES if (number + repeat) % 2 else SIDES[::-1]:
                begin = clock()
                batch = compute.placed(_made(work, planned, side))
                encoded = clock()
                step(side, batch)
                spent[side, "encode"] += encoded - begin
                spent[side, "step"] += clock() - encoded
        for key, value in spent.items():
            seconds[key].append(value)
    whole = {
        side: [
            sum(pair) for pair in zip(seconds[side, "encode"], seconds[side, "step"], strict=True)
        ]
        for side in SIDES
    }
    return {
        "data": work.data,
        "model": work.model,
        "batches": len(plan),
        "examples": len(lengths),
        "window": wide,
        "mean_length": round(float(lengths.mean()), 1),
        "full_share": round(float((lengths == wide).mean()), 3),
        "positions_ratio": round(
            wide * len(lengths) / sum(present.numel() for present in counted), 2
        ),
        "most_ratio": round(wide * len(lengths) / real, 2),
        **{f"{side}_tokens_per_s": spread([real / s for s in whole[side]], 0) for side in SIDES},
        "ratio": spread(_ratios(whole["padded"], whole["bucketed"])),
        "step_ratio": spread(_ratios(seconds["padded", "step"], seconds["bucketed", "step"])),
    }


def _made(work: Work, planned: Any, side: str) -> Any:
    return work.encode(planned, side == "padded")


def _ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


def encoded_ahead(
    work: Work, trainer: Trainer, num_workers: int, clock: Clock, num_steps: int, repeats: int
) -> Row:
    """Real tokens a second of whole steps, batches encoded in between or by loader workers.

    Starting the workers counts, once a repeat as once an epoch.
    """
    plan = list(work.plan[:num_steps])
    tokens = sum(int(work.present(_made(work, planned, "bucketed")).sum()) for planned in plan)
    sides = {"in_between": 0, "ahead": num_workers}
    seconds: dict[str, list[float]] = defaultdict(list)
    for repeat in range(-1, repeats):  # the first is not counted
        for side, workers in list(sides.items())[:: 1 if repeat % 2 else -1]:
            begin = clock()
            on_gpu = trainer.compute.device.type == "cuda"
            encode = partial(work.encode, padded=False)
            for batch in loaded(encode, plan, workers, pinned=on_gpu):
                for _ in trainer.stages(trainer.compute.placed(batch)):
                    pass
            if repeat >= 0:
                seconds[side].append(clock() - begin)
    return {
        "model": work.model,
        "steps": len(plan),
        "workers": num_workers,
        **{
            f"{side}_tokens_per_s": spread([tokens / s for s in seconds[side]], 0) for side in sides
        },
        "ratio": spread(_ratios(seconds["in_between"], seconds["ahead"])),
    }


def sizes_of(work: Work, recipe: Recipe, batch: Any, num_items: int, training: bool) -> flops.Sizes:
    """Sizes of a step of pCTR or pCVR on a batch."""
    rows, length = work.present(batch).shape
    decodes = work.model == "pctr"
    if decodes:
        queries = length if training else 1
    else:
        queries = 2 if recipe.model.pooling == "last_two" else length
    return flops.Sizes(
        batch=rows,
        length=length,
        queries=queries,
        states=len(batch.target_L) if decodes and training else rows,
        num_items=num_items,
        until_newest=not decodes,
    )


def steps_against_products(
    work: Work,
    trainer: Trainer,
    recipe: Recipe,
    num_items: int,
    clock: Clock,
    num_steps: int,
    repeats: int,
) -> Row:
    """Parts of a full-window training step, and its speed beside the bare products of its shapes."""
    batches = [work.encode(planned, True) for planned in work.plan[:num_steps]]
    found = [
        flops.products(recipe.model, sizes_of(work, recipe, batch, num_items, True))
        for batch in batches
    ]
    count = [flops.training_flops(products) for products in found]
    num = _affordable(count, trainer.compute.device)
    bare = [_bare(p, True, trainer.compute) for p in found[:num]]
    _train(trainer, trainer.compute.placed(batches[0]), clock)
    bare[0]()
    parts: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats):
        spent: Counter[str] = Counter()
        for number, planned in enumerate(work.plan[:num]):
            for side in ("step", "bare") if (number + repeat) % 2 else ("bare", "step"):
                begin = clock()
                if side == "bare":
                    bare[number]()
                    spent["bare"] += clock() - begin
                else:
                    batch = trainer.compute.placed(work.encode(planned, True))
                    spent["encode"] += clock() - begin
                    spent.update(_train(trainer, batch, clock))
        for key, value in spent.items():
            parts[key].append(value / num)
    tokens = sum(int(work.present(batch).sum()) for batch in batches[:num]) / num
    operations = sum(count[:num]) / num
    model = [a + b for a, b in zip(parts["forward"], parts["backward"], strict=True)]
    whole = [sum(values) for values in zip(*(parts[name] for name in PARTS), strict=True)]
    return {
        "recipe": recipe.name,
        "model": work.model,
        "batch": len(work.present(batches[0])),
        "steps": num,
        "gflop": round(operations / 1e9, 2),
        "ms": {name: round(float(np.median(parts[name])) * 1e3, 2) for name in PARTS},
        "step_ms": spread([1e3 * value for value in whole], 1),
        "tokens_per_s": spread([tokens / value for value in whole], 0),
        "gflop_per_s": spread([operations / value / 1e9 for value in model], 1),
        "bare_gflop_per_s": spread([operations / value / 1e9 for value in parts["bare"]], 1),
        "share": spread(_ratios(parts["bare"], model)),
        "whole_share": spread(_ratios(parts["bare"], whole)),
    }


def _bare(found: list[flops.Product], training: bool, compute: Compute) -> Callable[[], None]:
    return flops.bare(found, training, compute.device, _DTYPES[compute.precision])


def _affordable(count: Sequence[int], device: torch.device) -> int:
    if device.type == "cuda":
        return len(count)
    return max(1, min(len(count), int(_FLOPS * len(count) / sum(count))))


def _train(trainer: Trainer, batch: Any, clock: Clock) -> dict[str, float]:
    """Seconds of each part of a step."""
    spent, last = {}, clock()
    for stage in trainer.stages(batch):
        now = clock()
        spent[stage], last = now - last, now
    return spent


@torch.inference_mode()
def scores_against_products(
    work: Work,
    recipe: Recipe,
    num_items: int,
    compute: Compute,
    clock: Clock,
    num_steps: int,
    repeats: int,
) -> Row:
    """Tokens a second of scoring full windows, and its speed beside the bare products."""
    model = work.module.to(compute.device).eval()
    batches = [work.encode(planned, True) for planned in work.plan[:num_steps]]
    found = [
        flops.products(recipe.model, sizes_of(work, recipe, batch, num_items, False))
        for batch in batches
    ]
    count = [flops.forward_flops(products) for products in found]
    num = _affordable(count, compute.device)
    ready = [compute.placed(batch) for batch in batches[:num]]
    bare = [_bare(p, False, compute) for p in found[:num]]
    seconds: dict[str, list[float]] = defaultdict(list)
    for repeat in range(-1, repeats):  # the first is not counted
        spent: Counter[str] = Counter()
        for number in range(num):
            for side in ("score", "bare") if (number + repeat) % 2 else ("bare", "score"):
                begin = clock()
                if side == "bare":
                    bare[number]()
                else:
                    with compute.autocast():
                        model(ready[number])
                spent[side] += clock() - begin
        if repeat >= 0:
            for key, value in spent.items():
                seconds[key].append(value)
    tokens = sum(int(work.present(batch).sum()) for batch in batches[:num])
    operations = sum(count[:num])
    return {
        "recipe": recipe.name,
        "model": work.model,
        "batch": len(work.present(batches[0])),
        "steps": num,
        "gflop": round(operations / num / 1e9, 2),
        "ms": spread([value / num * 1e3 for value in seconds["score"]], 1),
        "tokens_per_s": spread([tokens / value for value in seconds["score"]], 0),
        "gflop_per_s": spread([operations / value / 1e9 for value in seconds["score"]], 1),
        "bare_gflop_per_s": spread([operations / value / 1e9 for value in seconds["bare"]], 1),
        "share": spread(_ratios(seconds["bare"], seconds["score"])),
    }


def large_product(compute: Compute, clock: Clock, repeats: int) -> list[float]:
    """Operations a second of one large square product, in 1e9: the peak that can be measured."""
    device, rows = compute.device, _LARGE[compute.device.type]
    left, right = (
        torch.randn(rows, rows, device=device).to(_DTYPES[compute.precision]) for _ in range(2)
    )
    out = left @ right
    found = []
    for _ in range(repeats):
        begin = clock()
        for _ in range(5):
            torch.matmul(left, right, out=out)
        found.append(5 * 2 * rows**3 / (clock() - begin) / 1e9)
    return spread(found, 0)

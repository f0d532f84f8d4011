"""Which operators a step's time goes to, training or scoring, by torch.profiler, and what a GPU could do."""

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.training_work import Scorer, Trainer, Work

SHOWN: Final = 10
_IN_TABLE: Final = 60
# Dense bf16, 1e12 operations a second, from the makers' data sheets; the first name that fits counts.
_DATA_SHEETS: Final = (
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100", 989),
    ("A100", 312),
)


def data_sheet_tflops(device_name: str) -> int | None:
    """A GPU's dense bf16 peak as its maker states it; None for one that is not known here."""
    for name, peak in _DATA_SHEETS:
        if name in device_name:
            return peak
    return None


def profiled(
    work: Work, trainer: Trainer | Scorer, num_steps: int, folder: Path, name: str
) -> dict[str, Any]:
    """Profile some full-window steps one by one, encoding left out.

    Writes `<name>-operators.txt` and `<name>-trace.json.gz` (Chrome's trace form) of the fastest
    step into the folder. Gives the operators with the most time of their own, on the GPU where
    there is one: of each the least of all steps, since what else a machine does only adds.
    """
    on_gpu = trainer.compute.device.type == "cuda"
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    batches = [trainer.compute.placed(work.encode(p, True)) for p in work.plan[:num_steps]]
    _run(trainer, batches[0])
    wall_ms = [_run(trainer, batch) for batch in batches]
    least: dict[str, tuple[float, int]] = {}
    fastest: tuple[float, profile] | None = None
    for batch in batches:
        with profile(activities=_activities(on_gpu)) as recorded:
            _run(trainer, batch)
        # A kernel stands for itself and in the operator that launched it: operators only.
        averages = [e for e in recorded.key_averages() if e.device_type == DeviceType.CPU]
        for event in averages:
            spent = (getattr(event, own), event.count)
            least[event.key] = min(spent, least.get(event.key, spent))
        total = sum(getattr(event, own) for event in averages)
        if fastest is None or total < fastest[0]:
            fastest = (total, recorded)
    assert fastest is not None
    folder.mkdir(parents=True, exist_ok=True)
    table = (
        fastest[1].key_averages().table(sort_by=own, row_limit=_IN_TABLE, max_name_column_width=60)
    )
    (folder / f"{name}-operators.txt").write_text(table)
    fastest[1].export_chrome_trace(str(folder / f"{name}-trace.json.gz"))
    total = sum(spent for spent, _ in least.values())
    ranked = sorted(least.items(), key=lambda pair: -pair[1][0])[:SHOWN]
    return {
        "model": work.model,
        "steps": len(batches),
        "wall_ms": round(float(np.median(wall_ms)), 2),
        "ms_per_step": round(total / 1e3, 2),
        "operators": [
            {"name": key, "calls": count, "ms": round(us / 1e3, 2), "share": round(us / total, 3)}
            for key, (us, count) in ranked
        ],
    }


def _activities(on_gpu: bool) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]


def _run(trainer: Trainer | Scorer, batch: Any) -> float:
    """One step; its milliseconds."""
    begin = time.perf_counter()
    for _ in trainer.stages(batch):
        pass
    if trainer.compute.device.type == "cuda":
        torch.cuda.synchronize(trainer.compute.device)
    return (time.perf_counter() - begin) * 1e3

"""A table out of the cells: numbers with intervals as JSON (`table_text.py` makes Markdown of them).

Whatever cells are there are used: a row says how many of its seeds are finished. Rows are compared
with the base row on the same pages and users. A row that is another by another name has no numbers of
its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from features.history import as_of
from features.spec import DAY_MS
from fintrec.datasets import TrainingSet
from fintrec.experiments import bank_data, judge
from fintrec.experiments.judge import FloatArray, Scope
from fintrec.experiments.rows import TABLES, WAITS, Row, predictions
from fintrec.experiments.setting import CELLS, predictions_path, read_setting
from fintrec.machine import in_words
from fintrec.result_files import read_cells

BASES: Final = {
    "table3": {"pcvr": "forest", "pctr": "clicks_rates"},
    "ablations": {"pcvr": "fintrec", "pctr": "clicks_fintrec"},
    "large": {"pcvr": "forest", "pctr": "clicks_rates"},
    "lengths": {"pcvr": "fintrec"},
}
_WAY: Final = ("base_rates", "foresight")  # what knows no user, and the best honest that we know
_MODEL: Final = "fintrec"  # rows of pCVR are compared with it too: what a row without a part loses
_SCOPES: Final = {"pcvr": ("all", "marketing", "shown"), "pctr": ("shown",)}
_WINDOWS: Final = (1, 5, 50, 120)
RANKS: Final = {"pcvr": "all", "pctr": "shown"}  # the scope that AUROC and ECE are of


def summary(out: Path, table: str) -> dict[str, Any]:
    """All rows of a table with what their finished cells say; rows without any say so."""
    setting = read_setting(out)
    data = bank_data.load(out)
    pages = bank_data.judged(data, setting)
    finished = read_cells(out / CELLS)
    rows: list[dict[str, Any]] = []
    sums: dict[tuple[str, str], dict[str, list[FloatArray]]] = {}
    for row in TABLES[table]:
        scopes = judge.scopes(pages, row.task, data.content_types)
        called = predictions(row, TABLES[table], setting.seeds)
        names = [name for cell, name in called.items() if cell in finished]
        own = names if row.kind != "same" else []
        predicted = [np.load(predictions_path(out, name)) for name in own]
        sums[row.task, row.name] = {
            scope: [judge.loss_sums(one, scopes[scope]) for one in predicted]
            for scope in _SCOPES[row.task]
        }
        rows.append(_row(row, names, predicted, scopes, sums[row.task, row.name], finished))
    for found, row in zip(rows, TABLES[table], strict=True):
        if "log_loss" in found:
            found |= _compared(row, sums, BASES[table][row.task])
    used = {name: finished[name] for found in rows for name in found["cells"] if name in finished}
    return {
        "table": table,
        "setting": setting.to_dict(),
        "judged": _judged(pages),
        "reach_days": _reach(data, pages),
        "base": BASES[table],
        "rows": rows,
        "machines": sorted({in_words(cell["machine"]) for cell in used.values()}),
        "on_gpu": sorted(
            name
            for name, cell in used.items()
            if cell["result"].get("compute", {}).get("device") == "cuda"
        ),
        "dates": sorted({cell["machine"]["date"][:10] for cell in used.values()}),
        "codes": sorted({cell["code"] for cell in used.values()}),
        "cpu_minutes": round(sum(c["result"]["cpu_seconds"] for c in used.values()) / 60, 1),
    }


def _compared(
    row: Row, sums: Mapping[tuple[str, str], dict[str, list[FloatArray]]], base_name: str
) -> dict[str, Any]:
    """A row beside the base row, beside FinTRec, and on the way from the base rates to foresight."""
    found: dict[str, Any] = {}
    main = RANKS[row.task]
    mine, base = sums[row.task, row.name], sums[row.task, base_name]
    if row.name != base_name and base[main]:
        found["below_base"] = {
            scope: judge.loss_change(mine[scope], base[scope]) for scope in mine if base[scope]
        }
        found["verdict"] = judge.verdict(mine[main], base[main])
    model = sums.get((row.task, _MODEL), {}).get(main)
    if model and row.name != _MODEL:
        found["below_model"] = judge.loss_change(mine[main], model)
    ends = [sums.get((row.task, name), {}).get(main) for name in _WAY]
    if ends[0] and ends[1] and row.kind not in ("floor", "beside") and row.name not in _WAY:
        found["way"] = judge.loss_way(mine[main], ends[0], ends[1])
    return found


def _judged(pages: bank_data.Judged) -> dict[str, int]:
    return {
        "pages": len(pages.pages),
        "users": len(np.unique(pages.user)),
        "labels": int(pages.known.sum()),
        "conversions": int((pages.converted & pages.known).sum()),
        "impressions": int((pages.shown >= 0).sum()),
        "clicks": int((pages.clicked & (pages.shown >= 0)).sum()),
    }


def _reach(data: TrainingSet, pages: bank_data.Judged) -> dict[str, float]:
    """Median days from a judged page back to the oldest of its newest interactions, by window."""
    days: dict[int, list[float]] = {window: [] for window in _WINDOWS}
    ends = data.test.end[pages.pages].tolist()
    for user, end, time_ms in zip(pages.user.tolist(), ends, pages.time_ms.tolist(), strict=True):
        times_ms = as_of(data.logs[user], end)["time_ms"]
        for window, found in days.items():
            if len(times_ms):
                found.append((time_ms - int(times_ms[-window:][0])) / DAY_MS)
    return {str(window): round(float(np.median(found)), 2) for window, found in days.items()}


def _row(
    row: Row,
    names: list[str],
    predicted: list[Any],
    scopes: Mapping[str, Scope],
    sums: Mapping[str, list[FloatArray]],
    finished: Mapping[str, Any],
) -> dict[str, Any]:
    """The numbers of a row, where it has some of its own."""
    found: dict[str, Any] = {
        "row": row.name,
        "label": row.label,
        "kind": row.kind,
        "task": row.task,
        "paper": row.paper,
        "note": WAITS if row.kind == "waits" else row.note,
        "of": row.of,
        "cells": names,
    }
    if not predicted:
        return found
    rank = scopes[RANKS[row.task]]
    mean = np.mean(predicted, axis=0)
    found["log_loss"] = {scope: judge.loss_interval(parts) for scope, parts in sums.items()}
    areas = [judge.point_metrics(one, {"all": rank})["auroc_all"] for one in predicted]
    found["auroc"] = {**judge.auroc_interval(predicted[0], rank), "seeds": areas}
    found["ece"] = judge.ece_interval(predicted[0], rank)
    found["of_mean_of_seeds"] = judge.point_metrics(mean, dict(scopes))
    results = [finished[name]["result"] for name in names if name in finished]
    found["cpu_seconds"] = [result["cpu_seconds"] for result in results]
    found["training"] = [result["training"] for result in results if "training" in result]
    return found

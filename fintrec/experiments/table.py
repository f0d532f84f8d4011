"""A table out of the cells: numbers with intervals as JSON, and as Markdown for the documents.

Whatever cells are there are used: a row says how many of its seeds are finished. Rows are compared
with the base row on the same pages and users.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from features.history import as_of
from features.spec import DAY_MS
from fintrec.datasets import TrainingSet
from fintrec.experiments import bank_data, judge
from fintrec.experiments.judge import FloatArray, Scope
from fintrec.experiments.rows import TABLES, WAITS, Cell, Row, calibrated
from fintrec.experiments.setting import CELLS, predictions_path, read_setting
from fintrec.machine import in_words
from fintrec.result_files import markdown_table, read_cells

BASES: Final = {
    "table3": {"pcvr": "forest", "pctr": "clicks_rates"},
    "ablations": {"pcvr": "fintrec", "pctr": "clicks_fintrec"},
    "large": {"pcvr": "forest", "pctr": "clicks_rates"},
}
_MODEL: Final = "fintrec"  # rows of pCVR are compared with it too: what a row without a part loses
_SCOPES: Final = {"pcvr": ("all", "marketing", "shown"), "pctr": ("shown",)}
_WINDOWS: Final = (1, 5, 50, 120)
_RANKS: Final = {"pcvr": "all", "pctr": "shown"}  # the scope that AUROC and ECE are of


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
        names = _finished(row, TABLES[table], setting.seeds, finished)
        predicted = [np.load(predictions_path(out, name)) for name in names]
        sums[row.task, row.name] = {
            scope: [judge.loss_sums(one, scopes[scope]) for one in predicted]
            for scope in _SCOPES[row.task]
        }
        rows.append(_row(row, names, predicted, scopes, sums[row.task, row.name], finished))
    for found, row in zip(rows, TABLES[table], strict=True):
        base = sums[row.task, BASES[table][row.task]]
        mine = sums[row.task, row.name]
        if found["cells"] and row.name != BASES[table][row.task]:
            found["below_base"] = {
                scope: judge.loss_change(mine[scope], base[scope]) for scope in mine if base[scope]
            }
        model = sums.get((row.task, _MODEL))
        if model and model["all"] and found["cells"] and row.name != _MODEL and row.kind != "same":
            found["below_model"] = judge.loss_change(mine["all"], model["all"])
    used = {name: finished[name] for found in rows for name in found["cells"] if name in finished}
    return {
        "table": table,
        "setting": setting.to_dict(),
        "judged": _judged(pages),
        "reach_days": _reach(data, pages),
        "base": BASES[table],
        "rows": rows,
        "machines": sorted({in_words(cell["machine"]) for cell in used.values()}),
        "dates": sorted({cell["machine"]["date"][:10] for cell in used.values()}),
        "codes": sorted({cell["code"] for cell in used.values()}),
        "cpu_minutes": round(sum(c["result"]["cpu_seconds"] for c in used.values()) / 60, 1),
    }


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


def _finished(
    row: Row, rows: tuple[Row, ...], seeds: tuple[int, ...], finished: Mapping[str, Any]
) -> list[str]:
    """Names of the finished predictions of a row, seed by seed."""
    if row.kind == "waits":
        return []
    if row.kind == "beside":
        return [row.name] if row.of in finished else []
    own = next(r for r in rows if r.name == row.of) if row.kind in ("same", "calibrated") else row
    names = [name for name in dict.fromkeys(Cell(own, s).name for s in seeds) if name in finished]
    return [calibrated(name) for name in names] if row.kind == "calibrated" else names


def _row(
    row: Row,
    names: list[str],
    predicted: list[Any],
    scopes: Mapping[str, Scope],
    sums: Mapping[str, list[FloatArray]],
    finished: Mapping[str, Any],
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "row": row.name,
        "label": row.label,
        "kind": row.kind,
        "task": row.task,
        "paper": row.paper,
        "note": WAITS if row.kind == "waits" else row.note,
        "cells": names,
    }
    if not names:
        return found
    rank = scopes[_RANKS[row.task]]
    mean = np.mean(predicted, axis=0)
    found["log_loss"] = {scope: judge.loss_interval(parts) for scope, parts in sums.items()}
    if row.kind != "same":
        areas = [judge.point_metrics(one, {"all": rank})["auroc_all"] for one in predicted]
        found["auroc"] = {**judge.auroc_interval(predicted[0], rank), "seeds": areas}
        found["ece"] = judge.ece_interval(predicted[0], rank)
        found["of_mean_of_seeds"] = judge.point_metrics(mean, dict(scopes))
    results = [finished[name]["result"] for name in names if name in finished]
    found["cpu_seconds"] = [result["cpu_seconds"] for result in results]
    found["training"] = [result["training"] for result in results if "training" in result]
    return found


def markdown(found: Mapping[str, Any], command: str) -> str:
    """The table for a document."""
    tasks = [task for task in ("pcvr", "pctr") if any(r["task"] == task for r in found["rows"])]
    parts = [_introduction(found, command)]
    for task in tasks:
        rows = [row for row in found["rows"] if row["task"] == task]
        parts += ["", *markdown_table(*_columns(rows, task, found["base"][task], found["table"]))]
    return "\n".join(parts)


def _introduction(found: Mapping[str, Any], command: str) -> str:
    judged, setting = found["judged"], found["setting"]
    return (
        f"Made by `{command}` on {' and '.join(found['dates']) or 'no day'}, "
        f"{' / '.join(found['machines']) or 'no machine'}, {found['cpu_minutes']:g} minutes of CPU "
        f"time. {judged['users']:,} users, {judged['pages']:,} test pages of a bank of size "
        f"`{setting['size']}`, seed {setting['bank_seed']}: {judged['labels']:,} labels with "
        f"{judged['conversions']:,} conversions, {judged['impressions']:,} impressions with "
        f"{judged['clicks']:,} clicks. Before a judged page the newest "
        f"{' / '.join(found['reach_days'])} interactions reach back "
        f"{' / '.join(f'{days:g}' for days in found['reach_days'].values())} days (median). In "
        "brackets 95 % intervals over users."
    )


def _columns(
    rows: list[dict[str, Any]], task: str, base: str, table: str
) -> tuple[list[str], Iterator[list[str]]]:
    of_table3 = "RF" if base == "forest" else "the base rate"
    compared = "the default" if table == "ablations" else of_table3
    names = ["model", "seeds", "log loss" if task == "pcvr" else "log loss of clicks"]
    names += [f"below {compared}"]
    if task == "pcvr":
        names += ["marketing items", f"below {compared}", "items shown"]
    names += ["AUROC", "calibration error"]
    if table == "table3" and task == "pcvr":
        names += ["below FinTRec", "paper"]
    return names, (_line(row, task, names) for row in rows)


def _line(row: Mapping[str, Any], task: str, names: list[str]) -> list[str]:
    if not row["cells"]:
        line = [row["label"], "0", row["note"] or "not run"] + [""] * (len(names) - 3)
    else:
        loss, below = row["log_loss"], row.get("below_base", {})
        main = _RANKS[task]
        label = row["label"] + (f" ({row['note']})" if row["note"] else "")
        line = [label, str(len(row["cells"])), _loss(loss[main]), _share(below.get(main))]
        if task == "pcvr":
            line += [_loss(loss["marketing"]), _share(below.get("marketing"))]
            line += [_loss(loss["shown"])]
        line += [_short(row.get("auroc")), _short(row.get("ece"), 5)]
        line += [""] * (len(names) - len(line))
    if names[-1] == "paper":
        line[-2] = _share(row["below_model"]) if "below_model" in row else ""
        line[-1] = "" if row["paper"] is None else f"{row['paper']:.4f}"
    return line


def _loss(interval: Mapping[str, Any]) -> str:
    text = f"{interval['value']:.5f} ({interval['low']:.5f} to {interval['high']:.5f})"
    seeds = interval["seeds"]
    if len(seeds) > 1:
        text += f", seeds {min(seeds):.5f} to {max(seeds):.5f}"
    return text


def _share(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return "-"
    value, low, high = (f"{100 * interval[k]:.1f}" for k in ("value", "low", "high"))
    return f"{value} % ({low} to {high})"


def _short(interval: Mapping[str, Any] | None, digits: int = 4) -> str:
    return "" if interval is None else f"{interval['value']:.{digits}f}"

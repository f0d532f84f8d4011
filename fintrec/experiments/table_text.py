"""A table's numbers as Markdown for the documents."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from fintrec.experiments.table import RANKS
from fintrec.result_files import markdown_table

_AGAINST: Final = {"forest": "RF", "clicks_rates": "the base rate"}  # a base row, else the default
Text = Callable[[Mapping[str, Any]], str]


def markdown(found: Mapping[str, Any], command: str) -> str:
    """The table for a document."""
    tasks = [task for task in ("pcvr", "pctr") if any(r["task"] == task for r in found["rows"])]
    labels = {row["row"]: row["label"] for row in found["rows"]}
    parts = [_introduction(found, command)]
    for task in tasks:
        rows = [row for row in found["rows"] if row["task"] == task]
        columns = _columns(task, found["base"][task], found["table"])
        has_paper = any(row["paper"] is not None for row in rows)
        names = ["model", "seeds", *(name for name, _ in columns), *(["paper"] * has_paper)]
        lines = (_line(row, columns, labels, has_paper) for row in rows)
        parts += ["", *markdown_table(names, lines)]
    return "\n".join(parts)


def _introduction(found: Mapping[str, Any], command: str) -> str:
    judged, setting = found["judged"], found["setting"]
    return (
        f"Made by `{command}` on {' and '.join(found['dates']) or 'no day'}, "
        f"{' / '.join(found['machines']) or 'no machine'}, {found['cpu_minutes']:g} minutes of CPU "
        f"time, code {', '.join(found['codes']) or 'none'}. {judged['users']:,} users, "
        f"{judged['pages']:,} test pages of a bank of size "
        f"`{setting['size']}`, seed {setting['bank_seed']}: {judged['labels']:,} labels with "
        f"{judged['conversions']:,} conversions, {judged['impressions']:,} impressions with "
        f"{judged['clicks']:,} clicks. Before a judged page the newest "
        f"{' / '.join(found['reach_days'])} interactions reach back "
        f"{' / '.join(f'{days:g}' for days in found['reach_days'].values())} days (median). In "
        "brackets 95 % intervals over users."
        + (f" On a GPU, in bf16: {', '.join(found['on_gpu'])}." if found["on_gpu"] else "")
    )


def _columns(task: str, base: str, table: str) -> list[tuple[str, Text]]:
    """Columns of numbers: their names, and what a row with numbers has there."""
    main = RANKS[task]
    below = f"below {_AGAINST.get(base, 'the default')}"
    found = [
        ("log loss" if task == "pcvr" else "log loss of clicks", _loss_of(main)),
        (below, _below_of(main)),
    ]
    if table != "table3":
        found.append(("verdict", lambda row: str(row.get("verdict", "-"))))
    if task == "pcvr":
        found += [
            ("marketing items", _loss_of("marketing")),
            (below, _below_of("marketing")),
            ("items shown", _loss_of("shown")),
        ]
    found += [
        ("AUROC", lambda row: f"{row['auroc']['value']:.4f}"),
        ("calibration error", lambda row: f"{row['ece']['value']:.5f}"),
    ]
    if table == "table3" and task == "pcvr":
        found += [
            ("below FinTRec", lambda row: _share(row.get("below_model"))),
            ("way from base rates to foresight", lambda row: _share(row.get("way"))),
        ]
    return found


def _line(
    row: Mapping[str, Any],
    columns: list[tuple[str, Text]],
    labels: Mapping[str, str],
    has_paper: bool,
) -> list[str]:
    note = f" ({row['note']})" if row["note"] and row["kind"] != "waits" else ""
    line = [row["label"] + note, str(len(row["cells"]))]
    if "log_loss" in row:
        line += [text(row) for _, text in columns]
    else:
        said = row["note"] if row["kind"] == "waits" else "not run"
        line += [f"as {labels[row['of']]}" if row["cells"] else said]
        line += [""] * (len(columns) - 1)
    if has_paper:
        line.append("" if row["paper"] is None else f"{row['paper']:.4f}")
    return line


def _loss_of(scope: str) -> Text:
    return lambda row: _loss(row["log_loss"][scope])


def _below_of(scope: str) -> Text:
    return lambda row: _share(row.get("below_base", {}).get(scope))


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

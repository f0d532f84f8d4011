"""A slate as people read it: a table of items, then what it was made of."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def slate_table(
    slate: Mapping[str, Any], title: str = "", moved: Mapping[str, str] | None = None
) -> Group:
    """Items with their probabilities, values and ranking scores; ages and latencies below.

    `moved` gives a note for an item, shown in a column of its own.
    """
    table = Table(title=title or f"slate for {slate['user_id']}", title_justify="left")
    for name in ("#", "item", "pCTR", "pCVR", "v(i) $", "us(i)", "RS"):
        table.add_column(name, justify="left" if name == "item" else "right")
    if moved is not None:
        table.add_column("before")
    for item in slate["items"]:
        row = [
            str(item["position"]),
            item["item_id"] + (" *" if item.get("scored_by_prior") else ""),
            f"{item['pctr']:.4f}",
            f"{item['pcvr']:.5f}",
            f"{item['value_usd']:.0f}",
            f"{item['urgency']:.2f}",
            f"{item['ranking_score']:.4f}",
        ]
        table.add_row(*row, *([] if moved is None else [moved.get(item["item_id"], "")]))
    return Group(table, Text(_made_of(slate), style="dim"))


def _made_of(slate: Mapping[str, Any]) -> str:
    policy, models = slate["policy"], slate["models"]
    reasons: dict[str, int] = {}
    for suppressed in slate["suppressed"]:
        reasons[suppressed["reason"]] = reasons.get(suppressed["reason"], 0) + 1
    lines = [
        f"tier {slate['tier']}"
        + (f" ({', '.join(slate['flags'])})" if slate.get("flags") else "")
        + f"   models pctr {models['pctr'] or '-'}, pcvr {models['pcvr'] or '-'}"
        + f"   policy {policy['version']}: us {policy['lambda_us']:g}, "
        f"ctr {policy['lambda_ctr']:g}, cvr {policy['lambda_cvr']:g}",
        "feature ages  "
        + "  ".join(f"{name} {_age(age)}" for name, age in slate["feature_ages_ms"].items()),
        "latency ms    " + "  ".join(f"{hop} {ms:.1f}" for hop, ms in slate["latency_ms"].items()),
    ]
    if reasons:
        lines.append("suppressed    " + "  ".join(f"{r} {n}" for r, n in sorted(reasons.items())))
    return "\n".join(lines)


def _age(age_ms: int | None) -> str:
    if age_ms is None:
        return "none"
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if age_ms >= size:
            return f"{age_ms / size:.1f} {unit}"
    return f"{age_ms} ms"

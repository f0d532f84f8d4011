"""The text of a model card, made of `card.json` alone: Markdown that a person reads."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fintrec.card_truth import truth_lines
from fintrec.machine import in_words
from fintrec.result_files import markdown_table

LABELS: Final = {
    "pctr_log_loss": "click, log loss",
    "pctr_auroc": "click, AUROC",
    "pctr_calibration_error": "click, calibration error",
    "pctr_next_item_log_loss": "next clicked item, log loss",
    "pctr_recall_at_1": "next clicked item, recall@1",
    "pctr_recall_at_5": "next clicked item, recall@5",
    "pcvr_log_loss": "conversion, log loss",
    "pcvr_auroc": "conversion, AUROC",
    "pcvr_calibration_error": "conversion, calibration error",
}
_OF_MODEL: Final = {"pctr": "Clicks on shown items (pCTR)", "pcvr": "Conversions (pCVR)"}
_COSTS: Final = {
    "seconds": "seconds",
    "epochs": "epochs",
    "steps": "steps",
    "best_epoch": "best epoch",
    "tokens_per_second": "tokens/s",
}
Card = Mapping[str, Any]


def card_text(card: Card) -> str:
    """The whole card as Markdown."""
    parts = (
        [f"# Model card: {card['recipe']['name']}", "", _summary(card)],
        ["## Intended use", "", *intended_use()],
        ["## Limits", "", *limits(card)],
        ["## Data", "", *_data(card)],
        ["## Metrics", "", *_metrics(card)],
        ["## Calibration", "", *_calibration(card)],
        *(
            [["## Calibration against the hidden truth", "", *truth_lines(card["hidden_truth"])]]
            if "hidden_truth" in card
            else []
        ),
        ["## Fairness", "", *_fairness(card)],
        ["## Training", "", *_training(card)],
        ["## Hashes", "", *_hashes(card)],
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def interval_text(found: Mapping[str, Any] | None, digits: int = 4) -> str:
    """`0.1234 (0.1200 to 0.1270)`; `-` for none."""
    if found is None:
        return "-"
    return f"{found['value']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def date_of(time_ms: int | None) -> str:
    """An instant as a date and time, UTC; `-` for none."""
    if time_ms is None:
        return "-"
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _summary(card: Card) -> str:
    sizes = " and ".join(
        f"{name} ({m['parameters']:,} weights)" for name, m in card["models"].items()
    )
    model = card["recipe"]["model"]
    return (
        f"Made by `fintrec train`, {card['made_at']}. {sizes}; {model['num_layers']} layers, "
        f"width {model['d_model']}, history of {model['window']} events, "
        f"{card['data']['items']} items."
    )


def intended_use() -> list[str]:
    """What these models are for, and what they are not for."""
    return [
        "- Ranking of a bank's marketing, servicing and third-party items for a known user on its "
        "digital surfaces, by `fintrec`'s ranking score.",
        "- pCTR is the probability of a click on an item that is shown; pCVR that an item's goal is "
        "reached within its window after a page, whatever the cause.",
        "- Not for decisions on credit, price or access. Not for users who opted out of marketing.",
    ]


def limits(card: Card) -> list[str]:
    """What a reader must know before trusting the numbers, as far as the card itself tells."""
    told = []
    if card["data"]["log"].get("made_by") == "fintrec simulate":
        told.append("- Trained and judged on a simulated bank: it says nothing about real users.")
    if len(card["models"]) < 2:
        told.append(f"- Holds {', '.join(card['models'])} alone and cannot be served.")
    told.append(
        "- Knows the items and pages of its vocabulary; others are scored by priors until it is "
        f"trained again. The newest training page is of {_last_day(card)}."
    )
    test = card["judged"]["test"]
    if test["pages"] < test["of_pages"]:
        told.append(
            f"- Judged on {test['pages']:,} of {test['of_pages']:,} test pages, drawn at random."
        )
    if not test["conversions"]:
        told.append("- No test page has a complete window with a conversion: pCVR is not judged.")
    if card["fairness"]["missing"]:
        told.append(f"- Slices by {', '.join(card['fairness']['missing'])} are not available.")
    return told


def _last_day(card: Card) -> str:
    return date_of(card["data"]["periods"]["train"]["last_ms"]).partition(" ")[0]


def _data(card: Card) -> list[str]:
    data = card["data"]
    log = data["log"]
    made = ", ".join(
        f"{name.replace('_', ' ')} {log[name]}"
        for name in ("made_by", "size", "seed")
        if name in log
    )
    span = ""
    if {"start_ms", "end_ms"} <= set(log):
        span = f", events from {date_of(log['start_ms'])} to {date_of(log['end_ms'])}"
    lines = [
        f"{data['kind']} `{data['name']}`" + (f" ({made})" if made else "") + f"{span}; times are "
        "UTC. Pages, and what came of them:",
        "",
    ]
    columns = ("pages", "users", "impressions", "clicks", "conversions")
    rows = [
        [
            name,
            date_of(found["first_ms"]),
            date_of(found["last_ms"]),
            *(f"{found[c]:,}" for c in columns),
        ]
        for name, found in data["periods"].items()
    ]
    lines += markdown_table(("period", "first page", "last page", *columns), rows)
    left_out = ", ".join(
        f"{name.replace('_', ' ')} {count:,}" for name, count in data["exclusions"].items() if count
    )
    return [*lines, "", f"Left out: {left_out or 'nothing'}."]


def _metrics(card: Card) -> list[str]:
    judged = card["judged"]
    rows = [
        [label, *(interval_text(card["metrics"][period].get(name)) for period in judged)]
        for name, label in LABELS.items()
        if any(name in card["metrics"][period] for period in judged)
    ]
    for label, part, whole in (
        ("click, log loss of the constant rate", "clicks", "impressions"),
        ("conversion, log loss of the constant rate", "conversions", "labels"),
    ):
        losses = [constant_log_loss(found[part], found[whole]) for found in judged.values()]
        rows.append([label, *("-" if loss is None else f"{loss:.4f}" for loss in losses)])
    counts = [
        f"- {period}: {found['pages']:,} pages of {found['users']:,} users, "
        f"{found['impressions']:,} impressions with {found['clicks']:,} clicks, "
        f"{found['labels']:,} conversion labels with {found['conversions']:,} positives"
        for period, found in judged.items()
    ]
    lines = markdown_table(("", *judged), rows)
    told = (
        "In brackets the 95 % interval, by resampling users. Validation chose the epoch and the "
        "calibration, so the test numbers are those to quote."
    )
    return [*lines, "", told, "", *counts]


def constant_log_loss(positives: int, rows: int) -> float | None:
    """Log loss of who predicts the observed rate everywhere; None without both labels."""
    if not 0 < positives < rows:
        return None
    rate = positives / rows
    return -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)


def _calibration(card: Card) -> list[str]:
    told = card["calibration"]
    lines = [f"pCTR by {told['kind']} (`{told['version']}`), fitted on validation; pCVR has none."]
    if isinstance(told["choice"], str):
        lines.append(told["choice"])
    for name, rows in told["reliability"].items():
        cells = [
            [
                f"{r['rows']:,}",
                f"{r['positives']:,}",
                f"{r['predicted']:.6f}",
                f"{r['observed']:.6f}",
            ]
            for r in rows
        ]
        lines += ["", f"{_OF_MODEL[name]}, test, ten groups of equal size by prediction:", ""]
        lines += markdown_table(("examples", "positives", "predicted", "observed"), cells)
    return lines


def _fairness(card: Card) -> list[str]:
    told = card["fairness"]
    lines = [
        "Predicted minus observed rate of groups on test, with its 95 % interval. A group whose "
        "interval does not hold 0 is flagged; of twenty that fit, one is flagged by chance. One of "
        f"fewer than {told['min_users']} users or {told['min_positives']} positives is too small for a verdict. "
        "Age is no feature.",
    ]
    lines += [f"Slices by {name}: not available, the data have none." for name in told["missing"]]
    for name, found in told["slices"].items():
        lines += ["", f"{_OF_MODEL[name]}:", ""]
        lines += markdown_table(
            (
                "",
                "group",
                "examples",
                "users",
                "positives",
                "log loss",
                "predicted",
                "observed",
                "gap",
                "",
            ),
            map(_slice_cells, found),
        )
    return lines


def _slice_cells(row: Mapping[str, Any]) -> list[str]:
    verdict = row["verdict"]
    flagged = f"**{verdict}**" if verdict.startswith("predicts") else verdict
    return [
        row["attribute"],
        row["group"],
        f"{row['rows']:,}",
        f"{row['users']:,}",
        f"{row['positives']:,}",
        interval_text(row["log_loss"]),
        f"{row['predicted']:.5f}",
        f"{row['observed']:.5f}",
        interval_text(row["gap"], 5),
        flagged,
    ]


def _training(card: Card) -> list[str]:
    cost = card["cost"]
    lines = [
        f"- {name}: "
        + ", ".join(f"{label} {told[key]:,}" for key, label in _COSTS.items() if key in told)
        for name, told in cost["training"].items()
    ]
    seconds = sum(told.get("seconds", 0) for told in cost["training"].values())
    model, settings = (
        ", ".join(f"{name} {value}" for name, value in card["recipe"][part].items())
        for part in ("model", "training")
    )
    return [
        *lines,
        f"- in all {seconds:,.0f} s on {in_words(cost['machine'])}; peak memory {cost['peak_memory_mb']:,} MB",
        f"- recipe `{card['recipe']['name']}`: {settings}",
        f"- model: {model}",
    ]


def _hashes(card: Card) -> list[str]:
    rows = [[name.replace("_", " "), f"`{value}`"] for name, value in card["hashes"].items()]
    rows += [[f"{name} weights", f"`{m['weights_sha256']}`"] for name, m in card["models"].items()]
    rows.append(["data, every row and label (BLAKE2b)", f"`{card['data']['hash']}`"])
    return markdown_table(("of", "SHA-256, or version"), rows)

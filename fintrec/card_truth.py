"""The section of a model card that holds it against the hidden truth of a simulated log."""

from collections.abc import Mapping
from typing import Any, Final

from fintrec.result_files import markdown_table

_ROWS: Final = (
    ("examples", "examples", 0),
    ("mean predicted", "mean_predicted", 4),
    ("mean of the truth", "mean_true", 4),
    ("observed rate, complete labels", "observed", 4),
    ("mean absolute error", "mean_absolute_error", 4),
    ("of the constant rate", "mean_absolute_error_of_constant", 4),
    ("expected log loss", "expected_log_loss", 4),
    ("of the truth itself", "entropy", 4),
    ("of the constant rate", "expected_log_loss_of_constant", 4),
    ("share explained", "explained", 3),
    ("slope", "slope", 2),
    ("intercept", "intercept", 2),
)


def truth_lines(found: Mapping[str, Any]) -> list[str]:
    """Totals of each question, then clicks by tenths of the prediction; Markdown lines."""
    columns = _columns(found)
    rows = [
        [label, *(_cell(one.get(name), digits) for one in columns.values())]
        for label, name, digits in _ROWS
    ]
    lines = [
        f"Judged by `fintrec models judge`, {found['made_at']}, code `{found['code']}`, on "
        f"{found['pages']:,} test pages by the true probabilities behind log `{found['log']}`. "
        "Training opens no file of the truth.",
        "",
        *markdown_table(("", *columns), rows),
        "",
        "The truth of a conversion of any cause is foresight, the best predictor that is not told "
        "what the page will show; pCVR is not told either. A share explained of 1 is the truth, 0 "
        "the constant rate. A slope below 1 is overconfident.",
    ]
    if "clicks" in found and found["clicks"]["examples"]:
        tenths = [
            [str(number), f"{one['examples']:,}", _cell(one["predicted"], 4), _cell(one["true"], 4)]
            for number, one in enumerate(found["clicks"]["by_prediction"], start=1)
        ]
        lines += ["", "Clicks, ten groups of equal size by prediction:", ""]
        lines += markdown_table(("", "examples", "predicted", "true"), tenths)
    return lines


def _columns(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    goals = found.get("conversions", {})
    told = {
        "click, given shown": found.get("clicks"),
        "conversion caused by the exposure": goals.get("shown_caused"),
        "conversion of any cause, shown items": goals.get("shown_any_cause"),
        "conversion of any cause, all items": goals.get("all_any_cause"),
    }
    return {name: one for name, one in told.items() if one is not None}


def _cell(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"

"""What came out of a simulated bank, as a section of docs/simulated_bank.md with its plots.

python -m fintrec.bank.report LOG_DIR --out docs [--days 14] [--label-days 7]
"""

import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from features.spec import DAY_MS
from fintrec.bank import marginals, oracle, plots
from fintrec.bank.marginals import Found

PAGE: Final = "simulated_bank.md"
IMAGES: Final = "images"
_BLOCK: Final = re.compile(r"<!-- bank:report -->\n.*<!-- /bank:report -->\n", re.DOTALL)
_CAPTIONS: Final[Mapping[str, str]] = {
    name: (function.__doc__ or "").strip().rstrip(".") for name, function in plots.PLOTS.items()
}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def oracle_rows(scores: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row a predictor."""
    named = {
        "clicks: true probabilities": scores["clicks"],
        "conversions caused by the exposure: true probabilities": scores["caused"],
    }
    for items, parts in scores["any_cause"].items():
        for who, score in parts.items():
            named[f"conversions of any cause, {items}: {who}"] = score
    columns = ("examples", "positives", "log_loss", "expected_log_loss", "auroc")
    return [
        (
            name,
            *(_number(score.get(column)) for column in columns),
            _number(score.get("constant_log_loss")),
        )
        for name, score in named.items()
    ]


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.5f}"


def section(found: Found, scores: Mapping[str, Any], command: str) -> str:
    """The report as Markdown."""
    manifest = found.manifest
    parts = [
        f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d} from a log of size "
        f"{manifest['size']}, seed {manifest['seed']}, {manifest['num_users']:,} users "
        f"({platform.machine()}, Python {platform.python_version()}).\n",
        "### Beside the paper's description\n",
        table(("", "paper", "this bank"), [*marginals.against_the_paper(found)]),
    ]
    for title, rows in marginals.TABLES.items():
        parts += [f"### {title}\n", table(("", ""), [*rows(found)])]
    parts += [
        "### The best possible scores\n",
        table(
            (
                "predictor",
                "examples",
                "positives",
                "log loss",
                "expected",
                "AUROC",
                "log loss of the constant rate",
            ),
            oracle_rows(scores),
        ),
        "### Plots\n",
        *(f"![{_CAPTIONS[name]}]({IMAGES}/bank_{name}.svg)\n" for name in plots.PLOTS),
    ]
    return "\n".join(parts)


def insert(page: str, text: str) -> str:
    """The page with its report replaced; ValueError where it has no place for one."""
    if not _BLOCK.search(page):
        raise ValueError("the page has no lines <!-- bank:report --> and <!-- /bank:report -->")
    block = f"<!-- bank:report -->\n{text}<!-- /bank:report -->\n"
    return _BLOCK.sub(lambda _: block, page)


@click.command()
@click.argument("log_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
@click.option("--days", default=14.0, show_default=True, help="Newest days that are scored.")
@click.option("--label-days", default=7.0, show_default=True, help="Attribution windows at most.")
def main(log_dir: Path, out: Path, days: float, label_days: float) -> None:
    """Count, score and plot LOG_DIR; write OUT/images/bank_*.svg and the page's section."""
    found = marginals.read(log_dir)
    plots.draw(found, out / IMAGES)
    end_ms = found.manifest["end_ms"]
    scores = oracle.judge(log_dir, end_ms - int(days * DAY_MS), end_ms, label_days)
    command = f"python -m fintrec.bank.report LOG_DIR --days {days:g} --label-days {label_days:g}"
    page = out / PAGE
    page.write_text(insert(page.read_text(), section(found, scores, command)))
    click.echo(f"{page} and {out / IMAGES}/bank_*.svg")


if __name__ == "__main__":
    main()

"""`fintrec simulate`: write the log of a simulated bank."""

from datetime import UTC, datetime
from pathlib import Path

import click


@click.command()
@click.option(
    "--size",
    type=click.Choice(["tiny", "demo", "small"]),
    default="tiny",
    show_default=True,
    help="How many users and days.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="LOG_DIR to write: new or empty.",
)
@click.option(
    "--end",
    default=None,
    metavar="ISO",
    help="Instant where the log ends, such as 2026-01-31T12:00:00Z [default: now].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def simulate(size: str, seed: int, out: Path, end: str | None, as_json: bool) -> None:
    """Simulate a bank and write its log to LOG_DIR (docs/data_layout.md).

    The same size, seed and end write the same bytes.
    """
    from features.clock import SystemClock
    from fintrec.bank.simulate import SIZES
    from fintrec.bank.simulate import simulate as run

    end_ms = SystemClock().now_ms() if end is None else to_ms(end)
    try:
        done = run(SIZES[size], seed, end_ms, out)
    except ValueError as refused:
        raise click.BadParameter(str(refused), param_hint="--out") from refused
    per_second = round(done.num_events / done.seconds)
    if as_json:
        import orjson

        found = {**done.manifest, "seconds": done.seconds, "events_per_second": per_second}
        click.echo(orjson.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{out}: size {size}, seed {seed}")
    table.add_column("table")
    table.add_column("rows", justify="right")
    for name, rows in done.manifest["rows"].items():
        table.add_row(name, f"{rows:,}")
    console = Console()
    console.print(table)
    console.print(f"{done.num_events:,} events in {done.seconds:.1f} s, {per_second:,} a second")


def to_ms(text: str) -> int:
    """An ISO 8601 instant in milliseconds; without an offset it means UTC."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as refused:
        raise click.BadParameter(
            f"{text!r} is not ISO 8601, such as 2026-01-31T12:00:00Z"
        ) from refused
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return int(instant.timestamp() * 1000)

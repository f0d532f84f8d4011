"""`fintrec simulate`: write the log of a simulated bank."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fintrec.bank.simulate import BankSize, SimulatedLog


@click.command()
@click.option(
    "--size",
    type=click.Choice(["tiny", "demo", "small", "medium", "large"]),
    default="tiny",
    show_default=True,
    help="How many users and days (docs/simulated_bank.md).",
)
@click.option("--users", type=click.IntRange(1), default=None, help="Another number of users.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="LOG_DIR to write: new or empty. The hidden truth goes to LOG_DIR.truth beside it.",
)
@click.option(
    "--end",
    default=None,
    metavar="ISO",
    help="Instant where the log ends, such as 2026-01-31T12:00:00Z [default: now].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def simulate(
    size: str, users: int | None, seed: int, out: Path, end: str | None, as_json: bool
) -> None:
    """Simulate a bank and write its log to LOG_DIR (docs/data_layout.md).

    The same size, users, seed and end write the same bytes. Size large is only extrapolated.
    """
    from rich.console import Console

    from features.clock import SystemClock
    from fintrec.bank.simulate import MAX_USERS, SIZES, extrapolation, scaled

    bank = SIZES[size] if users is None else scaled(SIZES[size], users)
    if bank.num_users > MAX_USERS:
        raise click.UsageError(
            f"{bank.num_users:,} users are more than the {MAX_USERS:,} that one machine plays: "
            + extrapolation(bank)
        )
    console = Console()
    end_ms = SystemClock().now_ms() if end is None else to_ms(end)
    try:
        done = _played(bank, seed, end_ms, out)
    except ValueError as refused:
        raise click.BadParameter(str(refused), param_hint="--out") from refused
    if as_json:
        import orjson

        click.echo(orjson.dumps({**done.manifest, **done.figures()}))
        return
    from rich.table import Table

    table = Table(title=f"{out}: size {size}, seed {seed}")
    table.add_column("table")
    table.add_column("rows", justify="right")
    for name, rows in done.manifest["rows"].items():
        table.add_row(name, f"{rows:,}")
    console.print(table)
    figures = done.figures()
    console.print(
        f"{done.num_events:,} events in {done.seconds:.1f} s, "
        f"{figures['events_per_second']:,} a second; {figures['bytes_per_user']:,} bytes a user "
        f"and {figures['truth_bytes_per_user']:,} of hidden truth; "
        f"peak memory {figures['peak_memory_mb']:,} MB"
    )


def _played(bank: "BankSize", seed: int, end_ms: int, out: Path) -> "SimulatedLog":
    """Simulate with a progress bar on stderr where there is more than one chunk."""
    from rich.console import Console
    from rich.progress import Progress

    from fintrec.bank.simulate import simulate as run

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("users", total=bank.num_users)

        def heard(done: int, events: int) -> None:
            users = min(done * bank.chunk_users, bank.num_users)
            progress.update(task, completed=users, description=f"{events:,} events, users")

        return run(bank, seed, end_ms, out, heard)


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

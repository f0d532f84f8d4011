"""`fintrec dataset`: logs of other sources in, training sets out, and what is in them."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from features.errors import FintrecError

_LOG_DIR = click.argument(
    "log_dir", metavar="LOG_DIR", type=click.Path(path_type=Path, exists=True, file_okay=False)
)


@click.group()
def dataset() -> None:
    """Make training sets out of a log, point in time.

    From an empty folder to a training set:

    \b
      fintrec simulate --size demo --out bank
      fintrec dataset build bank --out training_set
      fintrec dataset report training_set

    `fintrec train` takes either folder. docs/data_layout.md says what is in them.
    """


@dataset.command()
@_LOG_DIR
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DATASET_DIR",
    help="Data set to write: new or empty.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "spark"]),
    default="local",
    show_default=True,
    help="One process, or Spark: SPARK_MASTER says which, a local one without it.",
)
@click.option(
    "--split",
    type=click.Choice(["demo", "paper"]),
    default="demo",
    show_default=True,
    help="Where the configuration starts: 4 and 8 last days and windows of at most 7 days, "
    "or the paper's 90 / 7 / 7 with the items' own windows.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file with fields of the configuration to change: docs/data_layout.md.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def build(
    log_dir: Path, out: Path, engine: str, split: str, config_file: Path | None, as_json: bool
) -> None:
    """Build the training set of LOG_DIR on disk, a shard of users at a time.

    A log that is not as documented is one line that names file, row and expectation.
    """
    from fintrec import datasets

    config = datasets.demo() if split == "demo" else datasets.paper()
    if config_file is not None:
        config = datasets.read_config(config_file, config)
    with _steps() as step:
        try:
            datasets.build_dataset(log_dir, out, config, engine, step)
        except ValueError as refused:
            raise click.UsageError(str(refused)) from refused
    _show(out, as_json)


@dataset.command()
@click.argument(
    "dataset_dir",
    metavar="DATASET_DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, every item in it.")
def report(dataset_dir: Path, as_json: bool) -> None:
    """Say what a data set holds: rows, positives, conversions, and every exclusion's count."""
    _show(dataset_dir, as_json)


@dataset.command(name="import")
@click.argument("name", metavar="NAME")
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="LOG_DIR",
    help="Log to write: new or empty.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def import_(name: str, source: Path, out: Path, as_json: bool) -> None:
    """Turn a public or own data set into a log: NAME says of which kind SOURCE is."""
    found = _adapter(name)(source, out)
    if as_json:
        import orjson

        click.echo(orjson.dumps(found))
        return
    for what, number in found.items():
        click.echo(f"{what}: {number:,}" if isinstance(number, int) else f"{what}: {number}")


def _adapter(name: str) -> Callable[[Path, Path], dict[str, Any]]:
    """The function that writes a log of a kind of source; FintrecError lists the kinds."""
    from fintrec.adapters import ADAPTERS

    if name not in ADAPTERS:
        known = ", ".join(sorted(ADAPTERS))
        raise FintrecError(f"no adapter is called {name!r}, expected one of {known}")
    module, _, attribute = ADAPTERS[name].partition(":")
    function: Callable[[Path, Path], dict[str, Any]] = getattr(
        importlib.import_module(module), attribute
    )
    return function


@contextmanager
def _steps() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr for each kind of step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        bars: dict[str, Any] = {}

        def step(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        yield step


def _show(dataset_dir: Path, as_json: bool) -> None:
    from fintrec.dataset.report import report as of

    found = of(dataset_dir)
    if as_json:
        import orjson

        click.echo(orjson.dumps(found))
        return
    from rich.console import Console

    console = Console()
    for table in _tables(found):
        console.print(table)


def _tables(found: dict[str, Any]) -> Iterator[Any]:
    """The report without its single items, as tables."""
    periods = found["periods"]
    rows = [
        (what, [period[what] for period in periods.values()]) for what in ("decisions", "users")
    ]
    for objective in ("pctr", "pcvr"):
        for what in periods["train"][objective]:
            cells = [period[objective][what] for period in periods.values()]
            rows.append((f"{objective} {what.replace('_', ' ')}", cells))
    yield _table(f"{found['dataset']}: {found['users']:,} users", "rows", periods, rows)
    kinds = found["content_types"]
    names = next(iter(kinds.values()))
    counts = [(name.replace("_", " "), [kind[name] for kind in kinds.values()]) for name in names]
    yield _table("whole log, by content type", "events", kinds, counts)
    left_out = [(reason, [number]) for reason, number in found["exclusions"].items()]
    yield _table("left out", "reason", ["count"], left_out)


def _table(title: str, what: str, columns: Any, rows: list[tuple[str, list[int]]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(what)
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows:
        table.add_row(name, *(f"{cell:,}" for cell in cells))
    return table

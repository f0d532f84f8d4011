"""What the commands of all forms share: their options, progress bars, and how a run is shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fintrec.commands.options import POSITIVE

if TYPE_CHECKING:
    from fintrec.public.suite import Say

Command = Callable[..., None]
BUDGET_HELP: Final = "Wall time of each model's training at most."
threads_option = click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def budget_option(default: float | None = None) -> Callable[[Command], Command]:
    """--budget-minutes of a command."""
    return click.option(
        "--budget-minutes",
        type=POSITIVE,
        default=default,
        show_default=default is not None,
        help=BUDGET_HELP,
    )


def form_options(file: str, budget_minutes: float | None = None) -> Callable[[Command], Command]:
    """--data, --out, --seed, --budget-minutes, --threads and --json; `file` is the form in words."""
    options = (
        click.option(
            "--data",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            required=True,
            metavar="FILE",
            help=file,
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder of result files, to go on where a run stopped [default: none are kept].",
        ),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        budget_option(budget_minutes),
        threads_option,
        json_option,
    )

    def with_options(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return with_options


def judge_form(
    form: str,
    *,
    data: Path,
    out: Path | None,
    seed: int,
    budget_minutes: float | None,
    threads: int,
    as_json: bool,
) -> None:
    """Judge a file by its form's protocol, show it; LeakSuspected after that for figures too good."""
    import torch

    from fintrec.public.suite import run
    from fintrec.result_files import ResultFolder, typed_command

    torch.set_num_threads(threads)
    with bars() as say:
        found = run({form: data}, ResultFolder(out, typed_command()), (seed,), budget_minutes, say)
    show(found, as_json)
    refuse_suspect(found)


def refuse_suspect(found: dict[str, Any]) -> None:
    """LeakSuspected for a run with figures that are too good to be true."""
    from fintrec.public.leaks import refuse
    from fintrec.public.suite import suspects

    refuse(suspects(found))


@contextmanager
def bars() -> "Iterator[Say]":
    """A progress bar with the time left on stderr for each kind of work."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=Console(stderr=True),
    ) as progress:
        tasks: dict[str, Any] = {}

        def say(what: str, share: float, text: str) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=1.0, text=text)
            progress.update(tasks[what], completed=share, text=text)

        yield say


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print a run: its table, or one JSON object, that of its only form if it has one."""
    if as_json:
        import orjson

        results = found["results"]
        only = {**next(iter(results.values())), "goals": found["goals"]}
        click.echo(orjson.dumps(only if len(results) == 1 else found))
        return
    from rich.console import Console
    from rich.table import Table

    from fintrec.public.goals import COLUMNS
    from fintrec.public.suite import lines_of

    table = Table(title="Public data", title_justify="left")
    for name in COLUMNS:
        table.add_column(name)
    for line in lines_of(found):
        table.add_row(*line.cells())
    Console().print(table)
    for result in found["results"].values():
        reason = result.get("offers", {}).get("reason")
        if reason is not None:
            click.echo(f"offers: none judged: {reason}")

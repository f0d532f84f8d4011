"""`fintrec reproduce`: the tables of docs/experiments.md from scratch, or from where a run stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from fintrec.experiments.schedule import Tick


@click.group()
def reproduce() -> None:
    """Make a table of docs/experiments.md: simulate, train, judge, write.

    Every finished cell is a file under OUT/cells. Killed or cut off, the same command goes on with
    the cells that are missing. All tables may share one OUT: they have cells in common.
    """


def _options(command: Any) -> Any:
    for option in reversed(
        (
            click.option(
                "--out",
                type=click.Path(path_type=Path, file_okay=False),
                default=Path("experiments"),
                show_default=True,
                help="Folder of the bank, the data set, the cells and the table.",
            ),
            click.option(
                "--setting",
                "setting_name",
                type=click.Choice(["table3", "demo", "tiny"]),
                default="table3",
                show_default=True,
                help="The stated recipe, or a smaller bank to see it work.",
            ),
            click.option(
                "--seeds", type=click.IntRange(1), help="Training seeds [default: the setting's]."
            ),
            click.option(
                "--jobs",
                type=click.IntRange(1),
                default=2,
                show_default=True,
                help="Cells at a time, one thread each.",
            ),
            click.option(
                "--table-only", is_flag=True, help="Run nothing: the table of the finished cells."
            ),
            click.option(
                "--markdown",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="Page whose section results:TABLE is written anew.",
            ),
            click.option(
                "--trials",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="With --markdown: a file of trials, for the section results:TABLE_trials.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        )
    ):
        command = option(command)
    return command


@reproduce.command()
@_options
def table3(**options: Any) -> None:
    """FinTRec table 3 on the simulated bank: forest, transformer, ablations, windows, floor."""
    _reproduce("table3", **options)


@reproduce.command()
@_options
def ablations(**options: Any) -> None:
    """Ablations of decisions of our own: masks, pooling, fusion, time, prior, items, one trunk."""
    _reproduce("ablations", **options)


@reproduce.command()
@_options
def lengths(**options: Any) -> None:
    """FinTRec's conversions after fewer and more training pages, else the same recipe."""
    _reproduce("lengths", **options)


@reproduce.command()
@_options
def large(**options: Any) -> None:
    """The same bank with all its pages and models up to the paper's size: wants a GPU."""
    _reproduce("large", **options)


def _reproduce(
    table: str,
    out: Path,
    setting_name: str,
    seeds: int | None,
    jobs: int,
    table_only: bool,
    markdown: Path | None,
    trials: Path | None,
    as_json: bool,
) -> None:
    import dataclasses

    from fintrec.experiments import plots, table_text
    from fintrec.experiments import table as tables
    from fintrec.experiments import trials as tried
    from fintrec.experiments.run import plan, run
    from fintrec.experiments.setting import SETTING, SETTINGS
    from fintrec.result_files import write_json, write_section

    setting = SETTINGS[setting_name]()
    if seeds is not None:
        setting = dataclasses.replace(setting, seeds=tuple(range(seeds)))
    if not table_only:
        coming = plan(out, table, setting, jobs)
        click.echo(
            f"{len(coming.missing)} of {len(coming.cells)} cells are missing in {out}: about "
            f"{coming.seconds / 60:.0f} minutes on {jobs} free cores",
            err=True,
        )
        with _progress(len(coming.cells)) as (stage, report):
            run(out, table, setting, jobs, stage, report)
    elif not (out / SETTING).exists():
        raise click.BadParameter(f"{out} holds no experiment", param_hint="--out")
    found = tables.summary(out, table)
    write_json(out / f"{table}.json", found)
    plots.draw(found, out / f"{table}.png")
    text = table_text.markdown(found, f"fintrec reproduce {table}")
    if markdown is not None:
        write_section(markdown, table, text)
        if trials is not None:
            write_section(markdown, f"{table}_trials", tried.markdown(tried.read(trials)))
    _show(found, text, out, table, as_json)


def _show(found: dict[str, Any], text: str, out: Path, table: str, as_json: bool) -> None:
    if as_json:
        import orjson

        click.echo(orjson.dumps(found))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))
    click.echo(f"{out / table}.json and {out / table}.png")


@contextmanager
def _progress(
    total: int,
) -> "Iterator[tuple[Callable[[str], None], Callable[[Tick], None]]]":
    """A bar on stderr: cells done, what runs now, and the time that is left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
    ) as bars:
        bar = bars.add_task("preparing", total=total, left="")

        def stage(what: str) -> None:
            bars.update(bar, description=what)

        def report(tick: "Tick") -> None:
            left = "" if tick.seconds_left is None else f"{tick.seconds_left / 60:.0f} min left"
            what = ", ".join(tick.running) or "done"
            bars.update(bar, description=what, completed=tick.done, left=left)

        yield stage, report

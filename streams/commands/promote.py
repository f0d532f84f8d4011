"""`fintrec models promote|rollback|history`: which models are served, and since when."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click
from rich.table import Table

from streams.commands.options import (
    dir_option,
    json_option,
    print_json,
    repository_option,
    wide_console,
)

if TYPE_CHECKING:
    from fintrec.promotions import Entry
    from streams.promotion import Target

_CHECKPOINT = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(short_help="Make a checkpoint the served version.")
@click.argument("checkpoint_dir", metavar="CHECKPOINT", type=_CHECKPOINT)
@click.option("--gate", is_flag=True, help="Refuse a checkpoint that is worse beyond chance.")
@click.option("--force", is_flag=True, help="With --gate: serve it all the same, and say so.")
@click.option(
    "--kind",
    type=click.Choice(["cpu", "gpu"]),
    help="Where the target's Triton runs the models (default: as the repository says, else cpu).",
)
@click.option("--no-load", is_flag=True, help="Write the version, but do not ask Triton.")
@repository_option
@dir_option
@json_option
def promote(
    checkpoint_dir: Path,
    gate: bool,
    force: bool,
    kind: str | None,
    no_load: bool,
    repository: Path | None,
    stack_dir: Path | None,
    as_json: bool,
) -> None:
    """Make CHECKPOINT the served version: check, export, load in Triton, record in the ledger.

    If anything fails, the version that was served still is.
    """
    if force and not gate:
        raise click.UsageError("--force is for --gate: without --gate nothing is refused for it")
    from streams.promotion import promote as run

    target = _target(repository, stack_dir, no_load)
    chosen = cast(Literal["cpu", "gpu"] | None, kind)
    _print_entry(run(target, checkpoint_dir, chosen, gate, force), target, as_json)


@click.command(short_help="Serve the models from before again.")
@click.option("--no-load", is_flag=True, help="Write the version, but do not ask Triton.")
@repository_option
@dir_option
@json_option
def rollback(no_load: bool, repository: Path | None, stack_dir: Path | None, as_json: bool) -> None:
    """Serve the models again that were promoted before the served ones; once more: those before."""
    from streams.promotion import rollback as run

    target = _target(repository, stack_dir, no_load)
    _print_entry(run(target), target, as_json)


@click.command(short_help="Print every promotion and rollback.")
@repository_option
@dir_option
@json_option
def history(repository: Path | None, stack_dir: Path | None, as_json: bool) -> None:
    """Print the ledger: every promotion and rollback of the repository, oldest first.

    --json prints every line of the file, so each change twice: that it began, and how it ended.
    """
    from fintrec.card_text import date_of
    from fintrec.promotions import BEGIN, WITHDRAW, read_ledger, unfinished
    from streams.settings import load_settings

    target = repository or load_settings(stack_dir).model_repository
    entries = read_ledger(target)
    if as_json:
        print_json([entry.to_dict() for entry in entries])
        return
    if not entries:
        click.echo(f"nothing was promoted to {target} yet: `fintrec models promote CHECKPOINT`")
        return
    table = Table(title="ledger", title_justify="left")
    for name in ("when (UTC)", "who", "what", "version", "before", "checkpoint", "note"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        if entry.action == BEGIN and entry is not unfinished(entries):
            continue  # its end is the next line
        what = f"{entry.intent}, cut off" if entry.action == BEGIN else entry.action
        if entry.action == WITHDRAW:
            what = f"{entry.intent} that failed"
        if entry.restores is not None:
            what += f" to {entry.restores}"
        table.add_row(
            date_of(entry.at_ms),
            entry.by,
            what,
            str(entry.version),
            "-" if entry.version_before is None else str(entry.version_before),
            f"{entry.checkpoint} {entry.checkpoint_sha256[:12]}".strip(),
            entry.note,
        )
    wide_console().print(table)


def _target(repository: Path | None, stack_dir: Path | None, no_load: bool) -> "Target":
    from features.clock import SystemClock
    from features.errors import ConfigurationError
    from streams.promotion import Target
    from streams.settings import load_settings

    settings = load_settings(stack_dir)
    if not no_load and not settings.triton_grpc:
        raise ConfigurationError(
            "no Triton: triton_grpc is not set and no local stack runs; start it with "
            "`fintrec stack up`, or write the version alone with --no-load"
        )
    chosen = repository or settings.model_repository
    return Target(settings, chosen, no_load, SystemClock().now_ms)


def _print_entry(entry: "Entry", target: "Target", as_json: bool) -> None:
    from streams.promotion import what_follows

    follows = what_follows(target, entry)
    if as_json:
        print_json(entry.to_dict() | {"repository": str(target.repository), "follows": follows})
        return
    before = "nothing" if entry.version_before is None else f"version {entry.version_before}"
    restored = "" if entry.restores is None else f", the models of version {entry.restores}"
    state = "written, not loaded" if target.is_offline else "served"
    click.echo(f"version {entry.version} is {state}{restored}; before it {before}")
    if entry.note:
        click.echo(entry.note)
    click.echo(follows)
    if entry.action == "promote" and entry.version_before is not None:
        click.echo("to go back: fintrec models rollback")

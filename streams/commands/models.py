"""`fintrec models`: checkpoints and their cards, and which of them is served."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from streams.commands.options import (
    dir_option,
    json_option,
    print_json,
    repository_option,
    wide_console,
)
from streams.commands.promote import history, promote, rollback

if TYPE_CHECKING:
    from fintrec.card_check import Checked
    from streams.settings import Settings

_CHECKPOINT = click.Path(path_type=Path, exists=True, file_okay=False)
_LISTED = {
    "pctr_log_loss": "click log loss",
    "pctr_auroc": "AUROC",
    "pcvr_log_loss": "conversion log loss",
    "pcvr_auroc": "AUROC",
}


@click.group()
def models() -> None:
    """Checkpoints with their cards, and which of them is served."""


@models.command("list", short_help="List checkpoints, and which is served.")
@click.option(
    "--in",
    "folder",
    type=_CHECKPOINT,
    default=Path("."),
    help="Folder to look in and below (default: this one).",
)
@repository_option
@dir_option
@json_option
def list_models(
    folder: Path, repository: Path | None, stack_dir: Path | None, as_json: bool
) -> None:
    """List the checkpoints in a folder, the newest first, and which of them is served."""
    from fintrec.model_registry import find
    from streams.settings import load_settings

    settings = load_settings(stack_dir)
    status = _status_by_hash(repository or settings.model_repository, settings)
    found = find(folder)
    if as_json:
        print_json(
            [
                {
                    "checkpoint": str(one.directory),
                    "sha256": one.sha256,
                    "made_at": one.card and one.card["made_at"],
                    "recipe": one.card and one.card["recipe"]["name"],
                    "test": one.card and one.card["metrics"]["test"],
                    "status": status.get(one.sha256, ""),
                    "problem": one.problem,
                }
                for one in found
            ]
        )
        return
    if not found:
        click.echo(f"no checkpoint in or below {folder.resolve()}: `fintrec train` makes one")
        return
    table = Table(title=f"checkpoints in {folder}, on their test pages", title_justify="left")
    for name in ("checkpoint", "made", "recipe", *_LISTED.values(), "status"):
        table.add_column(name, overflow="fold")
    for one in found:
        card = one.card
        cells = [_interval(card["metrics"]["test"].get(name)) if card else "-" for name in _LISTED]
        table.add_row(
            str(one.directory.relative_to(folder)) if one.directory != folder else ".",
            card["made_at"] if card else "-",
            card["recipe"]["name"] if card else "-",
            *cells,
            "; ".join(text for text in (status.get(one.sha256, ""), one.problem) if text),
        )
    wide_console().print(table)


def _status_by_hash(repository: Path, settings: "Settings") -> dict[str, str]:
    """Of each checkpoint that a version was made of: its newest version, and whether it is served."""
    from features.errors import ConfigurationError
    from fintrec.manifest import load_manifest, versions

    found: dict[str, str] = {}
    known = versions(repository)
    served = _served(repository, settings)
    for version in known:
        try:
            manifest = load_manifest(repository, version)
        except ConfigurationError:
            continue  # of another feature registry: this code cannot serve it
        if manifest.checkpoint:
            said = f"version {version}"
            if manifest.restores is not None:
                said += f" (the models of version {manifest.restores})"
            found[manifest.checkpoint] = f"served, {said}" if version == served else said
    return found


def _served(repository: Path, settings: "Settings") -> int | None:
    """The served version; says on stderr why it is not known."""
    from features.errors import ModelUnavailable

    if not settings.triton_grpc:
        click.echo("no Triton is known here, so none is said to be served", err=True)
        return None
    from streams.model_loading import served_version

    try:
        return served_version(settings, repository)
    except ModelUnavailable as silent:
        click.echo(f"not known which is served: {silent}", err=True)
        return None


@models.command(short_help="Print a card, and whether it still holds.")
@click.argument("checkpoint_dir", metavar="CHECKPOINT", type=_CHECKPOINT)
@click.option(
    "--data",
    "source",
    metavar="LOG_DIR|DATASET_DIR",
    type=_CHECKPOINT,
    help="Build the training set again and hold it against the card's hash.",
)
@json_option
def show(checkpoint_dir: Path, source: Path | None, as_json: bool) -> None:
    """Print the card of CHECKPOINT, and whether what it names is still so.

    Refused where the weights are not those that the card was made of.
    """
    from fintrec.card_check import check
    from fintrec.card_files import read_card
    from fintrec.card_text import card_text

    card = read_card(checkpoint_dir)
    rebuilt = None
    if source is not None:
        from fintrec.card_data import rebuilt_hash

        rebuilt = rebuilt_hash(card, source)
    checked = check(checkpoint_dir, card, rebuilt)
    if as_json:
        print_json(card | {"checked": [one.to_dict() for one in checked]})
        return
    console = wide_console()
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(card_text(card)))
    else:
        click.echo(card_text(card), nl=False)
    _print_checked(checked)


def _print_checked(checked: "Sequence[Checked]") -> None:
    signs = {True: "ok", False: "DIFFERS", None: "-"}
    table = Table(title="checked now", title_justify="left")
    for name in ("", "what", "result"):
        table.add_column(name, overflow="fold")
    for one in checked:
        table.add_row(signs[one.holds], one.what, one.told)
    Console(stderr=True).print(table)


@models.command(short_help="Add the hidden truth to the card of a simulated log's checkpoint.")
@click.argument("checkpoint_dir", metavar="CHECKPOINT", type=_CHECKPOINT)
@click.option(
    "--log",
    "log_dir",
    metavar="LOG_DIR",
    required=True,
    type=_CHECKPOINT,
    help="Log of `fintrec simulate` with its truth beside it, in LOG_DIR.truth.",
)
@click.option(
    "--data",
    "dataset_dir",
    metavar="DATASET_DIR",
    type=_CHECKPOINT,
    help="What the checkpoint was trained on, if that was a data set with a split of its own.",
)
@json_option
def judge(checkpoint_dir: Path, log_dir: Path, dataset_dir: Path | None, as_json: bool) -> None:
    """Judge CHECKPOINT by the true probabilities behind its simulated log, and add it to the card.

    On the card's own test pages. Training never opens the truth, so this is a step of its own.
    """
    from fintrec.card_judge import judge as run
    from fintrec.card_truth import truth_lines

    card = run(checkpoint_dir, log_dir, dataset_dir)
    if as_json:
        print_json(card["hidden_truth"])
        return
    click.echo("\n".join(truth_lines(card["hidden_truth"])))
    click.echo(f"\nadded to the card of {checkpoint_dir}")


@models.command(short_help="Compare the cards of two checkpoints.")
@click.argument("first_dir", metavar="A", type=_CHECKPOINT)
@click.argument("second_dir", metavar="B", type=_CHECKPOINT)
@json_option
def compare(first_dir: Path, second_dir: Path, as_json: bool) -> None:
    """Compare the cards of two checkpoints: test metrics, and what differs in how they were made.

    The difference is B minus A with its 95 % interval over users: in pairs where both were judged
    on the same test pages, else of the users of each alone.
    """
    from fintrec import model_registry as registry
    from fintrec.card_files import read_card, read_sums

    first, second = read_card(first_dir), read_card(second_dir)
    compared = registry.compare(first, second, read_sums(first_dir), read_sums(second_dir))
    differs = registry.differences(first, second)
    warnings = [] if registry.is_same_test(first, second) else [_other_pages(first, second)]
    if as_json:
        print_json(
            {
                "first": str(first_dir),
                "second": str(second_dir),
                "same_test_pages": not warnings,
                "warnings": warnings,
                "metrics": [one.to_dict() for one in compared],
                "differs": differs,
            }
        )
        return
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    table = Table(title=f"A {first_dir}, B {second_dir}, test", title_justify="left")
    for name in ("metric", "A", "B", "B - A", "", "B is"):
        table.add_column(name)
    for one in compared:
        how = "-" if one.difference is None else ("in pairs" if one.is_paired else "unpaired")
        table.add_row(
            one.name,
            _interval(one.first),
            _interval(one.second),
            _interval(one.to_dict()["difference"]),
            how,
            one.verdict,
        )
    wide_console().print(table)
    wide_console().print(_made_differently(differs))


def _other_pages(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    periods = [card["data"]["periods"]["test"] for card in (first, second)]
    from fintrec.card_text import date_of

    spans = [f"{date_of(p['first_ms'])} to {date_of(p['last_ms'])}" for p in periods]
    return (
        f"judged on different test pages (A {spans[0]}, B {spans[1]}): "
        "a difference is also one of pages"
    )


def _made_differently(differs: Mapping[str, list[Any]]) -> Table:
    table = Table(title="made differently in" if differs else "made alike", title_justify="left")
    if differs:
        for name in ("", "A", "B"):
            table.add_column(name, overflow="fold")
    for name, (one, other) in differs.items():
        table.add_row(name, str(one), str(other))
    return table


def _interval(found: Mapping[str, Any] | None) -> str:
    from fintrec.card_text import interval_text

    return interval_text(found)


for verb in (promote, rollback, history):
    models.add_command(verb)

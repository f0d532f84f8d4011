"""`fintrec evaluate sequence`: one file of item sequences, judged by its protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fintrec.commands.evaluate_form import bars, form_options

if TYPE_CHECKING:
    from fintrec.public.sequence_training import DecoderRecipe


@click.command()
@form_options(
    "Text, a user a line, 'user item item ...', oldest first: docs/public_sequence.md.", 40.0
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the decoder, such as d_model=64. Repeatable.",
)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Write the figures of --out, all its seeds, into this page, between its marks "
    "results:sequence.",
)
def sequence(
    data: Path,
    out: Path | None,
    seed: int,
    budget_minutes: float,
    threads: int,
    settings: tuple[str, ...],
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Next item of item sequences among all items: popularity, item-kNN and the decoder.

    The newest item of a user is the test, the one before it the validation.
    """
    import torch

    from fintrec.public import sequences
    from fintrec.result_files import ResultFolder, check_section, typed_command

    if markdown is not None:
        if out is None:
            raise click.UsageError(
                "--markdown takes its figures from the files of --out: give both"
            )
        check_section(markdown, "sequence")
    recipe = _recipe(settings)
    torch.set_num_threads(threads)
    folder = ResultFolder(out, typed_command())
    with bars() as say:
        found = sequences.evaluate(data, folder, (seed,), budget_minutes, say, recipe)
    if markdown is not None and out is not None:
        from fintrec.public.sequence_page import section
        from fintrec.result_files import write_section

        write_section(markdown, "sequence", section(data.name, out))
    if as_json:
        import orjson

        goals = [line.to_dict() for line in sequences.lines(found)]
        click.echo(orjson.dumps({**found, "goals": goals}))
        return
    _print(found)


def _recipe(settings: tuple[str, ...]) -> "DecoderRecipe":
    import orjson

    from fintrec.commands.train import parsed
    from fintrec.public.sequence_training import DecoderRecipe

    changes: dict[str, Any] = {}
    for name, text in parsed(settings).items():
        try:
            changes[name] = orjson.loads(text)
        except orjson.JSONDecodeError:
            changes[name] = text
    try:
        return DecoderRecipe().with_settings(changes)
    except ValueError as refused:
        raise click.BadParameter(str(refused), param_hint="--set") from refused


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from fintrec.public.full_ranking import CUTOFFS
    from fintrec.public.item_sequences import HELD_OUT

    console = Console()
    for part in HELD_OUT:
        table = Table(
            title=f"{found['file']}: {found['users']:,} users, {found['items']:,} items, {part}"
        )
        table.add_column("HR/NDCG", no_wrap=True)
        for cutoff in CUTOFFS:
            table.add_column(f"@{cutoff}", justify="right", no_wrap=True)
        for model, figures in found["models"].items():
            values = figures[part]
            table.add_row(
                model, *(f"{values[f'hr@{k}']:.4f}/{values[f'ndcg@{k}']:.4f}" for k in CUTOFFS)
            )
        console.print(table)

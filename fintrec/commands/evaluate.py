"""`fintrec evaluate`: models on data that nobody here wrote, by published protocols."""

import importlib
from pathlib import Path
from typing import Final

import click

from fintrec.commands.evaluate_form import (
    bars,
    budget_option,
    json_option,
    refuse_suspect,
    show,
    threads_option,
)

# form -> (module:attribute, one line of help); imported when called
_FORMS: Final[dict[str, tuple[str, str]]] = {
    "events": (
        "fintrec.commands.evaluate_events:events",
        "An event log of cases: next event, offer conversion.",
    ),
    "sessions": (
        "fintrec.commands.evaluate_sessions:sessions",
        "Anonymous web sessions: next page.",
    ),
    "sequence": (
        "fintrec.commands.evaluate_sequence:sequence",
        "Item sequences of users: next item among all.",
    ),
}
_BESIDE: Final = Path("..") / "shared" / "data"


class _Forms(click.Group):
    """The forms of data, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_FORMS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _FORMS:
            return None
        module, _, attribute = _FORMS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Forms"):
            formatter.write_dl([(form, text) for form, (_, text) in _FORMS.items()])


@click.group(cls=_Forms, invoke_without_command=True)
@click.option(
    "--suite", type=click.Choice(["public"]), help="Run every form over the folder of public data."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help=f"Folder of the public data sets [default: {_BESIDE}, if it is there].",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Judge this file instead, by the protocol of --form.",
)
@click.option("--form", type=click.Choice(list(_FORMS)), help="The form of --data.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("public_results"),
    show_default=True,
    help="Result files, written as they are ready; run again to go on where it stopped.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of seeds, from 0 on, that each model is trained with.",
)
@click.option(
    "--finished",
    is_flag=True,
    help="Train nothing: take the seeds whose models --out holds, such as those of a run that goes on.",
)
@budget_option()
@click.option(
    "--markdown",
    "pages",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Write the tables into this page, between its marks results:public and results:sequence. "
    "Repeatable.",
)
@threads_option
@json_option
@click.pass_context
def evaluate(
    context: click.Context,
    suite: str | None,
    data_dir: Path | None,
    data: Path | None,
    form: str | None,
    out: Path,
    seeds: int,
    finished: bool,
    budget_minutes: float | None,
    pages: tuple[Path, ...],
    threads: int,
    as_json: bool,
) -> None:
    """Judge the models on public data, or on a file of the same form.

    \b
      fintrec evaluate --suite public --data-dir ../shared/data --out public_results
      fintrec evaluate --data MY_FILE --form events
      fintrec evaluate events --data MY_FILE --json

    Protocols and forms are in docs/public_data.md.
    """
    if context.invoked_subcommand is not None:
        return
    if (data is None) != (form is None):
        raise click.UsageError("--data and --form go together")
    if suite is None and data is None:
        click.echo(context.get_help())
        return
    if suite is not None and data is not None:
        raise click.UsageError("--suite judges a folder, --data a file: give one of them")
    import torch

    from fintrec.public.suite import check_pages, files_of, run, write_pages
    from fintrec.result_files import ResultFolder, typed_command

    check_pages(pages)
    torch.set_num_threads(threads)
    files = {str(form): data} if data is not None else files_of(_data_dir(data_dir))
    folder = ResultFolder(out, typed_command())
    with bars() as say:
        found = run(files, folder, None if finished else range(seeds), budget_minutes, say)
    write_pages(found, out, pages)
    show(found, as_json)
    refuse_suspect(found)


def _data_dir(data_dir: Path | None) -> Path:
    if data_dir is not None:
        return data_dir
    if not _BESIDE.is_dir():
        raise click.UsageError(
            f"no folder of public data at {_BESIDE}: give --data-dir, or --data FILE with --form"
        )
    return _BESIDE

"""`fintrec nightly LOG_DIR`: a night's batch features into Feast and into the user states."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from streams.commands.options import dir_option, json_option, print_json
from streams.settings import load_settings


@click.command()
@click.argument("log_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@dir_option
@json_option
def nightly(log_dir: Path, stack_dir: Path | None, as_json: bool) -> None:
    """Apply the Feast repository, load LOG_DIR's nightly tables, refresh the users' states."""
    from streams.nightly import run_nightly

    # Feast prints what it does on standard output, where our data goes.
    with redirect_stdout(sys.stderr):
        done = run_nightly(load_settings(stack_dir), log_dir)
    if as_json:
        print_json(done)
    else:
        click.echo("  ".join(f"{what} {count:,}" for what, count in done.items()))

"""`fintrec evaluate events`: one event log, judged by its protocol."""

from typing import Any

import click

from fintrec.commands.evaluate_form import form_options, judge_form


@click.command()
@form_options("The event log: docs/public_data.md.")
def events(**options: Any) -> None:
    """Next event and offer conversion of an event log: Parquet in the form of BPI Challenge 2012."""
    judge_form("events", **options)

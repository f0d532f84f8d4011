"""`fintrec evaluate sessions`: one sessions file, judged by its protocol."""

from typing import Any

import click

from fintrec.commands.evaluate_form import form_options, judge_form


@click.command()
@form_options("The sessions file: docs/public_data.md.")
def sessions(**options: Any) -> None:
    """Next page of anonymous web sessions: text or zip in the form of UCI's msnbc."""
    judge_form("sessions", **options)

"""`fintrec parity`: served inputs held against the lake, for an auditor or after a change."""

import sys
from pathlib import Path

import click

from streams.commands.options import dir_option, json_option, print_json
from streams.settings import load_settings

_SHOWN = 20


@click.command()
@click.argument("lake_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--day", "days", multiple=True, metavar="YYYY-MM-DD", help="Only this day's slates.")
@click.option("--no-encoder", is_flag=True, help="Leave hidden states out; needs no Triton.")
@dir_option
@json_option
def parity(
    lake_dir: Path,
    days: tuple[str, ...],
    no_encoder: bool,
    stack_dir: Path | None,
    as_json: bool,
) -> None:
    """Make the inputs of every audited slate in LAKE_DIR again and compare them to the byte.

    Exit code 1 when one differs.
    """
    from features.border import Border
    from features.spec import DAY_MS
    from fintrec.parity import check

    settings = load_settings(stack_dir)
    border = Border(
        max_skew_ms=settings.max_skew_ms, max_age_ms=settings.max_event_age_days * DAY_MS
    )
    encode = None
    if not no_encoder:
        from streams.triton import TritonModels

        encode = TritonModels(settings).encode
    report = check(lake_dir, encode, days or None, border)
    if as_json:
        differing = {found.slate_id: list(found.differs) for found in report.differing}
        print_json({**report.counts(), "differing_slates": differing})
    else:
        click.echo("  ".join(f"{what} {number:,}" for what, number in report.counts().items()))
        for found in report.differing[:_SHOWN]:
            click.echo(f"{found.slate_id} {found.tier}: {', '.join(found.differs)}")
    if report.differing:
        sys.exit(1)

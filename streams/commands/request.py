"""`fintrec request USER`: ask for a user's slate and print it."""

import uuid
from pathlib import Path

import click

from features.border import to_record
from features.clock import SystemClock
from features.errors import MalformedEvent
from features.records import SlateRequest
from streams.commands.options import dir_option, json_option, print_json, wide_console
from streams.commands.slate_table import slate_table
from streams.settings import load_settings


@click.command()
@click.argument("user")
@click.option("--product", default="mobile_home", show_default=True, help="Surface that asks.")
@click.option("--page", default="home", show_default=True)
@click.option("--placement", default="hero", show_default=True)
@click.option("--layout", default="carousel", show_default=True)
@click.option("--channel", default="mobile_app", show_default=True)
@click.option("--device", default="ios", show_default=True)
@click.option("--size", default=5, show_default=True, type=click.IntRange(1, 50))
@click.option("--candidate", "candidates", multiple=True, help="Only these items; repeatable.")
@click.option("--request-id", default="", help="Default: a new one.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait.")
@dir_option
@json_option
def request(
    user: str,
    product: str,
    page: str,
    placement: str,
    layout: str,
    channel: str,
    device: str,
    size: int,
    candidates: tuple[str, ...],
    request_id: str,
    timeout: float,
    stack_dir: Path | None,
    as_json: bool,
) -> None:
    """Ask for USER's slate and print it."""
    from streams.slate_client import SlateClient

    fields = {
        "request_id": request_id or uuid.uuid4().hex,
        "user_id": user,
        "event_time_ms": SystemClock().now_ms(),
        "product": product,
        "page": page,
        "placement": placement,
        "layout": layout,
        "channel": channel,
        "device": device,
        "size": size,
        "candidates": list(candidates) or None,
    }
    try:
        asked = to_record(fields, SlateRequest)
    except MalformedEvent as refused:
        raise click.UsageError(str(refused)) from refused
    with SlateClient(load_settings(stack_dir)) as client:
        slate = client.ask(asked, timeout)
    if as_json:
        print_json(slate)
    else:
        wide_console().print(slate_table(slate))

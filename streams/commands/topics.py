"""`fintrec topics create|list`: the project's topics on a cluster."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.table import Table

from streams.clients import kafka_python_config
from streams.commands.options import dir_option, json_option, print_json
from streams.settings import Settings, load_settings
from streams.topic_admin import (
    DEFAULT_REPLICATION,
    Admin,
    Outcome,
    ensure_topics,
    look_up_topics,
    plan_topics,
)


@click.group()
def topics() -> None:
    """Create and list the Kafka topics."""


@topics.command()
@dir_option
@json_option
@click.option(
    "--replication-factor",
    default=DEFAULT_REPLICATION,
    show_default=True,
    type=click.IntRange(1),
    help="Replicas of each partition; 3 on a production cluster.",
)
@click.option(
    "--partitions",
    type=click.IntRange(1),
    help="Partitions of each topic of users (default: the setting num_partitions).",
)
def create(
    stack_dir: Path | None, as_json: bool, replication_factor: int, partitions: int | None
) -> None:
    """Create missing topics; an existing one that differs is told, left, and fails the command."""
    settings = load_settings(stack_dir)
    plans = plan_topics(partitions or settings.num_partitions, replication_factor)
    with connect_admin(settings) as admin:
        outcome = ensure_topics(admin, plans)
    if as_json:
        print_json(_as_data(outcome))
    else:
        _print(outcome)
    if outcome.differences:
        sys.exit(1)


@topics.command("list")
@dir_option
@json_option
def list_topics(stack_dir: Path | None, as_json: bool) -> None:
    """Print the project's topics and whether the cluster has them."""
    settings = load_settings(stack_dir)
    with connect_admin(settings) as admin:
        rows = look_up_topics(admin)
    if as_json:
        print_json(rows)
        return
    table = Table("topic", "exists", "partitions", "replicas", "retention", "cleanup", box=None)
    for row in rows:
        shown = ("num_partitions", "replication_factor", "retention_ms", "cleanup_policy")
        cells = ["-" if row[key] is None else str(row[key]) for key in shown]
        table.add_row(row["name"], "yes" if row["exists"] else "no", *cells)
    Console(soft_wrap=True).print(table)


@contextmanager
def connect_admin(settings: Settings) -> Iterator[Admin]:
    """kafka-python's admin client for the configured cluster, closed afterwards."""
    from kafka.admin import KafkaAdminClient

    client = KafkaAdminClient(**kafka_python_config(settings))
    try:
        yield cast(Admin, client)
    finally:
        client.close()


def _as_data(outcome: Outcome) -> dict[str, Any]:
    return {
        "created": list(outcome.created),
        "unchanged": list(outcome.unchanged),
        "differences": [
            {"topic": d.topic, "what": d.what, "got": d.got, "expected": d.expected}
            for d in outcome.differences
        ],
    }


def _print(outcome: Outcome) -> None:
    for name in outcome.created:
        click.echo(f"created {name}")
    click.echo(f"{len(outcome.created)} created, {len(outcome.unchanged)} were there already")
    if outcome.differences:
        click.echo("these topics exist with another shape and were left as they are:", err=True)
    for difference in outcome.differences:
        click.echo(f"  {difference}", err=True)

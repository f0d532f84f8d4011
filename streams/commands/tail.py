"""`fintrec tail TOPIC`: print a topic's records, oldest first, and go on with new ones."""

import json
from pathlib import Path
from typing import Any

import click

from features.errors import FintrecError
from streams.clients import kafka_python_config
from streams.commands.options import dir_option, json_option
from streams.settings import load_settings


@click.command()
@click.argument("topic")
@click.option(
    "-n",
    "--last",
    default=10,
    show_default=True,
    type=click.IntRange(0),
    help="Start with the last N records.",
)
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for new records.")
@dir_option
@json_option
def tail(topic: str, last: int, follow: bool, stack_dir: Path | None, as_json: bool) -> None:
    """Print TOPIC's records with their coordinates."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        **kafka_python_config(load_settings(stack_dir)), group_id=None, enable_auto_commit=False
    )
    try:
        partitions = [
            TopicPartition(topic, number)
            for number in sorted(consumer.partitions_for_topic(topic) or set())
        ]
        if not partitions:
            raise FintrecError(f"topic {topic!r} does not exist: `fintrec topics list` shows them")
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        begins = consumer.beginning_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, max(begins[partition], ends[partition] - last))
        past: list[Any] = []
        while any(consumer.position(tp) < ends[tp] for tp in partitions):
            past += [m for found in consumer.poll(timeout_ms=200).values() for m in found]
        past.sort(key=lambda m: (m.timestamp, m.partition, m.offset))
        for message in past[-last:] if last else []:
            _print(message, as_json)
        while follow:
            for found in consumer.poll(timeout_ms=500).values():
                for message in found:
                    _print(message, as_json)
    finally:
        consumer.close()


def _print(message: Any, as_json: bool) -> None:
    at = f"{message.topic}[{message.partition}]@{message.offset}"
    key = None if message.key is None else message.key.decode(errors="replace")
    value = None if message.value is None else message.value.decode(errors="replace")
    if not as_json:
        click.echo(f"{at} {key or '-'} {value if value is not None else '(tombstone)'}")
        return
    try:
        parsed = json.loads(value) if value is not None else None
    except json.JSONDecodeError:
        parsed = value
    click.echo(json.dumps({"at": at, "key": key, "value": parsed}, ensure_ascii=False))

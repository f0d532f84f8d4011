"""`fintrec publish LOG_DIR`: replay a log, simulated or real, to Kafka."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from features.spec import DAY_MS
from fintrec import logs
from fintrec.commands.options import POSITIVE
from fintrec.commands.simulate import to_ms
from streams import replay
from streams.clients import kafka_python_config
from streams.commands.options import dir_option, json_option, print_json
from streams.settings import Settings, load_settings


@click.command()
@click.argument("log_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--speed", type=POSITIVE, help="Times real time.")
@click.option("--asap", is_flag=True, help="As fast as the cluster takes (the default).")
@click.option("--from", "from_text", metavar="ISO", help="First instant of events.")
@click.option("--to", "to_text", metavar="ISO", help="Instant where events end.")
@click.option(
    "--days",
    type=POSITIVE,
    help="Only events of the last N days of the log.",
)
@click.option("--only", multiple=True, metavar="TOPIC", help="Only this topic; may be repeated.")
@click.option("--restart", is_flag=True, help="Begin anew instead of where a replay stopped.")
@dir_option
@json_option
def publish(
    log_dir: Path,
    speed: float | None,
    asap: bool,
    from_text: str | None,
    to_text: str | None,
    days: float | None,
    only: tuple[str, ...],
    restart: bool,
    stack_dir: Path | None,
    as_json: bool,
) -> None:
    """Publish LOG_DIR's events in the order they happened, items and consents first.

    Every record is acknowledged by all replicas or the command fails; the same command goes on
    where the last one stopped, and no second one may run beside it.
    """
    if speed is not None and asap:
        raise click.UsageError("--speed and --asap exclude each other")
    if days is not None and from_text is not None:
        raise click.UsageError("--days and --from exclude each other")
    period = _period(log_dir, from_text, to_text, days, only)
    replay.check_log(log_dir, period.topics)
    settings = load_settings(stack_dir)
    replay_id = _replay_id(settings, log_dir, period)
    path = settings.stack_dir / "publish" / f"{replay_id}.json"
    with replay.alone(path):
        if restart:
            path.unlink(missing_ok=True)
        before = replay.Progress.load(path, replay_id)
        counts = replay.counts(log_dir, period)
        total = sum(counts.values())
        began = time.perf_counter()
        with _send(settings) as send, _bar(total, before.num_acknowledged, as_json) as advance:
            after = replay.replay(
                replay.outgoing(log_dir, period), send, before, path, replay.Pace(speed), advance
            )
    seconds = time.perf_counter() - began
    num_sent = after.num_acknowledged - before.num_acknowledged
    events = [topic for topic in period.topics if topic not in replay.AHEAD]
    if events and not any(counts[topic] for topic in events):
        click.echo(_nothing_in(period, log_dir, events), err=as_json)
    if as_json:
        print_json(
            {
                "acknowledged": num_sent,
                "already_published": before.num_acknowledged,
                "seconds": seconds,
                "progress_file": str(path),
            }
        )
        return
    click.echo(f"{num_sent:,} records acknowledged in {seconds:.1f} s")
    if before.num_acknowledged:
        click.echo(f"{before.num_acknowledged:,} were published before (--restart sends them anew)")


def _period(
    log_dir: Path,
    from_text: str | None,
    to_text: str | None,
    days: float | None,
    only: tuple[str, ...],
) -> replay.Period:
    unknown = sorted(set(only) - set(replay.TOPICS))
    if unknown:
        raise click.BadParameter(
            f"{', '.join(unknown)}: expected {', '.join(replay.TOPICS)}", param_hint="--only"
        )
    from_ms = 0 if from_text is None else to_ms(from_text)
    if days is not None:
        from_ms = max(0, _end_ms(log_dir) - round(days * DAY_MS))
    topics = tuple(topic for topic in replay.TOPICS if not only or topic in only)
    if to_text is None:
        return replay.Period(from_ms, topics=topics)
    period = replay.Period(from_ms, to_ms(to_text), topics)
    if period.from_ms >= period.to_ms:
        raise click.UsageError(
            f"the period begins at {_iso(period.from_ms)} and ends at {_iso(period.to_ms)}: "
            "--from (or the last --days of the log) must be before --to"
        )
    return period


def _nothing_in(period: replay.Period, log_dir: Path, events: list[str]) -> str:
    """The line about a period without any event."""
    found = replay.covered(log_dir, events)
    if found is None:
        return f"no events: {log_dir} has none in {', '.join(events)}"
    bounds = [f"from {_iso(period.from_ms)}"] if period.from_ms else []
    if period.to_ms != replay.ENDLESS_MS:
        bounds.append(f"to {_iso(period.to_ms)}")
    return (
        f"no events {' '.join(bounds)}: {log_dir} covers {_iso(found[0])} to {_iso(found[1])} in "
        f"{', '.join(events)}"
    )


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _end_ms(log_dir: Path) -> int:
    """Where the log ends: its manifest's end, else the end of its last day."""
    end_ms = logs.read_manifest(log_dir).get("end_ms")
    if isinstance(end_ms, int):
        return end_ms
    days = [day for topic in logs.EVENT_TABLES for day in logs.days_of(log_dir, topic)]
    if not days:
        raise logs.LogError(f"{log_dir}: no events in {', '.join(logs.EVENT_TABLES)}")
    return logs.day_end_ms(max(days))


def _replay_id(settings: Settings, log_dir: Path, period: replay.Period) -> str:
    """Names one replay: this log, this period, this very cluster."""
    parts = [
        _cluster_id(settings),
        str(log_dir.resolve()),
        logs.read_manifest(log_dir),
        [period.from_ms, period.to_ms, period.topics],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _cluster_id(settings: Settings) -> str:
    from kafka.admin import KafkaAdminClient

    client = KafkaAdminClient(**kafka_python_config(settings))
    try:
        return str(client.describe_cluster()["cluster_id"])
    finally:
        client.close()


@contextmanager
def _send(settings: Settings) -> Iterator[replay.Send]:
    from kafka import KafkaProducer

    producer = KafkaProducer(
        **kafka_python_config(settings), acks="all", linger_ms=20, batch_size=131_072
    )
    try:
        yield lambda topic, key, value: producer.send(topic, value=value, key=key)
    finally:
        producer.close(timeout=10)


@contextmanager
def _bar(total: int, done: int, is_silent: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on the error stream, so that output stays clean."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("publishing", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=is_silent) as shown:
        task = shown.add_task("publishing", total=total, completed=done)
        yield lambda number: shown.advance(task, number)

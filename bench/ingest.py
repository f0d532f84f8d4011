"""`python -m bench.ingest`: events a second that one ingest worker folds out of a full backlog.

With the encoder, and without it (the worker then writes histories alone, as it does while Triton is
down), so that the price of the hidden states shows.
"""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import orjson
from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from bench import report
from bench.machine import describe
from bench.pages import markdown_option
from bench.processes import OTHERS, Snapshot, Watched, cores
from bench.session import SERVERS, Session, triton_parts
from bench.traffic import Load, event_records, schedule
from features.errors import FintrecError
from fintrec.result_files import write_section
from streams.clients import kafka_python_config
from streams.commands.options import wide_console
from streams.demo import verb
from streams.local_stack.processes import die_with_parent, free_ports
from streams.topics import CLICKSTREAM, TRANSACTIONS

WITH_ENCODE: Final = "with encode"
WITHOUT_ENCODE: Final = "without encode"
HOPS: Final = ("store", "encode", "write")
_LOOK_S: Final = 0.2
_TIMEOUT_S: Final = 300
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Look:
    """A worker at one instant: events done, its counters, everybody's CPU time."""

    at_s: float
    done: float
    counters: Mapping[str, float]
    cpu: Snapshot


def publish_backlog(session: Session, num_events: int, seed: int) -> None:
    """Events of the present moment, as fast as they can be published."""
    load = Load(
        name=f"backlog{seed}-{time.time_ns():x}",
        requests_per_s=1,
        events_per_s=num_events,
        seconds=1,
        num_users=session.num_users,
        seed=seed,
    )
    producer = KafkaProducer(**kafka_python_config(session.settings), acks="all", linger_ms=20)
    try:
        records = event_records(load, schedule(load), time.time() - 2, session.items)
        for is_purchase, key, value in records:
            producer.send(TRANSACTIONS if is_purchase else CLICKSTREAM, key=key, value=value)
        producer.flush(60)
    finally:
        producer.close()


@contextmanager
def worker(session: Session, variant: str, port: int) -> Iterator[int]:
    """An ingest worker that ends with the block; its pid."""
    environment = {**session.environment, "FINTREC_METRICS_PORT": str(port)}
    if variant == WITHOUT_ENCODE:
        empty = session.dir / "no_models"
        empty.mkdir(exist_ok=True)
        environment["FINTREC_MODEL_REPOSITORY"] = str(empty)
    log = session.dir / f"ingest-{variant.replace(' ', '-')}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            verb(("worker", "ingest"), session.stack.dir),
            env=environment,
            stdout=file,
            stderr=file,
            preexec_fn=die_with_parent(),
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def counters(port: int) -> dict[str, float]:
    """The worker's Prometheus samples by name (and hop); empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return {}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" in sample.labels:
                continue
            name = (
                f"{sample.name}:{sample.labels['hop']}" if "hop" in sample.labels else sample.name
            )
            found[name] = found.get(name, 0.0) + sample.value
    return found


def run(session: Session, variant: str, num_events: int, seed: int) -> dict[str, Any]:
    """Publish a backlog, start a worker, watch until it is done."""
    publish_backlog(session, num_events, seed)
    (port,) = free_ports(1)
    with worker(session, variant, port) as pid:
        watched = Watched(
            {name: session.stack.pid(name) for name in SERVERS} | {"ingest": pid},
            triton_parts(session.stack.pid("triton")),
        )
        looks: list[Look] = []
        until_s = time.monotonic() + _TIMEOUT_S
        while not looks or looks[-1].done < num_events:
            if time.monotonic() > until_s:
                done = looks[-1].done if looks else 0
                raise FintrecError(f"{done:.0f} of {num_events} events done in {_TIMEOUT_S} s")
            time.sleep(_LOOK_S)
            found = counters(port)
            done = found.get("fintrec_events_total", 0.0)
            if done:
                now_s = time.time()
                looks.append(Look(now_s, done, found, watched.snapshot(now_s)))
    return {"variant": variant, "num_events": num_events, **_result(looks)}


def _result(looks: list[Look]) -> dict[str, Any]:
    """Between the first batch that was done and the last look before the end."""
    first, last = looks[0], looks[-2] if len(looks) > 2 else looks[-1]
    events = last.done - first.done
    if events <= 0:
        raise FintrecError("the backlog was done between two looks: give more --events")
    seconds = last.at_s - first.at_s
    busy = cores(first.cpu, last.cpu)

    def grown(name: str) -> float:
        return last.counters.get(name, 0.0) - first.counters.get(name, 0.0)

    batches = grown("fintrec_batch_size_count")
    return {
        "events_per_s": round(events / seconds, 1),
        "cpu_us_per_event": {
            name: round(cpu * seconds / events * 1e6, 1) for name, cpu in busy.items()
        },
        "cores_total": round(sum(c for name, c in busy.items() if name != OTHERS), 2),
        "cores_others": round(busy[OTHERS], 2),
        "events_per_batch": round(events / batches, 1) if batches else None,
        "hops_us_per_event": {
            hop: round(grown(f"fintrec_hop_seconds_sum:{hop}") / events * 1e6, 1) for hop in HOPS
        },
        "encode_failures": grown("fintrec_encode_failures_total"),
    }


@click.command()
@click.option("--events", default=30_000, show_default=True, type=click.IntRange(1000))
@click.option("--users", default=2000, show_default=True, type=click.IntRange(1))
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--out",
    default=Path("bench/results"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of ingest.json.",
)
@markdown_option("ingest")
def main(
    events: int, users: int, partitions: int, repeats: int, out: Path, markdown: Path | None
) -> None:
    """Measure one ingest worker on a backlog, with and without the encoder, in turn."""
    command = "python -m bench.ingest " + subprocess.list2cmdline(sys.argv[1:])
    machine = describe()
    runs = []
    with Session(users, partitions, {}, _say) as session:
        for repeat in range(repeats):
            for variant in (WITH_ENCODE, WITHOUT_ENCODE):
                found = run(session, variant, events, seed=10 + repeat)
                runs.append(found)
                _say(f"{variant}: {found['events_per_s']:.0f} events/s, {found}")
    data = {"bench": "ingest", "command": command, "machine": machine, "users": users, "runs": runs}
    out.mkdir(parents=True, exist_ok=True)
    (out / "ingest.json").write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))
    if markdown is not None:
        write_section(markdown, "ingest", report.ingest_section(data))
    wide_console().print(_table(runs))
    print(orjson.dumps(data).decode())


def _table(runs: list[dict[str, Any]]) -> Table:
    shown = Table(title="Ingest from a backlog, one worker", box=None)
    for name in report.INGEST_COLUMNS:
        shown.add_column(name, justify="right")
    for row in report.ingest_rows(runs):
        shown.add_row(*row)
    return shown


def _say(text: str) -> None:
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", highlight=False)


if __name__ == "__main__":
    try:
        main()
    except FintrecError as failed:
        console.print(f"[red]{failed}[/red]")
        sys.exit(1)

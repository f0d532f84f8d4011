"""`python -m bench.serving`: latency, freshness and CPU of the whole system under open-loop load."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import orjson
from rich.console import Console

from bench import report
from bench.machine import describe
from bench.measure import FINTREC, FLOOR, Run, measure
from bench.pages import markdown_option
from bench.session import Session
from bench.traffic import Load
from features.errors import FintrecError
from fintrec.result_files import write_section
from streams.commands.options import wide_console
from streams.demo import wait_until
from streams.settings import variable_of

_WARM_RATE: Final = 1000.0
_WARM_EVENTS: Final = 200.0
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One point of the load curve, on one side, for one repeat."""

    side: str
    rate: float
    repeat: int


def scenarios(
    rates: list[float], repeats: int, overload: list[float], with_floor: bool
) -> Iterator[Scenario]:
    """Rates in turn; at each the two sides one after the other, in alternating order."""
    sides = [FINTREC, FLOOR] if with_floor else [FINTREC]
    for repeat in range(repeats):
        for rate in rates:
            for side in sides if repeat % 2 == 0 else reversed(sides):
                yield Scenario(side, rate, repeat)
        for rate in overload:
            yield Scenario(FINTREC, rate, repeat)


def _numbers(context: click.Context, option: click.Parameter, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part]
    except ValueError as wrong:
        raise click.BadParameter(f"{text!r} is no list of numbers") from wrong
    if any(number <= 0 for number in found):
        raise click.BadParameter(f"{text!r} holds a rate that is not above 0")
    return found


def _settings(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        try:
            found[variable_of(name)] = value
        except KeyError as unknown:
            raise click.BadParameter(f"unknown setting {name!r}") from unknown
    return found


@click.command()
@click.option("--rates", default="50,300,1500,3000", callback=_numbers, help="Requests a second.")
@click.option("--events", default=300.0, show_default=True, help="Events a second beside them.")
@click.option("--seconds", default=10.0, show_default=True, help="Measured in each run.")
@click.option("--warm", default=3.0, show_default=True, help="Before that, not measured.")
@click.option(
    "--warm-up", default=20.0, show_default=True, help="Seconds of load before the first run."
)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option("--overload", default="", callback=_numbers, help="Rates beyond capacity, e.g. 6000.")
@click.option("--floor/--no-floor", "with_floor", default=False, help="Alternate with the floor.")
@click.option("--users", default=2000, show_default=True, type=click.IntRange(1))
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1))
@click.option("--tick-ms", default=4.0, show_default=True, help="Of the generator.")
@click.option("--score-workers", default=1, show_default=True, type=click.IntRange(1))
@click.option("--ingest-workers", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--set", "given", multiple=True, callback=_settings, help="Worker setting NAME=VALUE."
)
@click.option(
    "--out",
    default=Path("bench/results"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of serving.json, every latency, and the plots if there is no --markdown.",
)
@markdown_option("serving")
def main(
    rates: list[float],
    events: float,
    seconds: float,
    warm: float,
    warm_up: float,
    repeats: int,
    overload: list[float],
    with_floor: bool,
    users: int,
    partitions: int,
    tick_ms: float,
    score_workers: int,
    ingest_workers: int,
    given: dict[str, str],
    out: Path,
    markdown: Path | None,
) -> None:
    """Measure the serving path end to end on a stack of its own.

    Latency counts from the scheduled send time of a request to the arrival of its slate.
    """
    command = "python -m bench.serving " + subprocess.list2cmdline(sys.argv[1:])
    todo = list(scenarios(rates, repeats, overload, with_floor))
    runs: list[Run] = []
    machine = describe()
    with Session(users, partitions, given, _say) as session:
        for _ in range(score_workers):
            session.start_worker("score")
        for _ in range(ingest_workers):
            session.start_worker("ingest")
        if with_floor:
            for role in ("score", "ingest"):
                session.start_floor(role)
        _warm_up(session, warm_up, tick_ms, with_floor)
        _say(f"processes {session.watched().families}")
        for number, scenario in enumerate(todo, start=1):
            load = Load(
                name=f"{scenario.side}-{scenario.rate:g}-{scenario.repeat}-{time.time_ns():x}",
                requests_per_s=scenario.rate,
                events_per_s=events,
                seconds=warm + seconds,
                num_users=users,
                seed=1000 + scenario.repeat,
            )
            run = measure(session, scenario.side, load, warm, tick_ms, session.dir / "runs")
            run.summary["repeat"] = scenario.repeat
            run.summary["overload"] = scenario.rate in overload and scenario.rate not in rates
            runs.append(run)
            _say(f"{number}/{len(todo)} {report.one_line(run.summary)}")
    data: dict[str, Any] = {
        "bench": "serving",
        "command": command,
        "machine": machine,
        "settings": given,
        "users": users,
        "partitions": partitions,
        "runs": [run.summary for run in runs],
    }
    _write(out, data, runs, markdown)
    wide_console().print(report.table(data))
    print(orjson.dumps({**data, "rows": report.rows(data), "runs": len(runs)}).decode())


def _say(text: str) -> None:
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", highlight=False)


def _warm_up(session: Session, seconds: float, tick_ms: float, with_floor: bool) -> None:
    """Until every side answers, then some load: the broker's Java compiles itself for a while."""

    def answers(side: str, rate: float, lasting_s: float) -> bool:
        load = Load(
            name=f"warm-{side}-{time.time_ns():x}",
            requests_per_s=rate,
            events_per_s=_WARM_EVENTS,
            seconds=lasting_s,
            num_users=session.num_users,
            seed=7,
        )
        run = measure(session, side, load, 0.0, tick_ms, session.dir / "runs")
        return run.summary["lost"] == 0 and run.summary["tiers"]["fresh"] > 0

    for side in (FINTREC, FLOOR) if with_floor else (FINTREC,):
        _say(f"warming up {side}")
        wait_until(f"{side} answers", lambda side=side: answers(side, 50, 1), 60)  # type: ignore[misc]
        answers(side, _WARM_RATE, seconds if side == FINTREC else seconds / 2)


def _write(out: Path, data: dict[str, Any], runs: list[Run], markdown: Path | None) -> None:
    from bench import plots

    out.mkdir(parents=True, exist_ok=True)
    (out / "serving.json").write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))
    latencies: dict[str, Any] = {
        run.summary["name"]: run.latency_ms.astype(np.float32) for run in runs
    }
    np.savez_compressed(out / "serving-latencies.npz", **latencies)
    # Beside the page that shows them, or with the other results.
    folder = out if markdown is None else markdown.parent / report.IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    plots.latency_cdf(runs, folder / "serving-latency.png")
    plots.p99_by_rate(data, folder / "serving-p99.png")
    plots.cpu_by_process(data, folder / "serving-cpu.png")
    if markdown is not None:
        write_section(markdown, "serving", report.serving_section(data))


if __name__ == "__main__":
    try:
        main()
    except FintrecError as failed:
        console.print(f"[red]{failed}[/red]")
        sys.exit(1)

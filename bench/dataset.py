"""Building data sets of logs a factor of ten apart, on both engines: rows a second, and memory.

    python -m bench.dataset [--users 400] [--repeats 3] [--markdown docs/performance.md]

The logs are simulated: 104 digital days and three years of history, `--users` and ten times as
many. Each build is a process of its own, `fintrec dataset build`; engines and sizes take turns. CPU
time and memory are those of the process and everything below it, sampled ten times a second: the
last CPU time of each process, the largest sum of resident memory. A row is an event, a consent or a nightly row of the log.
The last line is JSON.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import orjson
import psutil
from rich.console import Console

from bench.machine import describe
from bench.pages import markdown_option
from fintrec.bank.simulate import BankSize, simulate
from fintrec.datasets import ENGINES, read_manifest
from fintrec.result_files import markdown_table, write_section

FACTOR: Final = 10
END_MS: Final = 1_795_564_800_000  # 2026-11-25
_SAMPLED_EVERY_S: Final = 0.1
_COLUMNS: Final = (
    "engine",
    "users",
    "log rows",
    "shards",
    "rows/s",
    "range",
    "CPU us/row",
    "peak MiB",
    "data set MiB",
)
console = Console(stderr=True)


def built(engine: str, log_dir: Path, out: Path) -> dict[str, Any]:
    """One build in a process of its own."""
    command = [sys.executable, "-m", "streams", "dataset", "build", str(log_dir), "--out", str(out)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--engine", engine, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak, cpu_s = 0, dict[int, float]()
    while process.poll() is None:
        peak = max(peak, _resident(process.pid, cpu_s))
        time.sleep(_SAMPLED_EVERY_S)
    seconds = time.perf_counter() - begin
    assert process.stderr is not None
    if process.returncode:
        raise RuntimeError(f"{engine}: {process.stderr.read().decode()[-500:]}")
    manifest = read_manifest(out)
    rows = sum(n for name, n in manifest["log_rows"].items())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "engine": engine,
        "rows": rows,
        "num_shards": manifest["num_shards"],
        "decisions": sum(p["decisions"] for p in manifest["counts"]["periods"].values()),
        "seconds": round(seconds, 2),
        "cpu_s": round(sum(cpu_s.values()), 2),
        "peak_mib": round(peak / 2**20),
        "dataset_mib": round(size / 2**20, 1),
    }


def _resident(pid: int, cpu_s: dict[int, float]) -> int:
    """Resident bytes of a process and everything below it; notes the CPU time of each so far."""
    total = 0
    try:
        root = psutil.Process(pid)
        everyone = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in everyone:
        try:
            total += process.memory_info().rss
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        cpu_s[process.pid] = times.user + times.system
    return total


def rows_of(runs: list[dict[str, Any]]) -> list[list[str]]:
    """One line an engine and size, medians of the repeats."""
    lines = []
    for engine in ENGINES:
        for users in sorted({run["users"] for run in runs}):
            own = [run for run in runs if (run["engine"], run["users"]) == (engine, users)]
            if not own:
                continue
            speed = [run["rows"] / run["seconds"] for run in own]
            lines.append(
                [
                    engine,
                    f"{users:,}",
                    f"{own[0]['rows']:,}",
                    f"{own[0]['num_shards']}",
                    f"{np.median(speed):,.0f}",
                    f"{min(speed):,.0f}-{max(speed):,.0f}",
                    f"{np.median([run['cpu_s'] / run['rows'] * 1e6 for run in own]):.2f}",
                    f"{np.median([run['peak_mib'] for run in own]):,.0f}",
                    f"{own[0]['dataset_mib']:,.1f}",
                ]
            )
    return lines


def growth(runs: list[dict[str, Any]], engine: str) -> dict[str, float]:
    """Time and memory of the larger log by those of the smaller one, time per row."""
    small, large = sorted({run["users"] for run in runs})

    def median(users: int, what: str) -> float:
        own = [r for r in runs if (r["engine"], r["users"]) == (engine, users)]
        return float(np.median([r[what] / (1 if what == "peak_mib" else r["rows"]) for r in own]))

    return {
        f"{what}_growth": round(median(large, what) / median(small, what), 2)
        for what in ("seconds", "cpu_s", "peak_mib")
    }


def section(data: Mapping[str, Any]) -> str:
    """The section of `docs/performance.md`."""
    machine, runs = data["machine"], data["runs"]
    goals = [
        [
            engine,
            f"{found['seconds_growth']:.2f}",
            f"{found['cpu_s_growth']:.2f}",
            "yes" if found["cpu_s_growth"] <= 1.2 else "no",
            f"{found['peak_mib_growth']:.2f}",
        ]
        for engine, found in data["growth"].items()
    ]
    names = ("engine", "time", "CPU time", "CPU time <= 1.2", "memory in all")
    lines = [
        f"Made by `{data['command']}` on {machine['date']}, commit {machine['commit']}, on "
        f"{machine['cores']} cores of {machine['processor']}, Python {machine['python']}. "
        "`fintrec dataset build`, start and end of the process included, of simulated logs with "
        "104 digital days and three years of history. Medians of the repeats. Spark is local, with "
        "all cores; the local engine is one process. Rows a second depend on what else the "
        "machine does, CPU time hardly.",
        "",
        *markdown_table(_COLUMNS, rows_of(runs)),
        "",
        "The log ten times as large by the smaller one, time per row:",
        "",
        *markdown_table(names, goals),
        "",
        "The smaller log has as many files (one a topic and day, three years of them) with a tenth "
        "of the rows in each, so its rows cost more. Memory is bounded by a shard: below a million "
        "rows it grows with the log, above that it does not.",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--users", default=400, show_default=True, type=click.IntRange(10))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), default=ENGINES)
@markdown_option("dataset")
def main(users: int, repeats: int, engines: tuple[str, ...], markdown: Path | None) -> None:
    """Measure dataset building at two sizes a factor of ten apart."""
    command = "python -m bench.dataset " + subprocess.list2cmdline(sys.argv[1:])
    machine, runs = describe(), []
    with tempfile.TemporaryDirectory(prefix="fintrec-bench-") as name:
        folder = Path(name)
        for number in (users, users * FACTOR):
            simulate(BankSize("bench", number, 104, 1096), 0, END_MS, folder / f"log-{number}")
        for repeat in range(repeats):
            for engine in engines:
                for number in (users, users * FACTOR):
                    out = folder / f"set-{repeat}-{engine}-{number}"
                    found = {**built(engine, folder / f"log-{number}", out), "users": number}
                    runs.append(found)
                    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {found}")
    grown = {engine: growth(runs, engine) for engine in engines}
    data = {"command": command, "machine": machine, "runs": runs, "growth": grown}
    if markdown is not None:
        write_section(markdown, "dataset", section(data))
    print(orjson.dumps(data).decode())


if __name__ == "__main__":
    main()

"""Speed, memory and size of the simulated bank at two numbers of users, a factor of ten apart.

    python -m bench.simulate [--users 2500,25000] [--repeats 3] [--markdown docs/performance.md]

Method: each run is a process of its own, `fintrec simulate --size medium --users N`; the sizes take
turns, so that noise meets both alike. CPU time is user and system time of that process, memory its
peak as it reports it itself. Medians of the repeats, the range beside. The last line is JSON.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click

from bench.machine import describe
from bench.pages import markdown_option
from fintrec import logs
from fintrec.result_files import write_section

END: Final = "2026-11-25T00:00:00Z"
COLUMNS: Final = (
    "users",
    "events",
    "CPU s",
    "wall s",
    "CPU us/event (range)",
    "events/s of CPU",
    "peak memory MB (range)",
    "log bytes/event",
    "truth bytes/event",
)


def run(num_users: int, seed: int) -> dict[str, Any]:
    """One simulation in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="bench-simulate-"))
    argv = ["simulate", "--size", "medium", "--users", str(num_users), "--seed", str(seed)]
    argv += ["--end", END, "--out", str(folder / "log"), "--json"]
    try:
        began = time.perf_counter()
        with (folder / "told.json").open("wb") as told:
            child = subprocess.Popen([sys.executable, "-m", "streams", *argv], stdout=told)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began
        if child.returncode:
            raise RuntimeError(f"fintrec {' '.join(argv)} ended with {child.returncode}")
        found = json.loads((folder / "told.json").read_bytes())
    finally:
        shutil.rmtree(folder)
    events = sum(found["rows"][name] for name in logs.EVENT_TABLES)
    return {
        "users": num_users,
        "seed": seed,
        "events": events,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "wall_s": round(wall_s, 2),
        "peak_mb": found["peak_memory_mb"],
        "log_bytes_per_event": round(found["bytes_per_user"] * num_users / events, 2),
        "truth_bytes_per_event": round(found["truth_bytes_per_user"] * num_users / events, 2),
    }


def lines(runs: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row a number of users, by COLUMNS."""
    rows = []
    for users in sorted({found["users"] for found in runs}):
        mine = [found for found in runs if found["users"] == users]
        us = [found["cpu_s"] / found["events"] * 1e6 for found in mine]
        middle = {name: statistics.median(f[name] for f in mine) for name in mine[0]}
        peaks = [found["peak_mb"] for found in mine]
        rows.append(
            (
                f"{users:,}",
                f"{middle['events']:,.0f}",
                f"{middle['cpu_s']:.1f}",
                f"{middle['wall_s']:.1f}",
                f"{statistics.median(us):.2f} ({min(us):.2f}-{max(us):.2f})",
                f"{1e6 / statistics.median(us):,.0f}",
                f"{middle['peak_mb']:,.0f} ({min(peaks):,}-{max(peaks):,})",
                f"{middle['log_bytes_per_event']:.1f}",
                f"{middle['truth_bytes_per_event']:.1f}",
            )
        )
    return rows


def growth(runs: list[dict[str, Any]]) -> float:
    """CPU time an event with the most users, over that with the fewest."""
    by_users: dict[int, list[float]] = {}
    for found in runs:
        by_users.setdefault(found["users"], []).append(found["cpu_s"] / found["events"])
    return statistics.median(by_users[max(by_users)]) / statistics.median(by_users[min(by_users)])


def section(data: dict[str, Any]) -> str:
    """The section of docs/performance.md."""
    machine = data["machine"]
    return "\n".join(
        [
            f"Made by `{data['command']}` on {machine['date']}, commit {machine['commit']}, on "
            f"{machine['cores']} cores of {machine['processor']}, Python {machine['python']}. "
            "Simulated bank, size medium (1,096 days of history, 104 digital) with fewer users; "
            "one process, users played in chunks of 12,500. Medians of the repeats, other work "
            "beside. Rows of `user_static` are written, too, and not counted.",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|" + "---|" * len(COLUMNS),
            *("| " + " | ".join(line) + " |" for line in lines(data["runs"])),
            "",
            f"Growth of CPU time an event: {growth(data['runs']):.2f} x (goal: at most 1.2).",
        ]
    )


@click.command()
@click.option("--users", default="2500,25000", show_default=True, help="Numbers of users.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@markdown_option("simulate")
def main(users: str, repeats: int, markdown: Path | None) -> None:
    """Simulate banks of several sizes, in turn, and say what they took."""
    machine = describe()
    runs = []
    for repeat in range(repeats):
        for num_users in (int(number) for number in users.split(",")):
            runs.append(run(num_users, seed=repeat))
            click.echo(f"{runs[-1]}", err=True)
    command = "python -m bench.simulate " + subprocess.list2cmdline(sys.argv[1:])
    data = {"bench": "simulate", "command": command, "machine": machine, "runs": runs}
    if markdown is not None:
        write_section(markdown, "simulate", section(data))
    print(section(data))
    print(json.dumps(data))


if __name__ == "__main__":
    main()

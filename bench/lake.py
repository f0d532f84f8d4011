"""Writing the lake at two sizes a factor of ten apart: rows a second, and memory.

    python -m bench.lake [--records 100000] [--repeats 3] [--markdown docs/performance.md]

Records of clicks and card purchases go through the lake worker's own work in batches as the feed
hands them over: decoding at the border, parts by day, manifests, every sync. Making the records, and
Kafka, are not counted; merging is, apart. Each run is a process of its own; sizes take turns. The
last line is JSON.
"""

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import orjson
from rich.console import Console

from bench.machine import describe
from bench.pages import markdown_option
from fintrec.result_files import markdown_table, write_section
from streams.lake import Lake
from streams.lake_compaction import Limits, compact_all
from streams.settings import Settings
from streams.topics import CLICKSTREAM, TRANSACTIONS
from streams.wire import Received

FACTOR: Final = 10
PARTITIONS: Final = 4
BATCH: Final = 10_000
START_MS: Final = 1_795_564_800_000  # 2026-11-25
SPAN_MS: Final = 3 * 86_400_000  # of event times, whatever the size
_COLUMNS: Final = (
    "records",
    "rows/s",
    "range",
    "CPU us/row",
    "merging us/row",
    "peak MiB",
    "parts",
    "bytes/row",
)
console = Console(stderr=True)


def batches(num_records: int) -> Iterator[list[Received]]:
    """Records in the order of a topic, each batch with some of every partition."""
    offsets = {(t, p): 0 for t in (CLICKSTREAM, TRANSACTIONS) for p in range(PARTITIONS)}
    for start in range(0, num_records, BATCH):
        found = []
        for number in range(start, min(start + BATCH, num_records)):
            topic = TRANSACTIONS if number % 10 < 3 else CLICKSTREAM
            partition = number * 7 // 10 % PARTITIONS
            time_ms = START_MS + number * SPAN_MS // num_records
            offset = offsets[topic, partition]
            offsets[topic, partition] += 1
            key, value = _record(topic, number, time_ms)
            found.append(Received(topic, partition, offset, key, value, time_ms + 3))
        yield found


def _record(topic: str, number: int, time_ms: int) -> tuple[bytes, bytes]:
    user = f"u{number * 2654435761 % 50_000:06d}"
    common = {"event_id": f"{number:032x}", "user_id": user, "event_time_ms": time_ms}
    if topic == TRANSACTIONS:
        more = {"kind": "purchase", "amount_usd": number % 9973 / 100, "mcc": "5812"}
        more |= {"merchant": f"merchant {number % 3000}", "account": "credit_card"}
    else:
        more = {"action": "impression", "channel": "mobile_app", "product": "mobile_home"}
        more |= {"page": "home", "placement": "feed", "layout": "carousel", "device": "ios"}
        more |= {"position": number % 5 + 1, "item_id": f"item_{number % 211}"}
        more |= {"session_id": f"s{number // 40:012d}", "slate_id": f"{number // 5:032x}"}
    return user.encode(), orjson.dumps(common | more)


def written(num_records: int, lake_dir: Path) -> dict[str, Any]:
    """One lake, in this process."""
    work = Lake(Settings(lake_dir=lake_dir))
    spent = [0.0, 0.0]

    async def write() -> None:
        places = [(t, p) for t in (CLICKSTREAM, TRANSACTIONS) for p in range(PARTITIONS)]
        await work.assigned(places)
        for batch in batches(num_records):
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await work.handle(batch)
            spent[0] += time.perf_counter() - began_s
            spent[1] += time.process_time() - began_cpu_s

    asyncio.run(write())
    began_s = time.perf_counter()
    compact_all(lake_dir, Limits(2, 0, 0), "bench")
    merging_s = time.perf_counter() - began_s
    compact_all(lake_dir, Limits(2, 0, 0), "bench")  # deletes what was merged
    parts = [path for path in lake_dir.rglob("part-*.parquet")]
    return {
        "records": num_records,
        "seconds": round(spent[0], 3),
        "cpu_s": round(spent[1], 3),
        "merging_s": round(merging_s, 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "parts": len(parts),
        "bytes": sum(path.stat().st_size for path in parts),
    }


def in_a_process(num_records: int) -> dict[str, Any]:
    """`written` in a process of its own, so that its memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "bench.lake", "--one", str(num_records), "--folder", folder],
            stdout=subprocess.PIPE,
            check=True,
        )
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found


def rows_of(runs: list[dict[str, Any]]) -> list[list[str]]:
    """One line a size, medians of the repeats."""
    lines = []
    for size in sorted({run["records"] for run in runs}):
        own = [run for run in runs if run["records"] == size]
        speed = [size / run["seconds"] for run in own]
        lines.append(
            [
                f"{size:,}",
                f"{np.median(speed):,.0f}",
                f"{min(speed):,.0f}-{max(speed):,.0f}",
                f"{np.median([run['cpu_s'] / size * 1e6 for run in own]):.1f}",
                f"{np.median([run['merging_s'] / size * 1e6 for run in own]):.1f}",
                f"{np.median([run['peak_mib'] for run in own]):,.0f}",
                f"{own[0]['parts']:,}",
                f"{own[0]['bytes'] / size:.1f}",
            ]
        )
    return lines


def growth(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Time per row and memory of the larger lake by those of the smaller one."""
    small, large = sorted({run["records"] for run in runs})

    def median(size: int, what: str) -> float:
        own = [run[what] for run in runs if run["records"] == size]
        return float(np.median(own)) / (1 if what == "peak_mib" else size)

    return {
        f"{what}_growth": round(median(large, what) / median(small, what), 2)
        for what in ("seconds", "cpu_s", "peak_mib")
    }


def section(data: Mapping[str, Any]) -> str:
    """The section of `docs/performance.md`."""

    machine, grown = data["machine"], data["growth"]
    return "\n".join(
        [
            f"Made by `{data['command']}` on {machine['date']}, commit {machine['commit']}, on "
            f"{machine['cores']} cores of {machine['processor']}, Python {machine['python']}. One "
            f"lake worker's work without Kafka: clicks and purchases, {PARTITIONS} partitions of "
            f"two topics, 3 days, batches of {BATCH:,} records, every part and manifest synced. "
            "Sizes take turns, each run in a process of its own; medians of "
            f"{data['repeats']} repeats. `merging`: all parts into as few as the rule gives.",
            "",
            *markdown_table(list(_COLUMNS), rows_of(data["runs"])),
            "",
            f"Ten times the records: {grown['seconds_growth']:.2f} times the time per row, "
            f"{grown['cpu_s_growth']:.2f} times the CPU per row, {grown['peak_mib_growth']:.2f} "
            "times the memory.",
        ]
    )


@click.command()
@click.option("--records", default=100_000, show_default=True, type=click.IntRange(1000))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@markdown_option("lake")
@click.option("--one", type=int, hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    records: int, repeats: int, markdown: Path | None, one: int | None, folder: Path | None
) -> None:
    """Measure lake writing at two sizes a factor of ten apart, in turn."""
    if one is not None and folder is not None:
        print(orjson.dumps(written(one, folder)).decode())
        return
    runs = []
    for _ in range(repeats):
        for size in (records, FACTOR * records):
            runs.append(in_a_process(size))
            console.print(f"[dim]{runs[-1]}[/dim]", highlight=False)
    data = {
        "bench": "lake",
        "command": "python -m bench.lake " + subprocess.list2cmdline(sys.argv[1:]),
        "machine": describe(),
        "repeats": repeats,
        "runs": runs,
        "growth": growth(runs),
    }
    if markdown is not None:
        write_section(markdown, "lake", section(data))
    print(orjson.dumps(data).decode())


if __name__ == "__main__":
    main()

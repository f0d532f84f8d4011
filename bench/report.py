"""Results as a table, as a line, and as a section of a Markdown file.

Repeats are summed up by their median; where it matters (p99) their range stands beside it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from rich.table import Table

from bench.measure import FINTREC, FLOOR, LATE_MS
from fintrec.result_files import markdown_table

Summary = Mapping[str, Any]
IMAGES: Final = "images"  # folder of the plots, beside the page


def one_line(run: Summary) -> str:
    """A run in one line, for those who wait."""
    latency, busy = run["latency_ms"], run["cores"]
    prefix = "floor-" if run["side"] == FLOOR else ""
    state = run["event_to_state_ms"]
    return (
        f"{run['side']} {run['requests_per_s']:g}/s: p50 {latency['p50']} p99 {latency['p99']} "
        f"max {latency['max']} ms, late {run['late_share']:.2%}, lost {run['lost']}, doubled "
        f"{run['doubled']}, tiers {_tiers(run)}, event to state {state['p50']}/{state['p99']} ms "
        f"(missing {state['missing']}), fresh {_percent(run['fresh_share'])}, score "
        f"{_worker_cpu(run, prefix + 'score', 'cpu_us_per_request'):.0f} us/request, ingest "
        f"{_worker_cpu(run, prefix + 'ingest', 'cpu_us_per_event'):.0f} us/event, "
        f"busy {run['cores_total']:.2f} + others {busy['others']:.2f} cores, "
        f"generator lag p99 {run['generator_lag_ms']['p99']} ms"
        + ("" if run["valid"] else " INVALID")
    )


def _tiers(run: Summary) -> str:
    return " ".join(f"{name} {share:.1%}" for name, share in run["tiers"].items() if share)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _worker_cpu(run: Summary, kind: str, unit: str) -> float:
    """Microseconds of all workers of a kind."""
    found: Mapping[str, float] = run[unit]
    return sum(us for name, us in found.items() if name == kind or name.startswith(f"{kind}-"))


def rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a rate: medians over the valid repeats, the floor beside where it was run."""
    found = []
    by_point: dict[tuple[float, str], list[Summary]] = {}
    for run in data["runs"]:
        by_point.setdefault((run["requests_per_s"], run["side"]), []).append(run)
    for rate in sorted({rate for rate, _ in by_point}):
        ours = by_point.get((rate, FINTREC), [])
        if not ours:
            continue
        row = _row(ours, "")
        floor = by_point.get((rate, FLOOR), [])
        if floor:
            below = _row(floor, "floor-")
            row["floor"] = below
            row["p99_ratio"] = _ratio(row["p99_ms"], below["p99_ms"])
            row["score_cpu_ratio"] = _ratio(row["score_us"], below["score_us"])
            row["cpu_ratio"] = _ratio(row["system_us"], below["system_us"])
        found.append(row)
    return found


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return round(ours / theirs, 2) if ours and theirs else None


def _row(runs: list[Summary], prefix: str) -> dict[str, Any]:
    counted = [run for run in runs if run["valid"]] or runs

    def median(get: Callable[[Summary], float | None]) -> float | None:
        values = [value for run in counted if (value := get(run)) is not None]
        return round(float(np.median(values)), 4) if values else None

    p99s = [run["latency_ms"]["p99"] for run in counted]
    return {
        "requests_per_s": runs[0]["requests_per_s"],
        "events_per_s": runs[0]["events_per_s"],
        "num_runs": len(runs),
        "num_invalid": sum(not run["valid"] for run in runs),
        **{
            f"{name}_ms": median(lambda run, name=name: run["latency_ms"][name])  # type: ignore[misc]
            for name in ("p50", "p95", "p99", "p999", "max")
        },
        "p99_range_ms": [min(p99s), max(p99s)],
        "late_share": median(lambda run: run["late_share"]),
        "lost": sum(run["lost"] for run in runs),
        "doubled": sum(run["doubled"] for run in runs),
        "tiers": {
            name: median(lambda run, name=name: run["tiers"][name])  # type: ignore[misc]
            for name in runs[0]["tiers"]
        },
        "event_to_state_p50_ms": median(lambda run: run["event_to_state_ms"]["p50"]),
        "event_to_state_p99_ms": median(lambda run: run["event_to_state_ms"]["p99"]),
        "fresh_share": median(lambda run: run["fresh_share"]),
        "score_us": median(lambda run: _worker_cpu(run, f"{prefix}score", "cpu_us_per_request")),
        "ingest_us": median(lambda run: _worker_cpu(run, f"{prefix}ingest", "cpu_us_per_event")),
        "system_us": median(lambda run: _system_us(run, prefix)),
        "cores_total": median(lambda run: run["cores_total"]),
        "cores_others": median(lambda run: run["cores"]["others"]),
        "cores": {
            name: median(lambda run, name=name: run["cores"].get(name))  # type: ignore[misc]
            for name in runs[0]["cores"]
        },
        "waiting": {
            name: median(lambda run, name=name: run["waiting"].get(name))  # type: ignore[misc]
            for name in runs[0]["waiting"]
        },
        "memory_mb": runs[-1]["memory_mb"],
        "hops_ms": counted[-1]["hops_ms"],
        "generator_lag_p99_ms": median(lambda run: run["generator_lag_ms"]["p99"]),
    }


def _system_us(run: Summary, prefix: str) -> float:
    """CPU of workers and servers per request, without generator, collector and the other side."""
    servers = (
        "kafka",
        "redis",
        *(("triton", "triton encode", "triton head") if not prefix else ()),
    )
    us: Mapping[str, float] = run["cpu_us_per_request"]
    kinds = (f"{prefix}score", f"{prefix}ingest")
    return sum(us.get(name, 0.0) for name in servers) + sum(
        _worker_cpu(run, kind, "cpu_us_per_request") for kind in kinds
    )


def table(data: Mapping[str, Any]) -> Table:
    """The rows for a terminal."""
    shown = Table(title="Serving path, medians of the runs", box=None)
    for name, _ in _COLUMNS:
        shown.add_column(name, justify="right")
    for row in rows(data):
        shown.add_row(*(str(get(row)) for _, get in _COLUMNS))
    return shown


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _full(row: Summary) -> str:
    tiers = row["tiers"]
    return _percent((tiers["fresh"] or 0) + (tiers["stale"] or 0))


_COLUMNS: Final[list[tuple[str, Callable[[Summary], str]]]] = [
    ("requests/s", lambda r: f"{r['requests_per_s']:g}"),
    ("p50", lambda r: _number(r["p50_ms"], 1)),
    ("p95", lambda r: _number(r["p95_ms"], 1)),
    ("p99", lambda r: _number(r["p99_ms"], 1)),
    ("p99 range", lambda r: "-".join(_number(v, 0) for v in r["p99_range_ms"])),
    ("p99.9", lambda r: _number(r["p999_ms"], 1)),
    ("max", lambda r: _number(r["max_ms"], 0)),
    (f"> {LATE_MS:g} ms", lambda r: _percent(r["late_share"])),
    ("lost / doubled", lambda r: f"{r['lost']} / {r['doubled']}"),
    ("full tier", _full),
    (
        "event to state p50 / p99",
        lambda r: f"{_number(r['event_to_state_p50_ms'])} / {_number(r['event_to_state_p99_ms'])}",
    ),
    ("fresh", lambda r: _percent(r["fresh_share"])),
    ("score us/request", lambda r: _number(r["score_us"])),
    ("ingest us/event", lambda r: _number(r["ingest_us"])),
    ("busy cores (others)", lambda r: f"{r['cores_total']:.2f} ({r['cores_others']:.2f})"),
    (
        "floor p50 / p99",
        lambda r: (
            f"{_number(r['floor']['p50_ms'], 1)} / {_number(r['floor']['p99_ms'], 1)}"
            if "floor" in r
            else "-"
        ),
    ),
    ("p99 ratio", lambda r: _number(r.get("p99_ratio"), 2)),
    ("CPU ratio", lambda r: _number(r.get("cpu_ratio"), 2)),
]


def serving_section(data: Mapping[str, Any]) -> str:
    """The section of `docs/performance.md`."""
    found = rows(data)
    machine = data["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"Made by `{data['command']}` on {machine['date']}, commit {machine['commit']}, on "
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GiB, Linux "
        f"{machine['kernel']}, Python {machine['python']}. {versions}.",
        "",
        "Servers, workers, generator and collector share these cores. Open loop: latency counts "
        "from the instant a request was scheduled to the arrival of its slate at the collector, in "
        f"ms. {data['users']:,} users, uniform, each with 120 interactions and 60 purchases; "
        f"{data['partitions']} partitions a topic; recipe tiny_cpu with random weights; up to 30 % "
        "of the events are followed by a request of their user 20 to 500 ms later. Medians of the "
        "repeats. `fresh`: slates that had seen every event of their user older than 100 ms. "
        "`event to state`: from an event's scheduled instant to the write of the state, as the "
        "store reports it. `others`: cores that the rest of the machine kept busy meanwhile. "
        "The floor is `bench/floor.py`, alternated with the system in the same session; `CPU "
        "ratio` compares workers and servers of both sides, per request.",
        "",
        *markdown_table(
            [name for name, _ in _COLUMNS],
            [[get(row) for _, get in _COLUMNS] for row in found],
        ),
        "",
        *_goals(found),
        "",
        "Where a full-tier slate's time goes, p50 / p99 in ms (last run of each rate):",
        "",
        *_hops(found),
        "",
        "CPU by process, cores (microseconds a request; threads that stood ready without a core):",
        "",
        *_cpu(found),
    ]
    lines += [
        "",
        f"![Share of requests slower than a time, by rate]({IMAGES}/serving-latency.png)",
        f"![p50 and p99 by rate]({IMAGES}/serving-p99.png)",
        f"![Cores kept busy, by process]({IMAGES}/serving-cpu.png)",
    ]
    invalid = sum(row["num_invalid"] for row in found)
    if invalid:
        lines += ["", f"{invalid} runs were invalid (their generator was late) and left out."]
    return "\n".join(lines)


INGEST_COLUMNS: Final = (
    "variant",
    "events/s",
    "range",
    "events a batch",
    "ingest us/event",
    "store / encode / write, us of time an event",
    "Triton us/event",
    "Kafka us/event",
    "store us/event",
    "others, cores",
)


def ingest_rows(runs: list[dict[str, Any]]) -> list[list[str]]:
    """One row a variant, medians of its repeats."""
    lines = []
    for variant in dict.fromkeys(run["variant"] for run in runs):
        own = [run for run in runs if run["variant"] == variant]
        rates = [run["events_per_s"] for run in own]

        def cpu(name: str, own: list[dict[str, Any]] = own) -> str:
            values = [
                sum(us for key, us in run["cpu_us_per_event"].items() if key.startswith(name))
                for run in own
            ]
            return f"{np.median(values):.0f}"

        hops = [np.median([run["hops_us_per_event"][h] for run in own]) for h in own[0][_HOPS]]
        lines.append(
            [
                variant,
                f"{np.median(rates):,.0f}",
                f"{min(rates):,.0f}-{max(rates):,.0f}",
                f"{np.median([run['events_per_batch'] for run in own]):.0f}",
                cpu("ingest"),
                " / ".join(f"{value:.0f}" for value in hops),
                cpu("triton"),
                cpu("kafka"),
                cpu("redis"),
                f"{np.median([run['cores_others'] for run in own]):.2f}",
            ]
        )
    return lines


_HOPS: Final = "hops_us_per_event"


def ingest_section(data: Mapping[str, Any]) -> str:
    """The section of `docs/performance.md`."""
    machine = data["machine"]
    lines = [
        f"Made by `{data['command']}` on {machine['date']}, commit {machine['commit']}, on "
        f"{machine['cores']} cores of {machine['processor']}. One ingest worker, a full backlog, "
        f"{data['users']:,} users with full histories (120 interactions and 60 purchases), "
        "everything on the same cores. Medians of the repeats.",
        "",
        *markdown_table(INGEST_COLUMNS, ingest_rows(data["runs"])),
    ]
    return "\n".join(lines)


def _hops(found: list[dict[str, Any]]) -> list[str]:
    names = [name for row in found for name in row["hops_ms"]]
    hops = list(dict.fromkeys(names))
    lines = []
    for row in found:
        cells = [row["hops_ms"].get(hop) for hop in hops]
        shown = [f"{c['p50']:.1f} / {c['p99']:.1f}" if c else "-" for c in cells]
        lines.append([f"{row['requests_per_s']:g}", *shown])
    return markdown_table(["requests/s", *hops], lines)


def _cpu(found: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in found for name in row["cores"]))
    shown = [name for name in names if not name.startswith("floor-")]
    lines = [
        [f"{row['requests_per_s']:g}", *(_cpu_cell(row, name) for name in shown)] for row in found
    ]
    memory = found[-1]["memory_mb"] if found else {}
    lines.append(
        ["memory, MB", *(f"{memory[name]:.0f}" if name in memory else "-" for name in shown)]
    )
    return markdown_table(["requests/s", *shown], lines)


def _cpu_cell(row: Summary, name: str) -> str:
    busy = row["cores"].get(name)
    if busy is None:
        return "-"
    waited = row["waiting"].get(name)
    suffix = "" if waited is None else f"; {waited:.2f}"
    return f"{busy:.2f} ({busy * 1e6 / row['requests_per_s']:.0f}{suffix})"


def _goals(found: list[dict[str, Any]]) -> list[str]:
    by_rate = {row["requests_per_s"]: row for row in found}
    lines: list[list[str]] = []

    def judge(goal: str, reached: float | None, limit: float, unit: str, digits: int = 0) -> None:
        if reached is not None:
            verdict = "yes" if reached <= limit else "no"
            lines.append([goal, f"{reached:.{digits}f}{unit}", verdict])

    if (row := by_rate.get(1500)) is not None:
        judge("1,500 requests/s: p99 <= 120 ms", row["p99_ms"], 120, " ms", 1)
        judge("1,500 requests/s: p99 <= 60 ms (stretch)", row["p99_ms"], 60, " ms", 1)
        judge("1,500 requests/s: p99 <= 2.5 x the floor", row.get("p99_ratio"), 2.5, "", 2)
        judge("scoring <= 400 us of CPU a request", row["score_us"], 400, " us")
        judge("event to state p99 <= 100 ms", row["event_to_state_p99_ms"], 100, " ms", 1)
    if (row := by_rate.get(3000)) is not None:
        judge("3,000 requests/s: p99 <= 120 ms", row["p99_ms"], 120, " ms", 1)
    if (row := by_rate.get(6000)) is not None:
        judge(
            "6,000 requests/s: p99 <= 120 ms, the rest on the cheap tier",
            row["p99_ms"],
            120,
            " ms",
            1,
        )
    lost = sum(row["lost"] + row["doubled"] for row in found)
    judge("no slate lost or doubled", lost, 0, "")
    return markdown_table(["goal", "measured", "reached"], lines)

"""Sections of a Markdown file, and runs summed up as rows."""

from typing import Any

from bench.measure import FINTREC, FLOOR
from bench.report import rows, serving_section
from fintrec.slates import TIERS


def run(side: str, p99: float, valid: bool = True, rate: float = 1500.0) -> dict[str, Any]:
    prefix = "floor-" if side == FLOOR else ""
    worker = {f"{prefix}score": 300.0} if prefix else {"score-1": 200.0, "score-2": 100.0}
    busy = {"kafka": 0.2, "others": 0.1, **dict.fromkeys(worker, 0.3)}
    return {
        "side": side,
        "requests_per_s": rate,
        "events_per_s": 300.0,
        "valid": valid,
        "latency_ms": {"p50": 10.0, "p95": 20.0, "p99": p99, "p999": 50.0, "max": 60.0},
        "late_share": 0.0,
        "lost": 0,
        "doubled": 0,
        "tiers": dict.fromkeys(TIERS, 0.25),
        "event_to_state_ms": {"p50": 20.0, "p99": 50.0},
        "fresh_share": 1.0,
        "cores": busy,
        "cores_total": 0.5,
        "cpu_us_per_request": {"kafka": 100.0, **worker},
        "cpu_us_per_event": {"kafka": 500.0, f"{prefix}ingest-1": 400.0},
        "memory_mb": {"kafka": 400.0},
        "waiting": {"kafka": 0.1},
        "hops_ms": {"queue": {"p50": 5.0, "p99": 9.0}},
        "generator_lag_ms": {"p99": 3.0},
    }


def test_a_row_is_the_median_of_its_valid_runs_and_the_ratio_to_the_floor() -> None:
    runs = [
        run(FINTREC, 40.0),
        run(FINTREC, 50.0),
        run(FINTREC, 60.0),
        run(FINTREC, 900.0, valid=False),
        run(FLOOR, 25.0),
    ]
    (row,) = rows({"runs": runs})
    assert row["p99_ms"] == 50
    assert row["p99_range_ms"] == [40, 60]
    assert row["num_invalid"] == 1
    assert row["score_us"] == 300
    assert row["p99_ratio"] == 2
    assert row["score_cpu_ratio"] == 1


def test_the_section_says_which_goals_were_reached() -> None:
    machine = {
        "date": "2026-01-01 00:00 UTC",
        "processor": "P",
        "cores": 2,
        "memory_gb": 8,
        "kernel": "6",
        "python": "3.11",
        "versions": {"torch": "2"},
        "commit": "abc",
    }
    data = {
        "command": "c",
        "machine": machine,
        "users": 10,
        "partitions": 4,
        "runs": [run(FINTREC, 130.0), run(FLOOR, 100.0)],
    }
    text = serving_section(data)
    assert "| 1,500 requests/s: p99 <= 120 ms | 130.0 ms | no |" in text
    assert "| 1,500 requests/s: p99 <= 2.5 x the floor | 1.30 | yes |" in text

"""The table of the data set bench: medians, ranges and growth of what was measured."""

from bench.dataset import growth, rows_of, section


def run(engine: str, users: int, rows: int, seconds: float, peak_mib: int) -> dict[str, object]:
    return {
        "engine": engine,
        "users": users,
        "rows": rows,
        "num_shards": 2,
        "seconds": seconds,
        "cpu_s": seconds / 2,
        "peak_mib": peak_mib,
        "dataset_mib": 3.25,
    }


RUNS = [
    run("local", 10, 1_000, 2.0, 100),
    run("local", 10, 1_000, 4.0, 110),
    run("local", 10, 1_000, 1.0, 130),
    run("local", 100, 10_000, 22.0, 121),
    run("local", 100, 10_000, 30.0, 121),
    run("local", 100, 10_000, 20.0, 121),
]


def test_rows_are_medians_with_their_range() -> None:
    assert rows_of(RUNS) == [
        ["local", "10", "1,000", "2", "500", "250-1,000", "1000.00", "110", "3.2"],
        ["local", "100", "10,000", "2", "455", "333-500", "1100.00", "121", "3.2"],
    ]


def test_growth_is_time_per_row_and_memory_in_all() -> None:
    found = growth(RUNS, "local")
    assert found == {"seconds_growth": 1.1, "cpu_s_growth": 1.1, "peak_mib_growth": 1.1}


def test_the_section_says_command_machine_and_whether_the_goal_is_reached() -> None:
    machine = {
        "date": "2026-11-25",
        "commit": "abc",
        "cores": 2,
        "processor": "EPYC",
        "python": "3.11",
    }
    grown = {"local": growth(RUNS, "local")}
    text = section({"command": "bench", "machine": machine, "runs": RUNS, "growth": grown})
    assert "Made by `bench` on 2026-11-25, commit abc, on 2 cores of EPYC, Python 3.11." in text
    assert "| local | 1.10 | 1.10 | yes | 1.10 |" in text

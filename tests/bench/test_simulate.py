import pytest

from bench.simulate import growth, lines, section


def found(users, events, cpu_s):
    return {
        "users": users,
        "seed": 0,
        "events": events,
        "cpu_s": cpu_s,
        "wall_s": cpu_s,
        "peak_mb": 100,
        "log_bytes_per_event": 20.0,
        "truth_bytes_per_event": 10.0,
    }


RUNS = [
    found(10, 1_000_000, 2.0),
    found(100, 10_000_000, 25.0),
    found(10, 1_000_000, 4.0),
    found(100, 10_000_000, 27.0),
    found(10, 1_000_000, 2.5),
    found(100, 10_000_000, 30.0),
]


def test_growth_compares_the_median_cost_of_an_event():
    assert growth(RUNS) == pytest.approx(2.7 / 2.5)


def test_a_row_shows_medians_and_the_range():
    small, large = lines(RUNS)
    assert small[0] == "10"
    assert small[4] == "2.50 (2.00-4.00)"
    assert small[5] == "400,000"
    assert large[4] == "2.70 (2.50-3.00)"


def test_the_section_names_command_machine_and_growth():
    machine = {
        "date": "2026-11-25",
        "commit": "abc",
        "cores": 2,
        "processor": "cpu",
        "python": "3.11",
    }
    text = section({"command": "python -m bench.simulate", "machine": machine, "runs": RUNS})
    for part in ("python -m bench.simulate", "2026-11-25", "abc", "1.08 x"):
        assert part in text

"""The nightly rows' way into the lake: they come from a batch job, not from a topic."""

from pathlib import Path

from fintrec import logs


def copy_nights(log_dir: Path, lake_dir: Path) -> int:
    """Put a log's nightly rows into the lake, a night at a time; returns the rows.

    A night that is there is replaced, so the job may run again. A lake's own nights stay.
    """
    if log_dir.resolve() == lake_dir.resolve():
        return 0
    table = logs.USER_STATIC_TABLE
    return sum(
        logs.write_table(lake_dir, table, logs.read_table(log_dir, table, [night]))
        for night in logs.days_of(log_dir, table)
    )

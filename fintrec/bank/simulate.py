"""One simulated bank from a size, a seed and the instant where its log ends, as a LOG_DIR.

Users are simulated in chunks, one after the other, each from a generator of its own and into part
files of its own, so that memory is bounded by the chunk and a chunk's bytes depend on nothing else.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from features.spec import DAY_MS
from fintrec import logs
from fintrec.bank import tables, truth
from fintrec.bank.chunk import Chunk, Span, catalogue_of, simulate_chunk, stage_rng
from fintrec.bank.demographics import age_bands
from fintrec.bank.population import user_ids
from fintrec.demographics import write_age_bands
from fintrec.machine import peak_memory_bytes as peak_memory_bytes

CHUNK_USERS: Final = 5_000  # at activity 1
MAX_USERS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class BankSize:
    """How many users, and over how many days.

    `num_days` have digital sessions; `history_days`, these included, have money and contacts
    (default: the same days). `activity` scales rates of sessions, purchases and contacts.
    """

    name: str
    num_users: int
    num_days: int
    history_days: int | None = None
    activity: float = 1.0

    def __post_init__(self) -> None:
        if min(self.num_users, self.num_days) < 1 or self.activity <= 0:
            raise ValueError(f"{self} must have users, days and some activity")
        if self.history_days is not None and self.history_days < self.num_days:
            raise ValueError(f"history_days={self.history_days} must be num_days at least")

    @property
    def chunk_users(self) -> int:
        """Users of a chunk."""
        return round(CHUNK_USERS / self.activity)

    @property
    def num_chunks(self) -> int:
        """Chunks of the bank; the last may hold fewer users."""
        return -(-self.num_users // self.chunk_users)

    def span(self, end_ms: int) -> Span:
        """The period of a log that ends at an instant."""
        history = self.num_days if self.history_days is None else self.history_days
        return Span(end_ms - history * DAY_MS, end_ms - self.num_days * DAY_MS, end_ms)


SIZES: Final = {
    size.name: size
    for size in (
        BankSize("tiny", 200, 24, 60),
        BankSize("demo", 1_500, 40, 120),
        BankSize("small", 5_000, 104, 1_096),
        BankSize("medium", 100_000, 104, 1_096, 0.4),
        BankSize("large", 30_000_000, 104, 1_096, 0.4),
    )
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Rates of one measured run."""

    events_per_user: float
    events_per_second: float
    bytes_per_user: float
    truth_bytes_per_user: float
    peak_memory_mb: float
    where: str


@dataclass(frozen=True, slots=True)
class SimulatedLog:
    """What was written: the manifest with rows by table, the seconds it took, and bytes."""

    manifest: dict[str, Any]
    seconds: float
    num_bytes: int
    truth_bytes: int

    @property
    def num_events(self) -> int:
        """Rows of the event topics."""
        rows = self.manifest["rows"]
        return sum(rows[name] for name in logs.EVENT_TABLES)

    def figures(self) -> dict[str, float]:
        """Speed and size, and the process's peak memory so far."""
        num_users = self.manifest["num_users"]
        return {
            "seconds": self.seconds,
            "events_per_second": round(self.num_events / self.seconds),
            "bytes_per_user": round(self.num_bytes / num_users),
            "truth_bytes_per_user": round(self.truth_bytes / num_users),
            "peak_memory_mb": round(peak_memory_bytes() / 1e6),
        }


MEASURED: Final = Measured(
    events_per_user=875,
    events_per_second=309_000,
    bytes_per_user=16_720,
    truth_bytes_per_user=9_620,
    peak_memory_mb=1_338,
    where="bench.simulate, 25,000 users, a 2-core cloud machine, x86-64, Python 3.11, 2026-11-25",
)

Heard = Callable[[int, int], None]
"""Hears (chunks done, events so far) after each chunk."""


def simulate(
    size: BankSize, seed: int, end_ms: int, log_dir: Path, heard: Heard = lambda done, events: None
) -> SimulatedLog:
    """Simulate a bank over [end - days, end); write its LOG_DIR and, beside it, its hidden truth.

    The same arguments write the same bytes. Both folders appear when they are whole, the log last.
    Raises ValueError where LOG_DIR or the folder of its truth holds files already, or cannot be.
    """
    began = time.perf_counter()
    logs.check_replaceable_folder(log_dir)
    _discard(log_dir)  # of a run that was killed
    hidden = truth.truth_dir(log_dir)
    logs.check_replaceable_folder(hidden)
    unfinished = _unfinished(log_dir)
    try:
        manifest = _write_bank(size, seed, end_ms, unfinished, heard)
        truth.truth_dir(unfinished).rename(hidden)
        unfinished.rename(log_dir)
    finally:
        _discard(log_dir)
    seconds = time.perf_counter() - began
    return SimulatedLog(manifest, seconds, _bytes_of(log_dir), _bytes_of(hidden))


def _unfinished(log_dir: Path) -> Path:
    """Where a log is written until it is whole; its truth lies beside it as beside any log."""
    return log_dir.with_name(f".{log_dir.name}.unfinished")


def _discard(log_dir: Path) -> None:
    """Remove what a run left that did not come to its end; nothing after one that did."""
    unfinished = _unfinished(log_dir)
    hidden = truth.truth_dir(unfinished)
    if unfinished.exists():
        if not hidden.exists():  # it ended between the two renames: the truth in place is its own
            shutil.rmtree(truth.truth_dir(log_dir), ignore_errors=True)
        shutil.rmtree(unfinished)
    if hidden.exists():
        shutil.rmtree(hidden)


def _write_bank(
    size: BankSize, seed: int, end_ms: int, log_dir: Path, heard: Heard
) -> dict[str, Any]:
    """Write a bank's log and truth; returns the log's manifest."""
    span = size.span(end_ms)
    catalogue = catalogue_of(seed, span)
    # The truth first: `_discard` takes a log without one for a run that renamed its truth.
    truth.write_items(truth.truth_dir(log_dir), catalogue)
    rows = Counter({logs.ITEMS: logs.write_table(log_dir, logs.ITEMS, tables.items(catalogue))})
    for number in range(size.num_chunks):
        first = number * size.chunk_users
        num_users = min(size.chunk_users, size.num_users - first)
        chunk = simulate_chunk(seed, number, first, num_users, span, size.activity)
        rows += write_chunk(log_dir, chunk)
        heard(number + 1, sum(rows[name] for name in logs.EVENT_TABLES))
    manifest = {
        "made_by": "fintrec simulate",
        "size": size.name,
        "seed": seed,
        "num_users": size.num_users,
        "activity": size.activity,
        "num_chunks": size.num_chunks,
        "history_start_ms": span.history_start_ms,
        "start_ms": span.start_ms,
        "end_ms": end_ms,
        "rows": {name: rows[name] for name in (*logs.RECORDS, logs.USER_STATIC_TABLE)},
    }
    logs.write_manifest(log_dir, manifest)
    return manifest


def write_chunk(log_dir: Path, chunk: Chunk) -> Counter[str]:
    """Write a chunk's part files and its hidden truth; returns the rows by table."""
    rows: Counter[str] = Counter()
    folder = truth.truth_dir(log_dir)

    def write(name: str, table: Any) -> None:
        rows[name] += logs.write_table(log_dir, name, table, chunk.number)

    clicks = tables.clickstream(chunk)
    for block in tables.day_blocks(clicks.time_ms):
        some = clicks.of(block)
        write(logs.CLICKSTREAM, tables.interactions(chunk, some, block.start))
        truth.write_events(folder, chunk, some, block.start)
    for table in tables.transactions(chunk):
        write(logs.TRANSACTIONS, table)
    for table in tables.user_static(chunk):
        write(logs.USER_STATIC_TABLE, table)
    write(logs.CONVERSIONS, tables.conversions(chunk))
    write(logs.CONSENTS, tables.consents(chunk))
    truth.write_chunk(folder, chunk)
    _write_age_bands(log_dir, chunk)
    return rows


def _write_age_bands(log_dir: Path, chunk: Chunk) -> None:
    rng = stage_rng(chunk.seed, chunk.number, "demographics")
    users = user_ids(chunk.first_user, chunk.people.num_users)
    band = age_bands(rng, chunk.people, chunk.span.start_ms)
    write_age_bands(log_dir, users, band, chunk.number)


def scaled(size: BankSize, num_users: int) -> BankSize:
    """The size with another number of users."""
    return replace(size, num_users=num_users)


def extrapolation(size: BankSize) -> str:
    """What a bank would take, from the measured rates of size medium."""
    events = size.num_users * MEASURED.events_per_user
    hours = events / MEASURED.events_per_second / 3600
    return (
        f"about {events / 1e9:,.1f} billion events, {hours:,.0f} hours on one core, "
        f"{size.num_users * MEASURED.bytes_per_user / 1e12:,.2f} TB of log and "
        f"{size.num_users * MEASURED.truth_bytes_per_user / 1e12:,.2f} TB of hidden truth, "
        f"{MEASURED.peak_memory_mb / 1e3:.1f} GB of memory, since chunks are played one by one "
        f"(rates of size medium, {MEASURED.where})"
    )


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

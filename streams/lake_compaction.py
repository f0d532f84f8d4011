"""Merging of the lake's small files: one part in the place of several, never a row twice or lost.

Parts of one folder and partition are merged newest first, each as long as it is not much larger
than what was gathered before it, so a row is written anew a logarithmic number of times. The merged
part takes their place by one rename (`fintrec/parts.py`); they are deleted later, when no reader can
still be at them.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fintrec.lake import OFFSETS, newest_offsets
from fintrec.parts import Span, span_of, split_parts
from streams.lake_ledger import Ledger
from streams.metrics import LAKE_MERGED

logger = logging.getLogger(__name__)
LARGE_BYTES: Final = 256 * 2**20  # parts of this size are left alone
_FACTOR: Final = 4
_GROUP_BYTES: Final = 32 * 2**20  # of rows in memory, about


@dataclass(frozen=True, slots=True)
class Limits:
    """When parts are merged and deleted: see the settings `lake_max_parts` and following."""

    max_parts: int
    quiet_s: float
    keep_s: float


class _Part(NamedTuple):
    path: Path
    span: Span
    num_bytes: int


def compact(ledger: Ledger, limits: Limits, clock: Callable[[], float] = time.time) -> int:
    """Merge what is due of a ledger's partition, delete what is merged; returns how many parts
    were merged.
    """
    merged = 0
    for folder in [ledger.table, *sorted(ledger.table.glob("day=*"))]:
        if not folder.is_dir():
            continue
        changed_ns = folder.stat().st_mtime_ns
        if ledger.settled.get(folder) != changed_ns:
            found = _compact_folder(ledger, folder, limits, clock())
            if found is None:
                ledger.settled[folder] = changed_ns
            else:
                merged += found
    return merged


def _compact_folder(ledger: Ledger, folder: Path, limits: Limits, now_s: float) -> int | None:
    """How many parts were merged; None where there is nothing to do before the folder changes."""
    at = ledger.sequence()
    visible, covered = split_parts(folder.glob(f"part-{ledger.offsets.partition}-*.parquet"))
    parts = [_Part(path, span, path.stat().st_size) for path in visible if (span := span_of(path))]
    parts.sort(key=lambda part: part.span)
    _delete(ledger, parts, covered, now_s - limits.keep_s)
    newest_s = max((part.path.stat().st_mtime for part in parts), default=0.0)
    is_quiet = newest_s <= now_s - limits.quiet_s
    run = _run(parts) if is_quiet or len(parts) > limits.max_parts else []
    if len(run) < 2:
        return None if is_quiet and not covered else 0
    if not _merge(ledger, folder, run, at):
        return 0
    LAKE_MERGED.inc(len(run))
    logger.info("merged parts=%d folder=%s", len(run), folder)
    return len(run)


def _delete(
    ledger: Ledger, parts: Sequence[_Part], covered: Sequence[Path], merged_before_s: float
) -> None:
    """Delete parts that another has covered for long enough."""
    for path in covered:
        span = span_of(path)
        assert span is not None
        above = next(part.path for part in parts if part.span.covers(span))
        if above.stat().st_mtime <= merged_before_s:
            ledger.disk.remove(path)


def _run(parts: Sequence[_Part]) -> list[_Part]:
    """The newest parts, back to one that is much larger than all behind it."""
    run: list[_Part] = []
    total = 0
    for part in reversed(parts):
        if part.num_bytes >= LARGE_BYTES or (run and part.num_bytes > _FACTOR * total):
            break
        run.append(part)
        total += part.num_bytes
    return run[::-1]


def _merge(ledger: Ledger, folder: Path, run: Sequence[_Part], at: int) -> bool:
    span = Span(run[0].span.partition, run[0].span.first, run[-1].span.last)
    path, line = ledger.hidden(folder, span)
    try:
        with pq.ParquetWriter(path, pq.read_schema(run[0].path), compression="zstd") as writer:
            for table in _gathered(run):
                writer.write_table(table)
    except FileNotFoundError:
        return False  # whoever owns the partition by now was faster
    ledger.disk.sync(path)
    ledger.disk.sync(folder)
    return ledger.rewrite([line], at)


def _gathered(run: Sequence[_Part]) -> Iterator[pa.Table]:
    """The rows of parts in order, in tables of a bounded size."""
    waiting: list[pa.Table] = []
    for part in run:
        file = pq.ParquetFile(part.path)
        for number in range(file.num_row_groups):
            waiting.append(file.read_row_group(number))
            if sum(table.nbytes for table in waiting) >= _GROUP_BYTES:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def compact_all(lake_dir: Path, limits: Limits, writer: str) -> int:
    """Merge what is due in a whole lake, beside its workers; returns how many parts were merged."""
    merged = 0
    for folder in sorted((lake_dir / OFFSETS).glob("*/*")):
        if newest_offsets(folder)[1] is not None:
            ledger = Ledger(lake_dir, folder.parent.name, int(folder.name), writer)
            merged += compact(ledger, limits)
    return merged

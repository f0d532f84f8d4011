"""The manifest of offsets of one partition: what is in the lake, in one atomic step.

A part is written under a hidden name; the manifest that names it, with the new next offset, makes it
part of the lake; then it is renamed, by whoever comes first. A manifest is a file with the next
sequence number, made by a link, which succeeds for one writer only: no lock is held, so a worker
that is frozen in mid-commit stops nobody, and when it thaws it finds its number taken.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from features.errors import FintrecError
from fintrec.lake import (
    OFFSETS,
    LakeError,
    Offsets,
    manifest_name,
    newest_offsets,
    sequences,
)
from fintrec.parts import Span, span_of

_KEPT: Final = 16  # manifests behind the newest, so that a late writer's number is still taken


class Overtaken(FintrecError):
    """Another writer owns the partition by now."""


class Disk:
    """Every step that changes a lake's folder, each durable when it returns."""

    def write_table(self, path: Path, table: pa.Table) -> None:
        """Write a Parquet file."""
        pq.write_table(table, path, compression="zstd")
        self.sync(path)

    def write_bytes(self, path: Path, content: bytes) -> None:
        """Write a file."""
        path.write_bytes(content)
        self.sync(path)

    def sync(self, path: Path) -> None:
        """Have a file's bytes, or a folder's names, on the disk."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def make_folder(self, folder: Path) -> None:
        """Make a folder and what it lies in."""
        if not folder.is_dir():
            self.make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            self.sync(folder.parent)

    def link(self, source: Path, target: Path) -> None:
        """Give a file its name unless the name is taken (FileExistsError)."""
        os.link(source, target)
        self.sync(target.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Remove a file, unless it is gone already."""
        path.unlink(missing_ok=True)


class Ledger:
    """Takes a partition over, appends to it, puts merged parts in the place of small ones."""

    def __init__(
        self, lake_dir: Path, topic: str, partition: int, writer: str, disk: Disk | None = None
    ) -> None:
        self.table = lake_dir / topic
        self.offsets = Offsets(topic=topic, partition=partition)
        self.writer = writer
        self.disk = disk or Disk()
        self._folder = lake_dir / OFFSETS / topic / str(partition)
        self.settled: dict[Path, int] = {}  # folders with nothing to merge, with when they changed
        self._finished = 0  # the sequence number whose parts we renamed ourselves

    def take_over(self) -> Offsets:
        """Become the partition's writer; finishes and tidies what a predecessor left.

        Raises LakeError when there are parts that no manifest accounts for.
        """
        self.disk.make_folder(self._folder)
        while True:
            sequence, head = self._head()
            self._finish(sequence, head)
            # Written by somebody whose next commit fails, if ours is the next manifest.
            dead = self._unfinished()
            beyond = self._beyond(head.next_offset)
            fresh = replace(head, writer=self.writer, pending=[], from_offset=head.next_offset)
            with suppress(Overtaken):
                if self._publish(sequence + 1, fresh):
                    break
        if beyond:
            raise LakeError(
                f"{beyond[0]}: {len(beyond)} parts of partition {fresh.partition} lie beyond offset "
                f"{fresh.next_offset}, where {self._folder} ends: restore the folder that is of one "
                "time with them"
            )
        for path in dead:
            self.disk.remove(path)
        self.offsets = fresh
        return fresh

    def hidden(self, folder: Path, span: Span) -> tuple[Path, tuple[str, str]]:
        """Where a part is to be written, and its line in `Offsets.pending`."""
        path = folder / f".{span.file_name}.{self.writer}"
        names = path.relative_to(self.table), (folder / span.file_name).relative_to(self.table)
        return path, (str(names[0]), str(names[1]))

    def append(
        self,
        pending: Sequence[tuple[str, str]],
        next_offset: int,
        num_rows: int,
        skipped: Mapping[str, int],
        missing: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Make hidden parts part of the lake, with the offset that follows them.

        Raises Overtaken when another writer has taken the partition over, LakeError when the
        manifests are gone.
        """
        mine = self.offsets
        while True:
            sequence, head = self._head()
            if not sequence:
                raise LakeError(
                    f"{self._folder}: no manifest, although this worker wrote one: was the lake's "
                    "folder removed? Started again, a worker reads what Kafka still has"
                )
            if (head.writer, head.next_offset) != (self.writer, mine.next_offset):
                for hidden, _ in pending:  # no manifest has ever named them
                    self.disk.remove(self.table / hidden)
                raise Overtaken(
                    f"{mine.topic}[{mine.partition}]: next offset {head.next_offset} of writer "
                    f"{head.writer!r}, expected {mine.next_offset} of {self.writer!r}"
                )
            self._finish(sequence, head)
            counts = {
                reason: head.skipped.get(reason, 0) + skipped.get(reason, 0)
                for reason in sorted({*head.skipped, *skipped})
            }
            fresh = replace(
                head,
                from_offset=head.next_offset,
                next_offset=next_offset,
                num_rows=head.num_rows + num_rows,
                skipped=counts,
                missing=[*head.missing, *missing],
                pending=list(pending),
            )
            if self._publish(sequence + 1, fresh):
                break
        self.offsets = fresh
        self._finish(sequence + 1, fresh)

    def sequence(self) -> int:
        """Number of the manifest that counts, with all its parts renamed."""
        sequence, head = self._head()
        self._finish(sequence, head)
        return sequence

    def rewrite(self, pending: Sequence[tuple[str, str]], at: int) -> bool:
        """Put merged parts in their place, unless there is a newer manifest than number `at`.

        Raises Overtaken when it is much newer.
        """
        sequence, head = self._head()
        if sequence != at:
            return False
        fresh = replace(head, from_offset=head.next_offset, pending=list(pending))
        is_newest = self._publish(sequence + 1, fresh)
        if is_newest:
            self._finish(sequence + 1, fresh)
        return is_newest

    def _head(self) -> tuple[int, Offsets]:
        sequence, head = newest_offsets(self._folder)
        fresh = Offsets(topic=self.offsets.topic, partition=self.offsets.partition)
        return sequence, head or fresh

    def _unfinished(self) -> list[Path]:
        """Hidden files of this partition, of any day."""
        pattern = f".part-{self.offsets.partition}-*"
        return [
            *self.table.glob(pattern),
            *self.table.glob(f"day=*/{pattern}"),
            *self._folder.glob(".*.tmp"),
        ]

    def _beyond(self, next_offset: int) -> list[Path]:
        """Parts of this partition that its manifest does not know of."""
        pattern = f"part-{self.offsets.partition}-*.parquet"
        found = [*self.table.glob(pattern), *self.table.glob(f"day=*/{pattern}")]
        return [path for path in found if (span := span_of(path)) and span.last >= next_offset]

    def _finish(self, sequence: int, head: Offsets) -> None:
        """Rename a manifest's parts; some may be renamed already, or be merged since."""
        if sequence == self._finished:
            return
        folders = set()
        for hidden, name in head.pending:
            target = self.table / name
            try:
                self.disk.rename(self.table / hidden, target)
            except FileNotFoundError:
                if not _is_there(target):
                    raise LakeError(
                        f"{target}: neither it nor {hidden} is there, as the manifest says"
                    ) from None
            folders.add(target.parent)
        for folder in sorted(folders):
            self.disk.sync(folder)
        self._finished = sequence

    def _publish(self, sequence: int, fresh: Offsets) -> bool:
        """Make a manifest the newest one; False when its number is taken, Overtaken when long ago."""
        unnamed = self._folder / f".{self.writer}.tmp"
        self.disk.write_bytes(unnamed, msgspec.json.format(msgspec.json.encode(fresh)))
        target = self._folder / manifest_name(sequence)
        try:
            self.disk.link(unnamed, target)
        except (FileExistsError, FileNotFoundError):
            # Taken, or a successor has tidied the file away before it had a name.
            self.disk.remove(unnamed)
            return False
        self.disk.remove(unnamed)
        known = sequences(self._folder)
        if known[-1] > sequence + _KEPT:
            # The number was free only because it is long past, or others have gone on from it.
            self.disk.remove(target)
            raise Overtaken(f"{target}: manifest {known[-1]} is there already")
        for old in known:
            if old < sequence - _KEPT:
                self.disk.remove(self._folder / manifest_name(old))
        return True


def _is_there(part: Path) -> bool:
    """Whether a part, or one that covers it, has its name."""
    span = span_of(part)
    assert span is not None
    spans = (span_of(path) for path in part.parent.glob(f"part-{span.partition}-*.parquet"))
    return any(other is not None and other.covers(span) for other in spans)

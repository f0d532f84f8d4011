"""The local engine: one process reads the log once, file by file, then builds shard by shard.

Records wait on disk between the two, one Arrow stream a shard, so that memory holds a file of the
log, or one shard, and never the log.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fintrec.dataset.files import write_shard
from fintrec.dataset.plan import Plan
from fintrec.dataset.shard import build_shard
from fintrec.dataset.spill import SPILL, Facts, gathered, spilled

Step = Callable[[str, int, int], None]  # what is being done, steps done, steps in all
# A file is open for each shard, and 1024 open files are a common limit.
MAX_SHARDS: Final = 512
_BUFFERED_BYTES: Final = 64 << 20


class LocalEngine:
    """Spills to `folder`, which exists and is empty; the caller removes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_shards = 0

    def spill(self, files: Sequence[tuple[str, Path]], num_shards: int, step: Step) -> Facts:
        """Read every file of the log into its users' shards; raises LogError."""
        facts = Facts()
        self._num_shards = num_shards
        with _Streams([self._path(shard) for shard in range(num_shards)]) as streams:
            for number, (name, path) in enumerate(files):
                records, found = spilled(name, path, num_shards)
                facts.add(found)
                streams.add(records)
                step("reading the log", number + 1, len(files))
        return facts

    def build(self, plan: Plan, dataset_dir: Path, step: Step) -> list[dict[str, Any]]:
        """Write every shard's tables and return their counts, in the order of the shards."""
        counts = []
        for shard in range(self._num_shards):
            path = self._path(shard)
            with pa.memory_map(str(path)) as source:
                rows = gathered(pa.ipc.open_stream(source).read_all())
            path.unlink()
            counts.append(write_shard(dataset_dir, shard, build_shard(rows, plan), plan))
            step("building shards", shard + 1, self._num_shards)
        return counts

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard-{shard:05d}.arrows"


class _Streams:
    """One Arrow stream a shard, written in pieces large enough to be worth a write."""

    def __init__(self, paths: list[Path]) -> None:
        self._writers = [pa.ipc.new_stream(str(path), SPILL) for path in paths]
        self._waiting: list[pa.Table] = []
        self._num_bytes = 0

    def __enter__(self) -> "_Streams":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        for writer in self._writers:
            writer.close()

    def add(self, records: pa.Table) -> None:
        """Take records that are in the order of their shards."""
        self._waiting.append(records)
        self._num_bytes += records.nbytes
        if self._num_bytes >= _BUFFERED_BYTES:
            self._flush()

    def _flush(self) -> None:
        shards = np.arange(len(self._writers))
        pieces: list[list[pa.Table]] = [[] for _ in self._writers]
        for records in self._waiting:
            of = records["shard"].to_numpy()
            starts = np.searchsorted(of, shards, side="left").tolist()
            ends = np.searchsorted(of, shards, side="right").tolist()
            for shard, (start, end) in enumerate(zip(starts, ends, strict=True)):
                if end > start:
                    pieces[shard].append(records.slice(start, end - start))
        for writer, mine in zip(self._writers, pieces, strict=True):
            if mine:
                writer.write_table(pa.concat_tables(mine).combine_chunks())
        self._waiting, self._num_bytes = [], 0

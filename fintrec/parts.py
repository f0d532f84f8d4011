"""Files of a table's folder, and which of them count.

A writer that knows where its rows come from names a file by them,

    part-<partition>-<first>-<last>.parquet     Kafka partition; offsets, 20 digits each

so that small files can be put together by one rename: a part is not read where another part of the
same folder and partition covers its range. Until the covered files are deleted nobody reads twice.
Any other `part-*.parquet` is read as it is; hidden files are unfinished.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"part-(\d+)-(\d{20})-(\d{20})\.parquet")


class Span(NamedTuple):
    """Offsets of one partition that a part holds rows of, both ends included."""

    partition: int
    first: int
    last: int

    @property
    def file_name(self) -> str:
        """Name of the part."""
        return f"part-{self.partition}-{self.first:020d}-{self.last:020d}.parquet"

    def covers(self, other: "Span") -> bool:
        """Whether every offset of the other lies within this one."""
        return (
            self.partition == other.partition
            and self.first <= other.first
            and other.last <= self.last
        )


def span_of(path: Path) -> Span | None:
    """What a part's name tells; None for a part that is not named by offsets."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else Span(*(int(number) for number in found.groups()))


def visible_parts(folder: Path) -> list[Path]:
    """Parts of a folder that are to be read, by name; empty where there is no folder."""
    visible, _ = split_parts(folder.glob("part-*.parquet"))
    return sorted(visible)


def split_parts(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """(parts to be read, parts that another one covers), each by partition and offset."""
    visible: list[Path] = []
    covered: list[Path] = []
    spans: list[tuple[Span, Path]] = []
    for path in paths:
        span = span_of(path)
        if span is None:
            visible.append(path)
        else:
            spans.append((span, path))
    # The wider of two that start alike comes first, so a part is covered by the widest before it.
    spans.sort(key=lambda pair: (pair[0].partition, pair[0].first, -pair[0].last))
    widest: Span | None = None
    for span, path in spans:
        if widest is not None and widest.covers(span):
            covered.append(path)
            continue
        if widest is None or widest.partition != span.partition or widest.last < span.last:
            widest = span
        visible.append(path)
    return visible, covered

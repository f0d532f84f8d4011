import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fintrec import logs
from fintrec.parts import Span, span_of, split_parts, visible_parts


def test_a_name_says_the_span_and_the_span_the_name(tmp_path):
    span = Span(3, 5, 1 << 40)
    assert span_of(tmp_path / span.file_name) == span
    for name in ("part-0.parquet", "part-1-2-3.parquet", f".{span.file_name}", "x.parquet"):
        assert span_of(tmp_path / name) is None


@pytest.mark.parametrize("seed", range(30))
def test_a_part_is_hidden_exactly_when_another_covers_it(tmp_path, seed):
    rng = random.Random(seed)
    spans = {
        Span(rng.randint(0, 1), first, first + rng.randint(0, 9))
        for first in [rng.randint(0, 12) for _ in range(rng.randint(1, 12))]
    }
    paths = [tmp_path / span.file_name for span in spans]
    visible, covered = split_parts(rng.sample(paths, len(paths)))
    slow = {
        tmp_path / span.file_name
        for span in spans
        if not any(other != span and other.covers(span) for other in spans)
    }
    assert set(visible) == slow
    assert set(covered) == set(paths) - slow


def test_a_merged_part_is_read_in_the_place_of_those_that_it_covers(tmp_path):
    folder = tmp_path / logs.CONVERSIONS / "day=1970-01-01"
    folder.mkdir(parents=True)

    def write(name, ids):
        rows = [{"event_id": i, "user_id": "u", "event_time_ms": 1, "item_id": "i"} for i in ids]
        pq.write_table(pa.Table.from_pylist(rows), folder / name)

    write(Span(0, 0, 4).file_name, "ab")
    write(Span(0, 5, 9).file_name, "cd")
    write(Span(1, 0, 4).file_name, "e")
    write("part-0.parquet", "f")
    before = sorted(logs.read_table(tmp_path, logs.CONVERSIONS)["event_id"].to_pylist())
    write(f".{Span(0, 0, 9).file_name}.unfinished", "abcd")
    assert len(visible_parts(folder)) == 4
    (folder / f".{Span(0, 0, 9).file_name}.unfinished").rename(folder / Span(0, 0, 9).file_name)
    assert len(visible_parts(folder)) == 3
    after = sorted(logs.read_table(tmp_path, logs.CONVERSIONS)["event_id"].to_pylist())
    assert before == after == list("abcdef")

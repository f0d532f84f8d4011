"""Event logs and sessions: n-grams against a slow twin, no future in a decoder or an offer's row."""

import math
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fintrec.logs import LogError
from fintrec.public.event_log import EventLog, read_event_log
from fintrec.public.kind_models import KindSettings, decoder_for, judge
from fintrec.public.kind_windows import windows, without_time
from fintrec.public.ngrams import fit, quality
from fintrec.public.offers import context, find_offers, offer_baselines
from fintrec.public.ragged import ragged
from fintrec.public.sessions import protocol, read_sessions

SEQUENCES = [np.random.default_rng(s).integers(0, 4, 2 + s % 9).tolist() for s in range(60)]
SMALL = KindSettings(d_model=16, d_feed_forward=16, num_layers=1, window=4, use_time=False)


def event_file(path: Path, **changes: list[object]) -> Path:
    hour = 3_600_000
    columns: dict[str, list[object]] = {
        "case": ["a", "a", "b", "b", "c"],
        "activity": ["A_SUBMITTED", "O_SENT", "A_SUBMITTED", "O_ACCEPTED", "A_SUBMITTED"],
        "lifecycle": ["COMPLETE"] * 5,
        "resource": ["1", None, "2", "2", None],
        "ts": [5 * hour, 6 * hour, hour, 2 * hour, 2000 * hour],
        "amount_req": ["100"] * 5,
        "reg_date": ["x"] * 5,
        **changes,
    }
    arrays = {name: pa.array(column) for name, column in columns.items() if column}
    if columns["ts"] and isinstance(columns["ts"][0], int):
        arrays["ts"] = arrays["ts"].cast(pa.timestamp("ms", tz="UTC"))
    pq.write_table(pa.table(arrays), path)
    return path


def test_backoff_agrees_with_a_slow_twin() -> None:
    train, test, order, least, added = SEQUENCES[:40], SEQUENCES[40:], 2, 3, 0.1
    seen: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for sequence in train:
        for place in range(1, len(sequence)):
            for length in range(min(order, place) + 1):
                seen[tuple(sequence[place - length : place])][sequence[place]] += 1
    nll, right, num = 0.0, 0, 0
    for sequence in test:
        for place in range(1, len(sequence)):
            for length in range(min(order, place), -1, -1):
                counts = seen[tuple(sequence[place - length : place])]
                if counts.total() >= least or not length:
                    break
            kind = sequence[place]
            nll -= math.log((counts[kind] + added) / (counts.total() + added * 4))
            right += min(counts, key=lambda k: (-counts[k], k)) == kind
            num += 1
    found = quality(fit(ragged(train, 4), order, least, added), ragged(test, 4))
    assert found == {"nll": round(nll / num, 4), "accuracy": round(right / num, 4), "targets": num}


def test_windows_judge_every_element_after_the_first_once() -> None:
    found = windows(without_time(ragged(SEQUENCES, 4)), 4)
    judged: Counter[int] = Counter()
    for first, length, since in zip(found.first_W, found.length_W, found.judged_W, strict=True):
        judged.update(range(first + since + 1, first + length + 1))
    starts = set(ragged(SEQUENCES, 4).start_S1[:-1].tolist())
    assert judged == Counter(set(range(sum(map(len, SEQUENCES)))) - starts)


def test_a_decoder_does_not_see_what_comes_later() -> None:
    series = without_time(ragged([[0, 1, 2, 3, 1], [0, 1, 2, 0, 0]], 4))
    decoder = decoder_for(series, SMALL, 1).eval()
    batch = windows(series, 4).batch(np.array([0, 1]))
    logits = decoder(batch)
    assert torch.equal(logits[0, :3], logits[1, :3])
    assert not torch.equal(logits[0, 3], logits[1, 3])


def test_judging_is_the_same_however_batches_are_cut() -> None:
    series = without_time(ragged(SEQUENCES, 4))
    decoder = decoder_for(series, SMALL, 1)
    one = judge(decoder, series, SMALL)
    many = judge(decoder, series, KindSettings(**{**SMALL.to_dict(), "batch_tokens": 4}))
    assert one["nll"] == pytest.approx(many["nll"], abs=1e-6)


def test_cases_come_by_their_start_and_offers_know_nothing_later(tmp_path: Path) -> None:
    log = read_event_log(event_file(tmp_path / "log.parquet"))
    assert log.start_C1.tolist() == [0, 2, 4, 5]
    offers, names = find_offers(log), tuple(sorted(set(log.activity_N.tolist())))
    assert offers.row_O.tolist() == [3]
    assert not offers.is_accepted_O.any()
    later = np.arange(5) > 3
    changed = EventLog(
        log.kinds,
        log.kind_N,
        np.where(later, "O_SENT", log.activity_N),
        log.time_ms_N + later,
        log.amount_N * np.where(later, 7, 1),
        log.case_N,
        log.start_C1,
    )
    assert np.array_equal(context(log, offers, names), context(changed, offers, names))
    assert "reason" in offer_baselines(log)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amount_req": []}, "amount_req"),
        ({"amount_req": ["much"] * 5}, "amount_req"),
        ({"ts": [3, 2, 1, 2, 3]}, "not in the order of ts"),
    ],
)
def test_an_event_log_of_another_form_is_named(
    tmp_path: Path, changes: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(LogError, match=message):
        read_event_log(event_file(tmp_path / "log.parquet", **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no sessions"),
        ("1 2\n1 x\n", "line 2"),
        ("1 0\n", "expected 1"),
        ("1 1001\n", r"expected 1\.\.1000"),
        ("a b\n3\n", "1..2"),
    ],
)
def test_sessions_of_another_form_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sessions.seq"
    path.write_text(text)
    with pytest.raises(LogError, match=message):
        read_sessions(path)


def test_a_broken_zip_of_sessions_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sessions.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sessions.seq", "1 2\n" * 100)
    assert len(read_sessions(path)) == 100
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(LogError, match=r"sessions\.zip: begins as a zip"):
        read_sessions(path)


def test_a_single_session_is_too_few(tmp_path: Path) -> None:
    path = tmp_path / "sessions.seq"
    path.write_text("1 2 3\n")
    with pytest.raises(LogError, match=r"sessions\.seq: 1 sessions .* at least 9"):
        protocol(read_sessions(path), path)

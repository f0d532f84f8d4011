"""n-grams on the real files: the figures that the READMEs of the public data publish."""

import pytest

from fintrec.public import next_event, sessions
from fintrec.public.event_log import read_event_log
from fintrec.public.ngrams import fit, quality
from tests.fintrec.real_data import folder_of


def test_next_events_of_the_bank_are_as_published() -> None:
    found = next_event.ngram_quality(read_event_log(folder_of("bpic2012") / "bpic2012.parquet"))
    accuracy = {name: one["accuracy"] for name, one in found.items()}
    assert accuracy == {"bigram": 0.6697, "3-gram": 0.8161, "order-5 backoff": 0.8428}


def test_the_bigram_of_msnbc_is_as_published() -> None:
    path = folder_of("msnbc") / sessions.MSNBC
    train, test = sessions.protocol(sessions.read_sessions(path), path)
    assert (len(train), len(test)) == (400_000, 50_000)
    found = quality(fit(train, 1, sessions.MIN_COUNT), test)
    assert found["accuracy"] == pytest.approx(0.6509, abs=1e-4)
    assert found["nll"] == pytest.approx(1.383, abs=5e-4)

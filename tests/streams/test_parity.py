"""What the scoring worker logged of its inputs is what the lake alone gives, to the byte."""

import asyncio
import random
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from click.testing import CliRunner

from features.border import Border
from features.errors import ModelUnavailable
from features.spec import DAY_MS, ENROLLMENTS, USER_STATIC
from fintrec import lake, logs, parity
from fintrec.catalogue import Catalogue
from streams.commands.parity import parity as parity_verb
from streams.ingest import Ingest
from streams.producer import partition_of
from streams.reference import ReferenceData
from streams.refresh import refresh_record
from streams.scoring import Scoring
from streams.topics import EVENT_TOPICS, SLATE_REQUESTS, STATE_REFRESH
from tests.fakes import (
    Answered,
    FakeClock,
    InMemoryStateStore,
    LocalModels,
    RecordingProducer,
    served,
    served_model,
)
from tests.integration.traffic import consent, life, request
from tests.streams.lake_topics import Topics, run, worker
from tests.streams.workers import NOW_MS, SETTINGS

PARTITIONS = 3
USERS = ("nobody", "new", "saver", "old", "busy", "spender")
ITEMS = ("i0", "i1", "i2")


class ContentModels(LocalModels):
    """Hidden states that depend on every bit of the arrays, whatever they are padded to."""

    def encode(self, arrays: Any, version: int) -> Any:
        return self._content("encode", arrays)

    def repair(self, arrays: Any, version: int) -> Any:
        return self._content("repair", arrays)

    def _content(self, name: str, arrays: Any) -> Any:
        if name in self.fail:
            raise ModelUnavailable(f"triton: {name}: connection refused")
        hidden = np.zeros((len(arrays.times_BT), self.width), np.float16)
        for row, is_row in enumerate(arrays.visits_BT >= 0):
            content = b"".join(array[row][is_row].tobytes() for array in arrays)
            hidden[row] = [zlib.crc32(content, place) % 2039 for place in range(self.width)]
        return hidden


class Bank:
    """Topics, both workers and a store, without servers."""

    def __init__(self) -> None:
        self.topics, self.store = Topics(), InMemoryStateStore()
        self.models = ContentModels(len(ITEMS))
        versions = served(self.models, served_model(1, ITEMS))
        settings = replace(SETTINGS, audit_arrays_share=0.5)
        self.producer = RecordingProducer()
        clock = FakeClock(NOW_MS)
        self.ingest = Ingest(settings, clock, self.store, self.models, versions, self.producer)
        reference = ReferenceData(settings)
        reference.catalogue = Catalogue.of([])
        self.score = Scoring(
            settings,
            clock,
            self.store,
            self.models,
            versions,
            self.producer,
            reference,
            Answered(),
        )
        self._read: dict[tuple[str, int], int] = {}

    def send(self, topic: str, user: str, value: bytes) -> None:
        partition = partition_of(user.encode(), PARTITIONS)
        self.topics.add(topic, value, partition, key=user.encode())

    def work_off(self, work: Any, topics: tuple[str, ...]) -> None:
        """Have a worker read what is new on its topics."""
        batch = []
        for place, log in list(self.topics.logs.items()):
            if place[0] in topics:
                batch += log[self._read.get(place, 0) :]
                self._read[place] = len(log)
        self.producer.sent.clear()
        if batch:
            asyncio.run(work.handle(batch))
        for record in self.producer.sent:
            if not record.topic.endswith(".dead_letter"):
                partition = partition_of(record.key, PARTITIONS)
                self.topics.add(record.topic, record.value, partition, key=record.key)

    def night(self, user: str, cutoff_ms: int) -> dict[str, Any]:
        """A nightly row, put into the store; as the lake has it."""
        rng = random.Random(f"{user}{cutoff_ms}")
        owned = rng.sample(ENROLLMENTS, 3)
        tenure = {f"tenure_{n}": rng.randint(1, 900) if n in owned else 0 for n in ENROLLMENTS}
        values = {"enrollments": owned, **tenure, "tenure_bank": 950}
        self.store.put_view(user, USER_STATIC.name, cutoff_ms, values)
        stamps = (cutoff_ms * 1000, (cutoff_ms + 3_600_000) * 1000)
        return {
            "user_id": user,
            "event_timestamp": stamps[0],
            "created_timestamp": stamps[1],
        } | values


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bank, Path]:
    """An untidy stream with requests in between, all of it in a lake."""
    bank, rng = Bank(), random.Random(11)
    nights = [bank.night(user, NOW_MS - DAY_MS) for user in ("saver", "busy")]
    nights.append(bank.night("old", NOW_MS - 9 * DAY_MS))
    streams = {
        user: life(rng, user, NOW_MS, 12 * place, 9 * place, ITEMS)
        for place, user in enumerate(USERS)
    }
    for user in USERS[1::2]:
        streams[user].insert(0, consent(user, NOW_MS - DAY_MS, "granted", NOW_MS - DAY_MS))
    turn = 0
    while any(streams.values()):
        turn += 1
        for user, stream in streams.items():
            for event in stream[:5]:
                bank.send(event.topic, user, event.value)
            del stream[:5]
        if turn == 4:
            nights.append(bank.night("saver", NOW_MS - DAY_MS // 2))
            record = refresh_record("saver", "nightly")
            bank.send(STATE_REFRESH, "saver", record.value)
        bank.models.fail = {"encode"} if turn % 5 == 0 else set()
        bank.work_off(bank.ingest, EVENT_TOPICS)
        bank.models.fail = {"head"} if turn == 3 else {"repair"} if turn % 5 == 0 else set()
        for user in USERS:
            bank.send(SLATE_REQUESTS, user, orjson.dumps(request(user, NOW_MS)))
        bank.work_off(bank.score, (SLATE_REQUESTS,))
    bank.models.fail = set()
    lake_dir = tmp_path_factory.mktemp("lake")
    kept = Topics()
    kept.logs = {place: log for place, log in bank.topics.logs.items() if place[0] != STATE_REFRESH}
    run(worker(lake_dir), kept, size=40)
    table = pa.Table.from_pylist(nights, schema=logs.SCHEMAS[logs.USER_STATIC_TABLE])
    logs.write_table(lake_dir, logs.USER_STATIC_TABLE, table)
    return bank, lake_dir


def test_every_audited_decision_is_made_again_from_the_lake_alone(told: tuple[Bank, Path]) -> None:
    bank, lake_dir = told
    report = parity.check(lake_dir, bank.models.encode)
    counts = report.counts()
    assert not report.differing, (report.differing[:3], counts)
    assert counts["decisions"] == lake.read_rows(lake_dir, SLATE_REQUESTS).num_rows > 100
    assert min(counts[f"tier_{tier}"] for tier in ("fresh", "stale", "static", "popularity")) >= 5
    # Only what cannot be in a lake is left out: no inputs, or hidden states behind their history.
    not_scored = {"popularity": ("inputs",), "fresh": (), "static": ()}
    for found in report.decisions:
        if found.tier == "stale":
            assert found.unchecked in (("hidden",), ("inputs",))
        elif found.tier != "static":
            assert found.unchecked == not_scored[found.tier]


def test_without_the_encoder_all_but_hidden_states_is_held_against_the_lake(
    told: tuple[Bank, Path],
) -> None:
    report = parity.check(told[1])
    assert not report.differing
    assert report.counts()["unchecked_hidden"] > 10


@pytest.mark.parametrize("column", ["amount_usd", "event_time_ms", "mcc"])
def test_one_changed_event_shows(told: tuple[Bank, Path], column: str) -> None:
    bank, lake_dir = told
    audits, events, nights = _parts(lake_dir)
    audit = _newest(audits, "spender")
    mine = events["spender"]
    assert not parity.compare(
        audit, parity.rebuild(audit, mine, nights), bank.models.encode
    ).differs
    place = next(
        p
        for p, e in enumerate(mine)
        if e.topic == logs.TRANSACTIONS
        and getattr(e.delivery.event, "kind", "") == "purchase"
        and getattr(e.delivery.event, "mcc", "") == "3000"
        and getattr(e.delivery.event, "amount_usd", 0) > 1
    )
    changed: dict[str, Any] = {"amount_usd": 77.77, "mcc": "5812"}
    event = mine[place].delivery.event
    assert event is not None
    changed["event_time_ms"] = event.event_time_ms - 1
    other = type(event)(
        **{
            name: changed[name] if name == column else getattr(event, name)
            for name in event.__struct_fields__
        }
    )
    forged = list(mine)
    forged[place] = mine[place]._replace(delivery=mine[place].delivery._replace(event=other))
    found = parity.compare(audit, parity.rebuild(audit, forged, nights), bank.models.encode)
    assert found.differs


def test_a_lost_event_and_another_night_show(told: tuple[Bank, Path]) -> None:
    bank, lake_dir = told
    audits, events, nights = _parts(lake_dir)
    audit = _newest(audits, "busy")
    lost = [e for e in events["busy"] if e.topic != logs.CLICKSTREAM]
    assert parity.compare(audit, parity.rebuild(audit, lost, nights), bank.models.encode).differs
    (key,) = [key for key in nights if key[0] == "busy"]
    other = nights | {key: replace_night(nights[key])}
    found = parity.compare(audit, parity.rebuild(audit, events["busy"], other), bank.models.encode)
    assert found.differs
    without = {k: v for k, v in nights.items() if k != key}
    assert parity.compare(
        audit, parity.rebuild(audit, events["busy"], without), bank.models.encode
    ).differs


def replace_night(night: Any) -> Any:
    return night._replace(tenure_days=[days + 1 for days in night.tenure_days])


def _parts(lake_dir: Path) -> tuple[list[dict[str, Any]], Any, Any]:
    audits = [
        orjson.loads(t) for t in lake.read_rows(lake_dir, "slate_audit.v1")["json"].to_pylist()
    ]
    return (
        audits,
        parity.events_of(lake_dir, USERS, Border()),
        parity.nights_of(lake_dir, USERS),
    )


def _newest(audits: list[dict[str, Any]], user: str) -> dict[str, Any]:
    """The user's decision on the newest state, with its arrays."""
    mine = [
        audit
        for audit in audits
        if orjson.loads(audit["request"])["user_id"] == user and audit["tier"] == "fresh"
    ]
    return max(mine, key=lambda audit: audit["state"]["version"])


def test_the_verb_counts_and_fails_on_a_difference(
    told: tuple[Bank, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "lake"
    shutil.copytree(told[1], copy)
    argv = [str(copy), "--no-encoder", "--json", "--dir", str(tmp_path)]
    done = CliRunner().invoke(parity_verb, argv)
    counts = orjson.loads(done.output)
    assert done.exit_code == 0
    assert (counts["differing"], counts["differing_slates"]) == (0, {})
    none = CliRunner().invoke(parity_verb, [*argv, "--day", "2001-01-01"])
    assert orjson.loads(none.output)["decisions"] == 0
    shutil.rmtree(copy / logs.CONVERSIONS)
    shutil.rmtree(copy / logs.USER_STATIC_TABLE)
    done = CliRunner().invoke(parity_verb, argv)
    assert done.exit_code == 1
    assert orjson.loads(done.output)["differing"] > 0

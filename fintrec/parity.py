"""Parity of serving and training: the inputs of an audited decision made again out of the lake.

The audit record says which offsets the user's state had applied; the lake has the events, whole. The
same `fold` and encoder that served give the history, the consents, the static context and the
request's encoding, and, through the served encoder, the hidden states. What the record holds of its
inputs must be theirs to the byte. Nothing else is asked: not the broker, not the store.

What is not in a lake cannot be held against it: the events that hidden states behind their history
had seen (tier `stale`), and F_fm. Such parts are named in `Parity.unchecked`.
"""

import base64
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from features.border import Border
from features.encoding import (
    BUCKETS,
    REQUEST_COLUMNS,
    HistoryArrays,
    bucket_of,
    encode_context,
    encode_histories,
    encode_request,
)
from features.errors import MalformedEvent
from features.freshness import Freshness, freshness
from features.history import WINDOW, Rows
from features.packed import UserState
from features.records import (
    Consent,
    Conversion,
    Interaction,
    SlateRequest,
    Transaction,
    entity_of,
)
from features.spec import CONTEXT_WIDTH, ENROLLMENTS, USER_STATIC
from features.state import Delivery, Nightly, fold, with_nightly
from fintrec import lake, logs
from fintrec.slates import FRESH, STALE, STATIC

# (arrays of one history, model version) -> its hidden states, (1, width) float16
Encode = Callable[[HistoryArrays, int], npt.NDArray[np.float16]]
Nights = Mapping[tuple[str, int], Nightly]

_CONTEXT_BYTES: Final = 2 * CONTEXT_WIDTH
_REQUEST_BYTES: Final = 8 * len(REQUEST_COLUMNS)
HIDDEN: Final = "hidden"  # no encoder was given, or the hidden states were behind the history
INPUTS: Final = "inputs"  # no model scored the request
FM: Final = "fm"


class LakeEvent(NamedTuple):
    """An event, where it stood, and when it was produced."""

    topic: str
    delivery: Delivery
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a decision was made of, out of the lake."""

    state: UserState
    context: npt.NDArray[np.float16]
    request: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Parity:
    """How one audit record compares: `differs` names the parts that are not the lake's."""

    slate_id: str
    request_id: str
    tier: str
    differs: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Every audited decision of some days."""

    decisions: list[Parity] = field(default_factory=list)

    @property
    def differing(self) -> list[Parity]:
        """Those with a difference."""
        return [found for found in self.decisions if found.differs]

    def counts(self) -> dict[str, int]:
        """Decisions by what came of them."""
        found = Counter(decisions=len(self.decisions), differing=len(self.differing))
        for one in self.decisions:
            found[f"tier_{one.tier}"] += 1
            found.update(f"differs_{part}" for part in one.differs)
            found.update(f"unchecked_{part}" for part in one.unchecked)
        return dict(sorted(found.items()))


def check(
    lake_dir: Path,
    encode: Encode | None = None,
    days: Sequence[str] | None = None,
    border: Border | None = None,
) -> Report:
    """Hold every audit record of some days (None: all) against the lake.

    Without `encode` hidden states are not checked. `border` has the limits on event times that the
    ingest workers had. Holds the events of the audited users in memory.
    """
    audits = [
        orjson.loads(text)
        for text in lake.read_rows(lake_dir, lake.SLATE_AUDIT, days, ["json"])["json"].to_pylist()
    ]
    if not audits:
        return Report()
    users = sorted({_request(audit).user_id for audit in audits})
    events = events_of(lake_dir, users, border or Border())
    nights = nights_of(lake_dir, users)
    return Report(
        [
            compare(audit, rebuild(audit, events.get(_request(audit).user_id, ()), nights), encode)
            for audit in audits
        ]
    )


def events_of(lake_dir: Path, users: Sequence[str], border: Border) -> dict[str, list[LakeEvent]]:
    """Each user's events that the ingest worker let in, each topic's in offset order."""
    found: dict[str, list[LakeEvent]] = defaultdict(list)
    for number, topic in enumerate(logs.EVENT_TABLES):
        if not (lake_dir / topic).is_dir():
            continue
        filters = pc.field("user_id").isin(list(users))
        if topic == logs.CLICKSTREAM:  # before a login only this id is there
            filters |= pc.field("anonymous_id").isin(list(users))
        for row in _rows(lake.read_rows(lake_dir, topic, filters=filters)):
            event = msgspec.convert(
                {name: row[name] for name in logs.RECORDS[topic].__struct_fields__},
                logs.RECORDS[topic],
            )
            try:
                border.check_time(row["event_time_ms"], row["timestamp_ms"])
            except MalformedEvent:
                continue
            assert isinstance(event, Interaction | Transaction | Conversion | Consent)
            delivery = Delivery(event, number, row["partition"], row["offset"])
            found[entity_of(event)].append(LakeEvent(topic, delivery, row["timestamp_ms"]))
    return found


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def nights_of(lake_dir: Path, users: Sequence[str]) -> dict[tuple[str, int], Nightly]:
    """Nightly rows by user and cut-off."""
    if not (lake_dir / logs.USER_STATIC_TABLE).is_dir():
        return {}
    wanted = set(users)
    table = logs.read_table(lake_dir, logs.USER_STATIC_TABLE)
    cutoffs = logs.milliseconds(table, "event_timestamp").tolist()
    found = {}
    for cutoff_ms, row in zip(cutoffs, table.to_pylist(), strict=True):
        if row["user_id"] in wanted:
            found[row["user_id"], cutoff_ms] = Nightly(
                enrollments=row["enrollments"],
                tenure_days=[row[f"tenure_{name}"] for name in ENROLLMENTS],
                tenure_bank_days=row["tenure_bank"],
                static_ms=cutoff_ms,
            )
    return found


def rebuild(audit: Mapping[str, Any], events: Iterable[LakeEvent], nights: Nights) -> Rebuilt:
    """The state and the inputs of an audited decision, from a user's events and nightly rows."""
    request = _request(audit)
    applied: Mapping[str, int] = audit["state"]["offsets"]
    seen = [
        event.delivery
        for event in events
        if event.delivery.offset <= applied.get(f"{event.topic}[{event.delivery.partition}]", -1)
    ]
    state = fold(UserState(), seen).state
    age_ms = audit["feature_ages_ms"]["user_static"]
    cutoff_ms = None if age_ms is None else audit["decided_at_ms"] - age_ms
    static = UserState().static
    if cutoff_ms is not None:
        state = with_nightly(state, nights.get((request.user_id, cutoff_ms)))
        fresh = freshness(cutoff_ms, audit["decided_at_ms"], USER_STATIC.ttl_ms)
        if fresh is Freshness.PRESENT:
            static = state.static
    last_event_ms = state.last_event_ms
    if audit["tier"] == STALE:
        last_event_ms = audit["state"]["state_event_ms"]
    elif audit["tier"] == STATIC:
        last_event_ms = 0
    return Rebuilt(
        state,
        encode_context(static[None], [None])[0],
        np.array(encode_request(request, last_event_ms), np.int64),
    )


def compare(audit: Mapping[str, Any], made: Rebuilt, encode: Encode | None = None) -> Parity:
    """Where an audit record and what the lake gives differ."""
    differs = _state_differences(audit, made)
    unchecked: list[str] = []
    if audit["inputs_sha256"] is None:
        unchecked.append(INPUTS)
    elif audit["fm"]["night_ms"]:
        unchecked.append(FM)
    else:
        more, left = _input_differences(audit, made, encode)
        differs += more
        unchecked += left
    return Parity(
        audit["slate_id"],
        _request(audit).request_id,
        audit["tier"],
        tuple(differs),
        tuple(unchecked),
    )


def _state_differences(audit: Mapping[str, Any], made: Rebuilt) -> list[str]:
    """What the record says of the state that it was decided on."""
    state, said = made.state, audit["state"]
    consents = [
        [int(c["effective_from_ms"]), int(c["event_time_ms"]), int(c["marketing"])]
        for c in state.consents
    ]
    found = {
        "last_event_ms": (said["last_event_ms"], state.last_event_ms),
        "length_bucket": (
            audit["length_bucket"],
            bucket_of(min(len(state.history), WINDOW)),
        ),
        "consents": (audit["consent"]["decisions"], consents),
        "enrollments": (said["enrollments"], state.enrollments),
        "tenure_days": (said["tenure_days"], state.tenure_days),
    }
    return [name for name, (theirs, ours) in found.items() if theirs != ours]


def _input_differences(
    audit: Mapping[str, Any], made: Rebuilt, encode: Encode | None
) -> tuple[list[str], list[str]]:
    """(parts that differ, parts that could not be checked) of the arrays that the model read."""
    tail = made.context.tobytes() + made.request.tobytes()
    told = audit["inputs_base64"]
    served = None if told is None else base64.b64decode(told)
    width = 0 if served is None else len(served) - len(tail)
    tried: set[bytes] = set()
    for hidden in _hidden(audit, made.state.history, encode, width):
        if hashlib.sha256(hidden + tail).hexdigest() == audit["inputs_sha256"]:
            return [], []
        tried.add(hidden)
    if served is None:
        return (["inputs"], []) if tried else ([], [INPUTS])
    parts = {
        "context": (served[width : width + _CONTEXT_BYTES], made.context.tobytes()),
        "request": (served[width + _CONTEXT_BYTES :], made.request.tobytes()),
        "inputs_sha256": (audit["inputs_sha256"], hashlib.sha256(served).hexdigest()),
    }
    differs = [name for name, (theirs, ours) in parts.items() if theirs != ours]
    if tried and served[:width] not in tried:
        differs.append("hidden")
    return differs, [] if tried else [HIDDEN]


def _hidden(
    audit: Mapping[str, Any], history: Rows, encode: Encode | None, width: int
) -> Iterator[bytes]:
    """Hidden states that the history may have been encoded to; none where that is not known.

    One for each length bucket: a batch is padded to its longest history, which may be another's.
    """
    if audit["tier"] == STATIC and width:
        yield bytes(width)
    if audit["tier"] != FRESH or encode is None:
        return
    shortest = bucket_of(min(len(history), WINDOW))
    for bucket in BUCKETS:
        if bucket >= shortest:
            arrays = encode_histories([history], bucket).arrays
            yield encode(arrays, audit["state"]["model"]).tobytes()


def _request(audit: Mapping[str, Any]) -> SlateRequest:
    return msgspec.convert(orjson.loads(audit["request"]), SlateRequest)

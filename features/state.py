"""The reducer: events folded into a user's state, the same function online, in batch and on Spark.

At-least-once delivery, exactly-once effect: a delivery at or below the offset that the state has
applied of its `topic[partition]` changes nothing. What a state says is a function of the set of
events; `version` counts the deliveries that were applied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np

from features.consent import with_consent
from features.encoding import encode_static
from features.history import ROW, Rows, merged
from features.packed import OFFSET, Halfs, UserState
from features.records import Consent, Conversion, Interaction, Transaction
from features.rows import row_of
from features.spec import ENROLLMENTS

Event: TypeAlias = Interaction | Transaction | Conversion | Consent


class Delivery(NamedTuple):
    """An event and where it was read; `event` is None for a request to build the state anew."""

    event: Event | None
    topic: int
    partition: int
    offset: int


class Folded(NamedTuple):
    """A state after a fold, with how many deliveries counted and how many were repeats."""

    state: UserState
    num_applied: int
    num_redelivered: int


class Nightly(NamedTuple):
    """A user's nightly features as read from the store; None where the store has none."""

    enrollments: Sequence[str]
    tenure_days: Sequence[int]
    tenure_bank_days: int
    static_ms: int
    fm: Halfs | None = None
    night_ms: int = 0


def fold(state: UserState, deliveries: Iterable[Delivery]) -> Folded:
    """Apply a user's deliveries, each topic's in offset order."""
    applied = {(topic, partition): at for partition, topic, at in state.offsets.tolist()}
    consents = state.consents
    rows = []
    num_applied = num_redelivered = 0
    for event, topic, partition, offset in deliveries:
        if offset <= applied.get((topic, partition), -1):
            num_redelivered += 1
            continue
        applied[topic, partition] = offset
        num_applied += 1
        if isinstance(event, Consent):
            consents = with_consent(consents, event)
        elif event is not None:
            rows.append(row_of(event))
    if not num_applied:
        return Folded(state, 0, num_redelivered)
    history = merged(state.history, np.array(rows, ROW)) if rows else state.history
    offsets = np.array([(p, t, o) for (t, p), o in sorted(applied.items())], OFFSET)
    grown = replace(
        state,
        version=state.version + num_applied,
        last_event_ms=_newest_ms(history),
        consents=consents,
        offsets=offsets,
        history=history,
    )
    return Folded(grown, num_applied, num_redelivered)


def with_nightly(state: UserState, nightly: Nightly | None) -> UserState:
    """The state with the context of the last night; None leaves what it has."""
    if nightly is None:
        return state
    owned = sum(
        1 << ENROLLMENTS.index(name) for name in set(nightly.enrollments) if name in ENROLLMENTS
    )
    static = encode_static(nightly.enrollments, nightly.tenure_days, nightly.tenure_bank_days)
    return replace(
        state,
        static=static,
        static_ms=nightly.static_ms,
        enrollments=owned,
        tenure_days=max(nightly.tenure_bank_days, 0),
        fm=state.fm if nightly.fm is None else nightly.fm,
        night_ms=state.night_ms if nightly.fm is None else nightly.night_ms,
    )


def _newest_ms(history: Rows) -> int:
    return int(history["time_ms"][-1]) if len(history) else 0

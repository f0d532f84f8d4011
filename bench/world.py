"""What a measurement stands on: topics, the catalogue, a served model and users with full states.

States are folded offline and written with the workers' own compare-and-set, which is the same
value that the ingest worker would have written and much faster. The model's weights are random:
they decide what is ranked first, not how long it takes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from bench.traffic import MERCHANT_CODES, user_id
from features.consent import with_consent
from features.encoding import encode_histories, encode_static
from features.history import CAPS, INTERACTION, TRANSACTION, Rows, merged
from features.packed import NO_CONSENT, OFFSET, UserState
from features.records import Consent, Item, RankingPolicy
from features.rows import (
    Coded,
    InteractionColumns,
    TransactionColumns,
    interaction_rows,
    transaction_rows,
)
from features.spec import DAY_MS, ENROLLMENTS, HOUR_MS
from features.vocabulary import Vocabulary
from fintrec.bank.catalogue import build_catalogue
from fintrec.bank.surfaces import PLACES
from fintrec.calibration import Calibration
from fintrec.checkpoint import Checkpoint, save
from fintrec.export import export, load_script
from fintrec.models.config import Recipe, tiny_cpu
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.popularity import ANY_TYPE, Popularity
from streams.clients import kafka_python_config
from streams.ingest import state_write
from streams.reference import policy_key
from streams.settings import Settings
from streams.state_store import RedisStateStore
from streams.topic_admin import ensure_topics, plan_topics
from streams.topics import ITEMS, RANKING_POLICIES
from streams.wire import encode

# Of the floor (`bench/floor.py`): one event topic, one of requests, one of slates.
FLOOR_EVENTS: Final = "bench_floor_events"
FLOOR_REQUESTS: Final = "bench_floor_requests"
FLOOR_SLATES: Final = "bench_floor_slates"
FLOOR_TOPICS: Final = (FLOOR_EVENTS, FLOOR_REQUESTS, FLOOR_SLATES)

GRANTED, OPTED_OUT = 0.90, 0.05  # of the users; the others never said
_ENCODED_AT_ONCE: Final = 64


def catalogue(now_ms: int) -> tuple[Item, ...]:
    """200 items of the simulated bank, with its eligibility rules."""
    return build_catalogue(
        np.random.default_rng(1), now_ms - 30 * DAY_MS, now_ms + 30 * DAY_MS
    ).items


def untrained(items: Sequence[Item], recipe: Recipe) -> Checkpoint:
    """Both models of a recipe with random weights."""
    torch.manual_seed(0)
    names = {
        field: {getattr(place, field) for place in PLACES}
        for field in ("product", "page", "placement", "layout")
    }
    vocabulary = Vocabulary.build(names, [item.item_id for item in items])
    kinds = {item.item_id: item.content_type for item in items}
    rates = {**dict.fromkeys(kinds.values(), 0.02), ANY_TYPE: 0.02}
    flat = (0.02,) * len(vocabulary.items)
    return Checkpoint(
        recipe,
        vocabulary,
        tuple(kinds[item] for item in vocabulary.items),
        Pctr(vocabulary, recipe.model).eval(),
        Pcvr(vocabulary, recipe.model).eval(),
        Calibration("bench", 1.0, 0.0),
        Popularity(flat, flat, rates, rates),
        {},
    )


def export_untrained(items: Sequence[Item], checkpoint_dir: Path, repository: Path) -> None:
    """Both models of recipe tiny_cpu with random weights, as the repository's next version."""
    save(untrained(items, tiny_cpu()), checkpoint_dir)
    export(checkpoint_dir, repository)


def create_topics(settings: Settings, num_partitions: int) -> None:
    """The project's topics and the floor's."""
    admin = KafkaAdminClient(**kafka_python_config(settings))
    try:
        ensure_topics(admin, plan_topics(num_partitions))
        wanted = {
            name: {"num_partitions": num_partitions, "replication_factor": 1}
            for name in FLOOR_TOPICS
        }
        admin.create_topics(wanted)
        admin.wait_for_topics(list(FLOOR_TOPICS))
    finally:
        admin.close()


def publish_reference(settings: Settings, items: Sequence[Item]) -> None:
    """The catalogue and one ranking policy."""
    policy = RankingPolicy(version=1, lambda_us=1.0, lambda_ctr=2.0, lambda_cvr=0.05)
    producer = KafkaProducer(**kafka_python_config(settings), acks="all")
    try:
        sent = [
            producer.send(ITEMS, key=item.item_id.encode(), value=encode(item)) for item in items
        ]
        sent.append(producer.send(RANKING_POLICIES, key=policy_key(policy), value=encode(policy)))
        for one in sent:
            one.get(30)
    finally:
        producer.close()


def histories(num_users: int, items: Sequence[str], now_ms: int) -> Iterator[Rows]:
    """Full histories: 120 interactions and 60 card purchases each, over the last days."""
    rng = np.random.default_rng(2)
    clicks, purchases = CAPS[INTERACTION], CAPS[TRANSACTION]
    for user in range(num_users):
        places = rng.integers(0, len(PLACES), clicks)
        named = {
            field: Coded(tuple(getattr(place, field) for place in PLACES), places)
            for field in ("product", "page", "placement", "layout")
        }
        shown = interaction_rows(
            InteractionColumns(
                event_id=[f"{user}-i{number}" for number in range(clicks)],
                event_time_ms=now_ms - rng.integers(HOUR_MS, 6 * DAY_MS, clicks),
                action=Coded(("impression", "click", "page_view"), rng.integers(0, 3, clicks)),
                channel=Coded(("web", "mobile_app"), rng.integers(0, 2, clicks)),
                position=rng.integers(0, 6, clicks),
                item_id=Coded(tuple(items), rng.integers(0, len(items), clicks)),
                device=Coded(("ios", "android"), rng.integers(0, 2, clicks)),
                **named,
            )
        )
        bought = transaction_rows(
            TransactionColumns(
                event_id=[f"{user}-t{number}" for number in range(purchases)],
                event_time_ms=now_ms - rng.integers(HOUR_MS, 6 * DAY_MS, purchases),
                kind=Coded(("purchase",), np.zeros(purchases, np.int64)),
                amount_usd=np.round(rng.lognormal(3.5, 1.0, purchases), 2),
                mcc=Coded(MERCHANT_CODES, rng.integers(0, len(MERCHANT_CODES), purchases)),
                account=Coded(("credit_card",), np.zeros(purchases, np.int64)),
                channel=Coded(("card",), np.zeros(purchases, np.int64)),
            )
        )
        yield merged(shown, bought)


def user_states(
    num_users: int, items: Sequence[str], model: torch.jit.ScriptModule, now_ms: int
) -> Iterator[tuple[list[str], list[UserState], npt.NDArray[np.int64]]]:
    """Pages of (user ids, states with hidden states of model version 1, newest F_d)."""
    rng = np.random.default_rng(3)
    rows = histories(num_users, items, now_ms)
    for start in range(0, num_users, _ENCODED_AT_ONCE):
        numbers = range(start, min(start + _ENCODED_AT_ONCE, num_users))
        page = [_state(number, next(rows), rng, now_ms) for number in numbers]
        encoded = encode_histories([state.history for state in page])
        arrays = encoded.arrays
        with torch.inference_mode():
            hidden = model(
                torch.from_numpy(arrays.tokens_BTC),
                torch.from_numpy(arrays.times_BT),
                torch.from_numpy(arrays.dynamic_BTF),
            ).numpy()
        states = [state.with_hidden(row, 1) for state, row in zip(page, hidden, strict=True)]
        yield [user_id(number) for number in numbers], states, encoded.latest_BF


def _state(number: int, history: Rows, rng: np.random.Generator, now_ms: int) -> UserState:
    owned = [name for name in ENROLLMENTS if rng.random() < 0.4]
    tenures = [int(rng.integers(30, 4000)) if name in owned else 0 for name in ENROLLMENTS]
    decision = rng.random()
    consents = NO_CONSENT
    if decision < GRANTED + OPTED_OUT:
        said = Consent(
            user_id=user_id(number),
            event_time_ms=now_ms - 20 * DAY_MS,
            marketing="granted" if decision < GRANTED else "opted_out",
            effective_from_ms=now_ms - 20 * DAY_MS,
        )
        consents = with_consent(consents, said)
    return replace(
        UserState(),
        version=len(history) + len(consents),
        last_event_ms=int(history["time_ms"][-1]),
        static_ms=now_ms - 6 * HOUR_MS,
        enrollments=sum(1 << ENROLLMENTS.index(name) for name in owned),
        tenure_days=max(tenures),
        static=encode_static(owned, tenures, max(tenures)),
        consents=consents,
        # Below every offset of this run's topics: the first event is already applied above it.
        offsets=np.empty(0, OFFSET),
        history=history,
    )


def seed_states(
    settings: Settings, store: RedisStateStore, client: Any, num_users: int, now_ms: int
) -> None:
    """Write every user's state where the workers read it, and where the floor does."""
    from bench.floor import FIELD, floor_key
    from features.packed import pack

    torch.set_num_threads(1)
    model = load_script(settings.model_repository / "encode" / "1" / "model.pt").eval()
    items = [item.item_id for item in catalogue(now_ms)]
    for users, states, latest in user_states(num_users, items, model, now_ms):
        taken = store.compare_and_set(
            [
                state_write(user, 0, state, newest)
                for user, state, newest in zip(users, states, latest.tolist(), strict=True)
            ]
        )
        if not all(taken):
            raise RuntimeError(f"{taken.count(False)} of {len(taken)} states were there already")
        with client.pipeline(transaction=False) as pipe:
            for user, state in zip(users, states, strict=True):
                # The floor's states have one shape: it reads their parts at fixed places.
                pipe.hset(floor_key(user), FIELD, pack(replace(state, consents=NO_CONSENT)))
            pipe.execute()

"""Events and requests that go on while something is broken, and what must hold afterwards."""

import json
import random
import threading
import time
from collections.abc import Collection, Sequence
from itertools import count, islice
from types import TracebackType
from typing import Any, Self

from features.errors import StoreUnavailable
from features.packed import read_header
from streams.apps import state_store
from streams.producer import partition_of
from streams.topics import SLATE_REQUESTS
from tests.integration.conftest import NUM_PARTITIONS, System, now_ms
from tests.integration.referee import DAY
from tests.integration.traffic import broken, consent, interaction, request, transaction
from tests.integration.wire import until

TICK_S = 0.05


class Stream:
    """Publishes `events_per_s` and `requests_per_s` of `num_users` users, open loop, in a thread.

    Of users whose events lie in `partitions`, by default of all.
    """

    def __init__(
        self,
        system: System,
        prefix: str,
        num_users: int = 40,
        events_per_s: int = 100,
        requests_per_s: int = 50,
        seed: int = 0,
        partitions: Collection[int] = range(NUM_PARTITIONS),
    ) -> None:
        names = (f"{prefix}-{number}" for number in count())
        mine = (n for n in names if partition_of(n.encode(), NUM_PARTITIONS) in partitions)
        self.users = list(islice(mine, num_users))
        self.requests: list[str] = []
        self.num_events = 0
        self._system = system
        self._rng = random.Random(seed)
        self._events_per_tick = events_per_s * TICK_S
        self._requests_per_tick = requests_per_s * TICK_S
        self._items = [item.item_id for item in system.items]
        self._broken: list[Any] = []
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        for user in self.users[::2]:
            granted = consent(user, now_ms() - DAY, "granted", now_ms() - DAY)
            self._system.wire.send(granted.topic, user.encode(), granted.value)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(60)
        if self._failure is not None and error is None:
            raise AssertionError("the stream broke off") from self._failure

    def await_answers(self, more: int = 30, timeout_s: float = 90) -> None:
        """Return when `more` requests that are sent from now on have their slates."""
        start = len(self.requests)

        def answered() -> bool:
            asked = self.requests[start:]
            return sum(bool(self._system.wire.slates(r)) for r in asked) >= more

        until(f"{more} requests sent from now on are answered", answered, timeout_s)

    def await_folds(self, more: int = 60, timeout_s: float = 90) -> None:
        """Return when the states have taken in `more` events from now on."""
        start = self._num_applied()
        until(
            f"{more} more events are in the states",
            lambda: self._num_applied() >= start + more,
            timeout_s,
        )

    def _num_applied(self) -> int:
        return sum(header.version for header in self._system.headers(self.users).values())

    @property
    def num_sent(self) -> int:
        """Good events so far, the decisions at the start among them."""
        return self.num_events + len(self.users[::2])

    @property
    def refused(self) -> set[str]:
        """Places of the records that the border must have refused."""
        places = [future.get(60) for future in self._broken]
        return {f"{m.topic}[{m.partition}]@{m.offset}" for m in places}

    def _run(self) -> None:
        try:
            events = requests = 0.0
            due = time.monotonic()
            while not self._stop.is_set():
                events += self._events_per_tick
                requests += self._requests_per_tick
                while events >= 1:
                    events -= 1
                    self._send_event()
                while requests >= 1:
                    requests -= 1
                    self._send_request()
                due += TICK_S
                self._stop.wait(max(0.0, due - time.monotonic()))
        except BaseException as failure:  # noqa: BLE001 - told to the test when the stream ends
            self._failure = failure

    def _send_event(self) -> None:
        rng, user = self._rng, self._rng.choice(self.users)
        when = now_ms() - rng.choice((0, 0, 0, 1, 40, 3_000))
        chance = rng.random()
        if chance < 0.01:
            event = broken(rng, user, when)
        elif chance < 0.02:
            event = consent(user, when, "granted", when)
        elif chance < 0.3:
            event = transaction(rng, user, when)
        else:
            event = interaction(rng, user, when, self._items)
        sent = self._system.wire.send(event.topic, user.encode(), event.value)
        if event.is_refused:
            self._broken.append(sent)
        else:
            self.num_events += 1

    def _send_request(self) -> None:
        wanted = request(self._rng.choice(self.users), now_ms())
        self._system.wire.publish(SLATE_REQUESTS, wanted["user_id"], wanted)
        self.requests.append(wanted["request_id"])


class VersionWatch:
    """Reads the users' versions all the time; a version that goes back is kept as a fault."""

    def __init__(self, system: System, users: Sequence[str]) -> None:
        self.went_back: list[str] = []
        self._store = state_store(system.settings, 300)
        self._users = list(users)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        last = dict.fromkeys(self._users, 0)
        while not self._stop.wait(0.05):
            try:
                packed = self._store.read_packed(self._users)
            except StoreUnavailable:
                continue  # frozen or killed by the test itself
            for user, value in zip(self._users, packed, strict=True):
                version = 0 if value is None else read_header(value).version
                if version < last[user]:
                    self.went_back.append(f"{user}: {last[user]} -> {version}")
                last[user] = version


def answers(system: System, requests: Sequence[str]) -> tuple[dict[str, dict[str, Any]], int]:
    """The slate of every request, and how many slates came more than once.

    Fails when one has none, or when two answers differ in their slate id.
    """

    def missing() -> list[str]:
        return [r for r in requests if not system.wire.slates(r)]

    until("every request has a slate", lambda: not missing(), 60)
    found, repeated = {}, 0
    for request_id in requests:
        slates = [json.loads(raw) for raw in system.wire.slates(request_id)]
        assert len({slate["slate_id"] for slate in slates}) == 1, request_id
        repeated += len(slates) - 1
        found[request_id] = slates[0]
    assert len({slate["slate_id"] for slate in found.values()}) == len(requests)
    return found, repeated

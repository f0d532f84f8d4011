"""Topics in memory, and a lake worker that reads them as the feed would."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fintrec import lake, logs
from streams.lake import Lake
from streams.lake_ledger import Disk
from streams.settings import Settings
from streams.topics import CLICKSTREAM, CONSENTS, CONVERSIONS, ITEMS, SLATE_REQUESTS, TRANSACTIONS
from streams.wire import Received
from tests.streams.workers import NOW_MS, received

DAY_MS = 86_400_000
Place = tuple[str, int]


def settings_of(lake_dir: Path, **given: Any) -> Settings:
    return Settings(lake_dir=lake_dir, **given)


def click(number: int, user: str = "u", time_ms: int = NOW_MS, **fields: Any) -> dict[str, Any]:
    """A click with an id of its own."""
    return {
        "event_id": f"c{number}",
        "user_id": user,
        "event_time_ms": time_ms,
        "action": "click",
    } | fields


class Topics:
    """Kafka's logs of some partitions, in memory."""

    def __init__(self) -> None:
        self.logs: dict[Place, list[Received]] = {}

    def add(
        self, topic: str, record: Any, partition: int = 0, key: bytes | None = None
    ) -> Received:
        """Append a record, by default under its user's key."""
        log = self.logs.setdefault((topic, partition), [])
        if key is None and isinstance(record, dict):
            key = str(record.get("user_id") or record.get("item_id", "")).encode()
        found = received(topic, record, len(log), key=key, partition=partition)
        log.append(found)
        return found

    def some_of_everything(self, number: int) -> None:
        """A record on each of several topics, over two partitions and two days."""
        partition = number % 2
        time_ms = NOW_MS + (number % 3 == 0) * DAY_MS
        base = {"user_id": f"u{number}", "event_time_ms": time_ms}
        self.add(CLICKSTREAM, click(number, f"u{number}", time_ms), partition)
        bought = base | {"event_id": f"t{number}", "kind": "purchase", "amount_usd": 1.25}
        self.add(TRANSACTIONS, bought, partition)
        if number % 4 == 0:
            self.add(CONVERSIONS, base | {"event_id": f"g{number}", "item_id": "i"}, partition)
            told = base | {"marketing": "granted", "effective_from_ms": time_ms}
            self.add(CONSENTS, told, partition)
            item = {"item_id": "i", "version": number, "content_type": "marketing"}
            self.add(ITEMS, item, 0)
            self.add(SLATE_REQUESTS, base | {"request_id": f"r{number}"}, partition)
        if number % 5 == 0:
            self.add(CLICKSTREAM, b"{broken", partition, key=b"u")

    def batches(self, positions: dict[Place, int], size: int) -> list[list[Received]]:
        """What a consumer at these positions reads, some records of each partition a batch."""
        found = []
        at = dict(positions)
        while True:
            batch = []
            for place, log in self.logs.items():
                more = log[at.get(place, 0) : at.get(place, 0) + size]
                at[place] = at.get(place, 0) + len(more)
                batch += more
            if not batch:
                return found
            found.append(batch)


def worker(lake_dir: Path, disk: Disk | None = None, **given: Any) -> Lake:
    """A lake worker without a broker."""
    return Lake(settings_of(lake_dir, **given), disk)


def run(work: Lake, topics: Topics, size: int = 3, batches: int = 1 << 30) -> None:
    """Have a worker take all partitions over and write what it has not."""

    async def whole() -> None:
        positions = dict(await work.assigned(list(topics.logs)))
        for batch in topics.batches(positions, size)[:batches]:
            await work.handle(batch)

    asyncio.run(whole())


def handle(work: Lake, records: Sequence[Received]) -> None:
    """One batch."""
    asyncio.run(work.handle(records))


def places(lake_dir: Path, topic: str) -> list[tuple[int, int]]:
    """(partition, offset) of a table's rows, in order; every row counts."""
    if not lake_dir.exists():
        return []
    table = lake.read_rows(lake_dir, topic, columns=["partition", "offset"])
    return list(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))


def expected_places(topics: Topics, topic: str) -> list[tuple[int, int]]:
    """What `places` must give when all is written: all that is JSON."""
    return sorted(
        (record.partition, record.offset)
        for (name, _), log in topics.logs.items()
        if name == topic
        for record in log
        if record.value is not None and _is_json(record.value)
    )


def _is_json(value: bytes) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def names_of(lake_dir: Path) -> list[str]:
    """Files of a lake's tables, hidden ones included."""
    return sorted(
        path.name
        for topic in (*logs.RECORDS, *lake.SERVING_TABLES)
        for path in (lake_dir / topic).rglob("*")
        if path.is_file()
    )

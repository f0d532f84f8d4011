"""Triggers as they stand in a log: what lifted needs, read back from its events."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fintrec import logs
from fintrec.bank.money import KINDS, MCC_NAMES, MERCHANTS, Money, filled
from fintrec.bank.population import IntArray
from fintrec.bank.visits import CONTACTS, Contacts, Triggers, find_triggers


def read_triggers(
    log_dir: Path, users: Sequence[str], since_ms: int, until_ms: int | None = None
) -> Triggers:
    """Triggers of some users within [since, until) of a LOG_DIR; users by place in `users`.

    Contacts that pages caused are among them, so that `fast_needs` gives all fast needs but the
    interest of a click.
    """
    days = [
        day
        for day in logs.days_of(log_dir, logs.TRANSACTIONS)
        if logs.day_end_ms(day) > since_ms
        and (until_ms is None or logs.day_start_ms(day) < until_ms)
    ]
    money = _money(
        _inside(logs.read_table(log_dir, logs.TRANSACTIONS, days), since_ms, until_ms), users
    )
    clicks = [day for day in days if (log_dir / logs.CLICKSTREAM / f"day={day}").is_dir()]
    table = _inside(logs.read_table(log_dir, logs.CLICKSTREAM, clicks), since_ms, until_ms)
    action = _places(table, "action", CONTACTS)
    user = _places(table, "user_id", users)
    some = np.flatnonzero((action >= 0) & (user >= 0))
    time_ms = logs.integers(table, "event_time_ms")
    return find_triggers(money, Contacts(user[some], time_ms[some], action[some]))


def _inside(table: pa.Table, since_ms: int, until_ms: int | None) -> pa.Table:
    inside = pc.greater_equal(table["event_time_ms"], since_ms)
    if until_ms is not None:
        inside = pc.and_(inside, pc.less(table["event_time_ms"], until_ms))
    return table.filter(inside).unify_dictionaries()


def _places(table: pa.Table, column: str, names: Sequence[str]) -> IntArray:
    """Where each row's name stands in a list of names, -1 if it does not."""
    place = {name: index for index, name in enumerate(names)}
    return logs.coded(table, column).mapped(lambda name: place.get(name, -1))


def _money(table: pa.Table, users: Sequence[str]) -> Money:
    user = _places(table, "user_id", users)
    money = filled(
        user,
        logs.integers(table, "event_time_ms"),
        "purchase",
        table["amount_usd"].to_numpy(),
        "checking",
        "",
        mcc=np.maximum(_places(table, "mcc", MCC_NAMES), 0),
        merchant=np.maximum(_places(table, "merchant", MERCHANTS), 0),
    )
    kind = _places(table, "kind", KINDS).astype(np.int16)
    columns = {name: getattr(money, name) for name in Money.__slots__}
    return Money(**columns | {"kind": kind}).of(user >= 0)

"""The loop of a live run: what is due goes out, slates that have come go in, until all is done."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from features.clock import Clock
from streams.live.player import Player
from streams.live.records import Outgoing

_TICK_MS: Final = 20  # at most this long without a look at the agenda


class Exchange(Protocol):
    """Where records go to and slates come from."""

    def send(self, outgoing: Outgoing) -> None:
        """Send a record."""

    def hear(self, timeout_ms: int) -> list[dict[str, Any]]:
        """Slates that have come; waits at most this long for the first."""

    def settle(self) -> None:
        """Return when everything sent is safe."""


def run(player: Player, exchange: Exchange, clock: Clock, heard: Callable[[], None]) -> bool:
    """Play to the end; `heard` is called at every turn. False where Ctrl-C ended it before."""
    with _ctrl_c() as is_asked:
        while not player.is_done and not is_asked():
            _send(exchange, player.due(clock.now_ms()))
            heard()
            for slate in exchange.hear(_wait_ms(player, clock.now_ms())):
                _send(exchange, player.answer(slate, clock.now_ms()))
    is_whole = player.is_done
    if is_whole:
        player.finish()
    else:
        player.stop()
    exchange.settle()
    return is_whole


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, instead of an exception: a record that is counted is also sent."""
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _send(exchange: Exchange, records: list[Outgoing]) -> None:
    for record in records:
        exchange.send(record)


def _wait_ms(player: Player, now_ms: int) -> int:
    due_ms = player.next_ms
    return _TICK_MS if due_ms is None else max(0, min(_TICK_MS, due_ms - now_ms))

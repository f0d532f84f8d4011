"""Time as data: milliseconds since the epoch, UTC, from a clock that is passed in."""

import time
from typing import Protocol


class Clock(Protocol):
    """Gives the present instant."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""


class SystemClock:
    """The machine's clock; the one place of the project that reads it."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000

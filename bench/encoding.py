"""Cost of making model inputs out of user histories, and of folding one event into a state.

    python bench/encoding.py [--repeats 5]

Every round measures every case once, in turn, so that what else the machine does falls on all of
them alike; the best of the rounds is shown. `copy` is the floor: arrays of the same shapes, ready
made, only copied. `ratio` is encode / copy of the same round, the median over the rounds.
CPU time, not wall time: other work on the machine only takes turns. The last line is JSON:
microseconds a user by batch size and rows of history.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from features.categories import CATEGORIES
from features.encoding import encode_histories
from features.history import INTERACTION, ROW, TRANSACTION, Rows, bounded, ordered
from features.packed import UserState, pack, unpack
from features.records import Interaction
from features.spec import DAY_MS
from features.state import Delivery, fold
from features.vocabulary import ACTIONS, CHANNELS

BATCHES = (1, 16, 64)
LENGTHS = (20, 120, 180)
CALLS = 10
START_MS = 20_400 * DAY_MS


def history(rng: np.random.Generator, length: int) -> Rows:
    """A week of a user; one row in three is a purchase, as the caps of a full history have it."""
    rows = np.zeros(length, ROW)
    rows["time_ms"] = START_MS + rng.integers(0, 7 * DAY_MS, length)
    rows["event"] = rng.integers(1, 1 << 62, length)
    rows["item"] = rng.integers(1, 1 << 31, length)
    rows["source"] = np.where(np.arange(length) % 3 == 0, TRANSACTION, INTERACTION)
    is_money = rows["source"] == TRANSACTION
    rows["action"] = np.where(
        is_money, ACTIONS.index("purchase"), rng.integers(2, ACTIONS.index("purchase"), length)
    )
    rows["channel"] = np.where(is_money, CHANNELS.index("card"), rng.integers(2, 4, length))
    rows["cents"] = np.where(is_money, rng.integers(100, 50_000, length), 0)
    rows["category"] = np.where(is_money, rng.integers(1, len(CATEGORIES), length), 0)
    return bounded(ordered(rows))


def timed_us(call: Callable[[], object], per: int) -> float:
    """CPU microseconds of one unit of work: the best of a few calls."""
    best = float("inf")
    for _ in range(CALLS):
        start = time.thread_time()
        call()
        best = min(best, time.thread_time() - start)
    return best * 1e6 / per


def encoding_cases(
    rng: np.random.Generator,
) -> dict[str, tuple[int, Callable[[], object], Callable[[], object]]]:
    """Batch size, the encoder and its floor, by `batch x rows`."""
    cases = {}
    for batch in BATCHES:
        for length in LENGTHS:
            users = [history(rng, length) for _ in range(batch)]
            ready = encode_histories(users).arrays
            cases[f"{batch}x{length}"] = (
                batch,
                lambda users=users: encode_histories(users),
                lambda ready=ready: [array.copy() for array in ready],
            )
    return cases


def state_cases(rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """What an event costs besides its encoding, on a full history."""
    hidden = np.zeros(128, np.float16)
    full = UserState(version=1, history=history(rng, 180), hidden=hidden)
    packed = pack(full)
    state = unpack(packed)
    click = Interaction(
        event_id="e", user_id="u", event_time_ms=START_MS + 8 * DAY_MS, action="click"
    )
    late = Interaction(event_id="e", user_id="u", event_time_ms=START_MS + DAY_MS, action="click")
    return {
        "unpack": lambda: unpack(packed),
        "fold": lambda: fold(state, [Delivery(click, 0, 0, 1)]),
        "fold late": lambda: fold(state, [Delivery(late, 0, 0, 1)]),
        "pack": lambda: pack(state),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds, at least 3")
    repeats = max(3, parser.parse_args().repeats)
    rng = np.random.default_rng(0)
    encoding, states = encoding_cases(rng), state_cases(rng)
    found: dict[str, list[float]] = {}
    floor: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, (batch, encode, copy) in encoding.items():
            found.setdefault(name, []).append(timed_us(encode, batch))
            floor.setdefault(name, []).append(timed_us(copy, batch))
        for name, call in states.items():
            found.setdefault(name, []).append(timed_us(call, 1))
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"{'case':>12} {'us':>8} {'worst':>8} {'ratio to copy':>14}")
    for name, values in found.items():
        ratio = ""
        if name in floor:
            ratio = f"{median(v / f for v, f in zip(values, floor[name], strict=True)):.1f}"
        print(f"{name:>12} {min(values):8.1f} {max(values):8.1f} {ratio:>14}")
    print(json.dumps({name: round(min(values), 1) for name, values in found.items()}))


if __name__ == "__main__":
    main()

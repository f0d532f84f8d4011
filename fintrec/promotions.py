"""The ledger of promotions: who made which checkpoint the served version, when, and instead of what.

REPOSITORY.ledger.jsonl, beside the model repository, one JSON object a line, only ever appended to.
A change first says that it begins, then that it is done, so one that was killed is found and undone
by the next. Which models a rollback returns to follows from the ledger alone.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from features.errors import ConfigurationError, FintrecError

BEGIN, PROMOTE, ROLLBACK, WITHDRAW = "begin", "promote", "rollback", "withdraw"
ACTIONS: Final = (BEGIN, PROMOTE, ROLLBACK, WITHDRAW)


class PromotionRefused(FintrecError):
    """A promotion or rollback that must not happen; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `intent` is what a BEGIN begins; `restores` the version a ROLLBACK returns to."""

    at_ms: int
    by: str
    action: str
    version: int
    version_before: int | None
    checkpoint_sha256: str
    checkpoint: str = ""
    restores: int | None = None
    intent: str = ""
    code: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Published:
    """A version and the checkpoint whose models it serves, as far as the ledger knows."""

    version: int
    checkpoint_sha256: str
    checkpoint: str


def ledger_path(repository: Path) -> Path:
    """Beside the repository: Triton takes what lies inside for models."""
    whole = repository.resolve()
    return whole.with_name(f"{whole.name}.ledger.jsonl")


def read_ledger(repository: Path) -> list[Entry]:
    """All entries, oldest first; a last line without its end was never written."""
    path = ledger_path(repository)
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text().split("\n")[:-1], start=1):
        try:
            data = json.loads(line)
            entry = Entry(**{name: data[name] for name in Entry.__slots__ if name in data})
            if entry.action not in ACTIONS:
                raise ValueError(f"action is {entry.action!r}, expected one of {ACTIONS}")
        except (ValueError, TypeError) as broken:
            raise ConfigurationError(f"{path}:{number}: not an entry of a ledger ({broken})") from (
                broken
            )
        found.append(entry)
    return found


def append(repository: Path, entry: Entry) -> Entry:
    """Write one line and see it on the disk."""
    path = ledger_path(repository)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _drop_torn_line(file.fileno(), path)
        file.write((json.dumps(entry.to_dict()) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    return entry


def _drop_torn_line(descriptor: int, path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.ftruncate(descriptor, content.rfind(b"\n") + 1)


@contextmanager
def exclusive(repository: Path) -> Iterator[None]:
    """One promotion or rollback at a time; PromotionRefused while another process is at it."""
    path = ledger_path(repository)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PromotionRefused(
                f"{path}: another promotion or rollback of this repository is under way"
            ) from None
        yield


def unfinished(entries: Sequence[Entry]) -> Entry | None:
    """The BEGIN of a change that never said how it ended."""
    return entries[-1] if entries and entries[-1].action == BEGIN else None


def highest(entries: Sequence[Entry]) -> int:
    """The highest version number that was ever given out here; 0 without any."""
    return max((entry.version for entry in entries), default=0)


def published(entries: Sequence[Entry], served: int | None = None) -> list[Published]:
    """The models that a rollback can return to, the served one last.

    A promotion adds one, a rollback takes the last away. A version that `fintrec export` made in
    between is known by its number alone. `served`: what is served now, if that is known.
    """
    stack: list[Published] = []
    for entry in entries:
        if entry.action not in (PROMOTE, ROLLBACK):
            continue
        _with_served(stack, entry.version_before)
        if entry.action == ROLLBACK:
            del stack[-2:]
        stack.append(Published(entry.version, entry.checkpoint_sha256, entry.checkpoint))
    _with_served(stack, served)
    return stack


def _with_served(stack: list[Published], version: int | None) -> None:
    if version is not None and (not stack or stack[-1].version != version):
        stack.append(Published(version, "", ""))


def before(entries: Sequence[Entry], served: int | None) -> Published:
    """What a rollback returns to; PromotionRefused where there is nothing before."""
    stack = published(entries, served)
    if len(stack) < 2:
        what = f"version {served}" if served is not None else "nothing"
        raise PromotionRefused(
            f"nothing to go back to: {what} is served, and no model was promoted before it"
        )
    return stack[-2]

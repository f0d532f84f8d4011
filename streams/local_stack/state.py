"""The state file of a local stack, `<DIR>/stack.json`: addresses, processes, logs.

Only the stack's supervisor writes it, whole and atomically, so a reader sees one moment. It is
believed only while the supervisor it names is alive.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from features.errors import FintrecError
from streams.local_stack.processes import Process

SERVERS = ("kafka", "redis", "triton")
FILE_NAME = "stack.json"


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """One server: the process that runs it, or how its last one ended."""

    log: str
    process: Process | None = None
    exit_code: int | None = None
    """Of the last process, minus the signal's number if a signal ended it; None while it runs."""


@dataclass(frozen=True, kw_only=True)
class StackState:
    """What a running stack says of itself; addresses are `host:port`."""

    supervisor: Process
    addresses: dict[str, str] = field(default_factory=dict)
    """kafka, redis, triton_grpc, triton_http, triton_metrics."""
    model_repository: str = ""
    servers: dict[str, ServerState] = field(default_factory=dict)

    def is_alive(self) -> bool:
        """Whether the stack's supervisor still runs."""
        return self.supervisor.is_alive()


def write_state(stack_dir: Path, state: StackState) -> None:
    """Replace the state file in one step."""
    path = stack_dir / FILE_NAME
    fresh = path.with_suffix(".json.new")
    fresh.write_text(json.dumps(asdict(state), indent=2) + "\n")
    os.replace(fresh, path)


def read_state(stack_dir: Path) -> StackState | None:
    """The state file as it stands, of a living stack or a dead one; None if there is none.

    Raises:
        FintrecError: the file is not one that a supervisor wrote.
    """
    path = stack_dir / FILE_NAME
    try:
        record = json.loads(path.read_text())
        return StackState(
            supervisor=Process(**record["supervisor"]),
            addresses=record["addresses"],
            model_repository=record["model_repository"],
            servers={name: _server(value) for name, value in record["servers"].items()},
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise FintrecError(
            f"{path} is not a state file of this version ({exc!r}): "
            "remove it once you know that no stack runs from it"
        ) from exc


def running_state(stack_dir: Path) -> StackState | None:
    """The state of the stack that runs from this folder now, or None."""
    state = read_state(stack_dir)
    return state if state is not None and state.is_alive() else None


def _server(value: dict[str, object]) -> ServerState:
    process = value["process"]
    exit_code = value["exit_code"]
    return ServerState(
        log=str(value["log"]),
        process=Process(**process) if isinstance(process, dict) else None,
        exit_code=exit_code if isinstance(exit_code, int) else None,
    )

"""One local stack, as its user sees it: start, wait until it answers, restart, end.

`LocalStack` ends with the `with` block, and with the process that started it, however that goes.
`detach()` leaves it running on its own, to be found again through its folder.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from features.errors import FintrecError
from streams.local_stack import jars, servers
from streams.local_stack.control import ask
from streams.local_stack.processes import command_line, free_ports
from streams.local_stack.readiness import is_ready
from streams.local_stack.state import SERVERS, StackState, read_state, running_state
from streams.local_stack.supervisor import ALREADY_RUNNING, remove_shared_memory

START_TIMEOUT_MS = 120_000
_TAIL_LINES = 20
_ERROR_LINES = 5
_ERROR_LINE = re.compile(r"E\d{4} |.*\b(ERROR|FATAL)\b|error:")


class StackAlreadyRunning(FintrecError):
    """Another supervisor has the folder."""


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """One server now."""

    pid: int | None
    ready: bool
    log: str
    exit_code: int | None = None
    log_tail: str | None = None
    """The last lines of its log, if it does not run."""


Progress = Callable[[str, str], None]
"""Hears (server, what happens to it)."""


class LocalStack:
    """Kafka, the store and Triton of one folder.

    Args:
        stack_dir: its folder; data in it is kept from one start to the next.
        model_repository: what Triton serves, by default `<stack_dir>/triton_models`.
        jar_cache: where the broker's jars are kept, by default in the user's cache.
    """

    def __init__(
        self, stack_dir: Path, model_repository: Path | None = None, jar_cache: Path | None = None
    ) -> None:
        self.dir = stack_dir.resolve()
        self.model_repository = (model_repository or self.dir / "triton_models").resolve()
        self._jar_cache = jar_cache or jars.default_cache()
        self._lifeline: int | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, progress: Progress = lambda server, what: None) -> None:
        """Start the three servers side by side and return when all answer.

        Raises:
            StackAlreadyRunning: the folder has a running stack.
            FintrecError: something is missing, or a server ended (with the tail of its log).
        """
        for path in (self.dir, self.model_repository):
            if any(character.isspace() for character in str(path)):
                raise FintrecError(
                    f"got {str(path)!r}: Triton starts its models through a shell and cannot serve "
                    "from a path with a space; choose another with --dir"
                )
        try:
            (self.dir / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise FintrecError(f"cannot use {self.dir} for a stack: {exc}") from exc
        self._spawn_supervisor()
        try:
            self._launch_servers(progress)
            self.wait_ready(progress=progress)
        except BaseException:
            self.close()
            raise

    def wait_ready(
        self,
        only: tuple[str, ...] = SERVERS,
        timeout_ms: int = START_TIMEOUT_MS,
        progress: Progress = lambda server, what: None,
    ) -> None:
        """Return when these servers answer.

        Raises:
            FintrecError: one of them ended, or does not answer in time; with the tail of its log.
        """
        waiting = list(only)
        until = time.monotonic() + timeout_ms / 1000
        while waiting:
            state = self._state()
            for name in list(waiting):
                if is_ready(name, state.addresses):
                    waiting.remove(name)
                    progress(name, "ready")
                elif state.servers[name].process is None:
                    raise FintrecError(self._obituary(name, state))
            if waiting and time.monotonic() > until:
                name = waiting[0]
                tail = last_words(Path(state.servers[name].log))
                raise FintrecError(f"{name} does not answer after {timeout_ms} ms; log:\n{tail}")
            time.sleep(0.05 if waiting else 0)

    def restart(self, server: str, timeout_ms: int = START_TIMEOUT_MS) -> None:
        """End a server if it runs, start it again on the same port and data, wait until ready."""
        _check_name(server)
        ask(self.dir, "restart", server=server)
        self.wait_ready((server,), timeout_ms)

    def start_worker(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> None:
        """Run a worker beside the servers; the stack ends it, before its servers, with itself.

        A worker that ends with an error is started again after a moment, as any supervisor would.
        """
        ask(
            self.dir,
            "start",
            server=name,
            argv=argv,
            env={**os.environ, **(env or {})},
            cwd=str(self.dir),
            log=str(self.dir / "logs" / f"{name}.log"),
            keep_alive=True,
        )

    def kill(self, server: str) -> None:
        """kill -9 a server, as a crash would; it stays down until `restart`. A worker comes back."""
        process = self._state().servers[server].process
        if process is not None:
            process.send(9)
            process.wait_gone(10_000)

    def pid(self, server: str) -> int:
        """The server's pid.

        Raises:
            FintrecError: it does not run.
        """
        state = self._state()
        process = state.servers[server].process
        if process is None or not process.is_alive():
            raise FintrecError(self._obituary(server, state))
        return process.pid

    @property
    def addresses(self) -> dict[str, str]:
        """kafka, redis, triton_grpc, triton_http, triton_metrics: each `host:port`."""
        return dict(self._state().addresses)

    def detach(self) -> None:
        """Let the stack go on without this process."""
        ask(self.dir, "detach")
        self._close_lifeline()
        if self._supervisor is not None:
            self._supervisor.returncode = 0  # no longer ours to wait for
            self._supervisor = None

    def close(self) -> None:
        """End everything that `start` started; nothing if it is ended or detached."""
        state = running_state(self.dir)
        if self._supervisor is not None and state and state.supervisor.pid == self._supervisor.pid:
            # Not by the lifeline alone: a fork of this process would hold it open.
            with suppress(FintrecError):
                ask(self.dir, "end")
        self._close_lifeline()
        if self._supervisor is not None:
            self._supervisor.wait(60)
            self._supervisor = None

    def _spawn_supervisor(self) -> None:
        stale = read_state(self.dir)
        if stale is not None and not stale.is_alive():
            remove_shared_memory(_shm_prefix(self.dir))
        ours, self._lifeline = os.pipe()
        argv = [
            sys.executable,
            "-P",
            "-m",
            "streams.local_stack.supervisor",
            str(self.dir),
            str(ours),
        ]
        with open(self.dir / "logs" / "supervisor.log", "ab") as log:
            self._supervisor = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ours,),
                start_new_session=True,
                cwd=self.dir,
            )
        os.close(ours)
        self._await_supervisor(self._supervisor)

    def _await_supervisor(self, supervisor: subprocess.Popen[bytes]) -> None:
        while True:
            state = running_state(self.dir)
            if state is not None and state.supervisor.pid == supervisor.pid:
                return
            if supervisor.poll() is None:
                time.sleep(0.01)
                continue
            self.close()
            if supervisor.returncode == ALREADY_RUNNING:
                raise StackAlreadyRunning(f"a stack is running in {self.dir} already")
            tail = log_tail(self.dir / "logs" / "supervisor.log")
            raise FintrecError(f"the supervisor ended with {supervisor.returncode}; log:\n{tail}")

    def _launch_servers(self, progress: Progress) -> None:
        names = tuple(servers.Ports.__dataclass_fields__)
        ports = servers.Ports(**dict(zip(names, free_ports(len(names)), strict=True)))
        prefix = _shm_prefix(self.dir)
        ask(
            self.dir,
            "describe",
            addresses=ports.addresses(),
            model_repository=str(self.model_repository),
            shm_prefixes=[prefix],
        )
        triton = servers.triton_command(self.dir, ports, self.model_repository, prefix)
        self._launch("triton", triton, progress)
        self._launch("redis", servers.redis_command(self.dir, ports), progress)
        locked = jars.read_lock(jars.lock_path())
        paths = jars.fetch_jars(
            locked,
            self._jar_cache,
            lambda done, total: progress("kafka", f"fetching jars, {done} of {total}"),
        )
        self._launch("kafka", servers.kafka_command(self.dir, ports, paths), progress)

    def _launch(self, name: str, command: servers.Command, progress: Progress) -> None:
        log = self.dir / "logs" / f"{name}.log"
        if log.exists():
            log.replace(log.with_name(f"{name}.log.1"))  # the log of the start before
        ask(
            self.dir,
            "start",
            server=name,
            argv=command.argv,
            env=command.env,
            cwd=str(command.cwd),
            log=str(log),
        )
        progress(name, "starting")

    def _state(self) -> StackState:
        state = running_state(self.dir)
        if state is None:
            raise FintrecError(f"no stack is running in {self.dir}")
        return state

    def _obituary(self, name: str, state: StackState) -> str:
        server = state.servers[name]
        ending = describe_exit(server.exit_code)
        return f"{name} {ending}; the end of {server.log}:\n{last_words(Path(server.log))}"

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def status(stack_dir: Path) -> dict[str, Any] | None:
    """What runs in a folder now, ready for JSON; None if no stack does.

    Keys: the addresses, `model_repository`, `supervisor_pid`, and `servers` and `workers`, by name
    a `ServerStatus` as a dict. A worker that runs counts as ready.
    """
    state = running_state(stack_dir)
    if state is None:
        return None
    found = {}
    for name, server in state.servers.items():
        process = server.process
        alive = process is not None and process.is_alive()
        found[name] = ServerStatus(
            pid=process.pid if process is not None and alive else None,
            ready=alive and (name not in SERVERS or is_ready(name, state.addresses)),
            log=server.log,
            exit_code=server.exit_code,
            log_tail=None if alive else last_words(Path(server.log)),
        )
    return {
        **state.addresses,
        "model_repository": state.model_repository,
        "supervisor_pid": state.supervisor.pid,
        "servers": {name: asdict(found[name]) for name in found if name in SERVERS},
        "workers": {name: asdict(found[name]) for name in found if name not in SERVERS},
    }


def stop(stack_dir: Path, timeout_ms: int = 30_000) -> bool:
    """End the stack that runs in a folder; False if none does.

    Asks its supervisor; one that does not react is killed, which takes its servers along.
    """
    state = running_state(stack_dir)
    if state is None:
        return False
    with suppress(FintrecError):  # it may be ending already, or hang: the wait below tells
        ask(stack_dir, "end", timeout_s=5)
    if not state.supervisor.wait_gone(timeout_ms):
        argv = command_line(state.supervisor.pid)
        if "streams.local_stack.supervisor" not in argv:
            raise FintrecError(f"pid {state.supervisor.pid} is {argv}, no supervisor: left alone")
        state.supervisor.send(9)
        state.supervisor.wait_gone(timeout_ms)
        remove_shared_memory(_shm_prefix(stack_dir.resolve()))
    return True


def log_tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log; empty if there is none yet."""
    return "\n".join(_last_lines(path)[-lines:])


def last_words(path: Path) -> str:
    """The end of a dead server's log, after the errors that stand shortly before it.

    Triton says why a model did not load, and then prints two long tables.
    """
    lines = _last_lines(path)
    earlier = [line for line in lines[:-_TAIL_LINES] if _ERROR_LINE.match(line)]
    return "\n".join([*earlier[-_ERROR_LINES:], *lines[-_TAIL_LINES:]])


def _last_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64_000))
        return file.read().decode(errors="replace").splitlines()


def describe_exit(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is None:
        return "ended"
    if exit_code < 0:
        return f"was ended by signal {-exit_code}"
    return f"ended with exit code {exit_code}"


def _shm_prefix(stack_dir: Path) -> str:
    return f"fintrec_{hashlib.sha256(str(stack_dir).encode()).hexdigest()[:12]}_"


def _check_name(server: str) -> None:
    if server not in SERVERS:
        raise ValueError(f"got server {server!r}, expected one of {SERVERS}")

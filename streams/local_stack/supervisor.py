"""The process that owns a stack's servers: starts, watches, restarts and ends them.

It runs in a session of its own, so that Ctrl-C at a terminal does not reach it, and takes requests
on a socket in the stack's folder. Three ties make sure that nothing outlives its owner:

- every server asks the kernel to be killed when the supervisor is gone, however it went;
- the supervisor ends everything when its lifeline (a pipe from whoever started it) closes, until
  it is told to go on alone ("detach");
- a lock on `<DIR>/lock`, held for life, keeps a second supervisor out of the folder.

A server that crashes is recorded in the state file and left as it is; a worker (`keep_alive`) that
ends with an error is started again. Workers end before their servers. Single-threaded on purpose:
the kernel ties a child to the thread that made it, and forks of a threaded process are unsafe.
"""

import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from streams.local_stack.control import bind_control
from streams.local_stack.processes import die_with_parent, identify
from streams.local_stack.state import (
    FILE_NAME,
    SERVERS,
    ServerState,
    StackState,
    write_state,
)

ALREADY_RUNNING = 3
_GRACE_S = 10.0
_RELAUNCH_S = 1.0


@dataclass
class _Child:
    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    keep_alive: bool = False
    popen: subprocess.Popen[bytes] | None = None
    exit_code: int | None = None
    relaunch_at: float | None = None


class Supervisor:
    """Keeps the servers of one stack folder."""

    def __init__(self, stack_dir: Path) -> None:
        self._dir = stack_dir
        self._children: dict[str, _Child] = {}
        self._shm_prefixes: list[str] = []
        me = identify(os.getpid())
        assert me is not None
        self._state = StackState(supervisor=me)
        self._detached = False
        self._ending = False

    def run(self, lifeline: int) -> None:
        """Serve requests until told to end, or until the lifeline closes."""
        control = bind_control(self._dir)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._on_signal)
        selector = selectors.DefaultSelector()
        for source in (control, lifeline, wake_read):
            selector.register(source, selectors.EVENT_READ)
        self._save()
        while not self._ending:
            for key, _ in selector.select(self._until_relaunch()):
                if key.fileobj is control:
                    self._serve(control)
                elif key.fd == lifeline:
                    selector.unregister(lifeline)
                    self._ending = self._ending or not self._detached
                else:
                    os.read(wake_read, 4096)
            self._reap()
            self._relaunch()
        self._end_all()

    def _on_signal(self, signum: int, _frame: object) -> None:
        if signum != signal.SIGCHLD:
            self._ending = True

    def _serve(self, control: socket.socket) -> None:
        connection, _ = control.accept()
        with connection, connection.makefile("rw") as stream:
            connection.settimeout(10)
            try:
                request = json.loads(stream.readline())
                reply = {"ok": True, **self._answer(request)}
            except (ValueError, KeyError, TypeError, OSError) as exc:
                reply = {"ok": False, "error": f"{type(exc).__name__}: {exc}"}
            try:
                stream.write(json.dumps(reply) + "\n")
                stream.flush()
            except OSError:
                return  # the caller went away; what it asked for is done all the same

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        verb = request["verb"]
        if verb == "start":
            child = _Child(
                request["argv"],
                request["env"],
                request["cwd"],
                request["log"],
                request.get("keep_alive", False),
            )
            if request["server"] in self._children:
                _end([self._children[request["server"]]])
            self._children[request["server"]] = child
            self._launch(child)
        elif verb == "describe":
            self._state = replace(
                self._state,
                addresses=request["addresses"],
                model_repository=request["model_repository"],
            )
            self._shm_prefixes = request["shm_prefixes"]
        elif verb == "restart":
            child = self._children[request["server"]]
            _end([child])
            self._launch(child)
        elif verb == "detach":
            self._detached = True
        elif verb == "end":
            self._ending = True
        else:
            raise ValueError(f"unknown verb {verb!r}")
        self._save()
        return {}

    def _launch(self, child: _Child) -> None:
        with open(child.log, "ab") as log:
            child.popen = subprocess.Popen(
                child.argv,
                env=child.env,
                cwd=child.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        child.exit_code = child.relaunch_at = None

    def _reap(self) -> None:
        changed = False
        for child in self._children.values():
            if child.popen is not None and child.popen.poll() is not None:
                child.exit_code = child.popen.returncode
                _kill_group(child.popen.pid)  # helpers that a crashed server leaves behind
                child.popen = None
                changed = True
                if child.keep_alive and child.exit_code:
                    child.relaunch_at = time.monotonic() + _RELAUNCH_S
        if changed:
            self._save()

    def _until_relaunch(self) -> float | None:
        due = [c.relaunch_at for c in self._children.values() if c.relaunch_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _relaunch(self) -> None:
        for child in self._children.values():
            if child.relaunch_at is not None and time.monotonic() >= child.relaunch_at:
                self._launch(child)
                self._save()

    def _save(self) -> None:
        servers = {}
        for name, child in self._children.items():
            process = identify(child.popen.pid) if child.popen is not None else None
            servers[name] = ServerState(log=child.log, process=process, exit_code=child.exit_code)
        self._state = replace(self._state, servers=servers)
        write_state(self._dir, self._state)

    def _end_all(self) -> None:
        servers = [child for name, child in self._children.items() if name in SERVERS]
        _end([child for name, child in self._children.items() if name not in SERVERS])
        _end(servers)
        for prefix in self._shm_prefixes:
            remove_shared_memory(prefix)
        (self._dir / FILE_NAME).unlink(missing_ok=True)


def _end(children: list[_Child]) -> None:
    """Ask politely, all at once; then kill what is left of each process group."""
    running = [child for child in children if child.popen is not None]
    for child in running:
        assert child.popen is not None
        child.popen.send_signal(signal.SIGTERM)
        child.popen.send_signal(signal.SIGCONT)  # a frozen server could not hear it
    until = time.monotonic() + _GRACE_S
    for child in running:
        assert child.popen is not None
        try:
            child.popen.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.popen.kill()
            child.popen.wait()
        _kill_group(child.popen.pid)
        child.exit_code = child.popen.returncode
        child.popen = None


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # the server took everything along, as it should


def remove_shared_memory(prefix: str) -> None:
    """Delete the shared memory that a killed Triton leaves behind; `prefix` is this stack's own."""
    for leftover in Path("/dev/shm").glob(f"{prefix}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def main() -> None:
    """`python -m streams.local_stack.supervisor DIR LIFELINE_FD`."""
    stack_dir, lifeline = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lifeline, False)
    lock = os.open(stack_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(ALREADY_RUNNING)
    Supervisor(stack_dir).run(lifeline)


if __name__ == "__main__":
    main()

"""Processes that are known for certain, and ports that stay ours.

A pid alone is no identity: it is given out again. A pid with its start time (in clock ticks since
boot, from /proc) names one process for as long as the machine runs.
"""

import ctypes
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PORTS_FROM = 20_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this machine: its pid and when it started, in clock ticks since boot."""

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie is dead, so is a recycled pid."""
        return _start_ticks(self.pid) == self.start_ticks

    def send(self, signum: int) -> bool:
        """Signal the process if it is still this one; False if it is gone.

        The pidfd pins the process before its identity is checked, so that a pid which is given
        out again between the two is never signalled.
        """
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(handle, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def wait_gone(self, timeout_ms: int) -> bool:
        """Wait until the process is gone; False if it still runs after `timeout_ms`."""
        until = time.monotonic() + timeout_ms / 1000
        while self.is_alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True


def identify(pid: int) -> Process | None:
    """The process that has this pid now, or None."""
    start_ticks = _start_ticks(pid)
    return None if start_ticks is None else Process(pid, start_ticks)


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold spaces and brackets, so count the fields after its last bracket.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def command_line(pid: int) -> list[str]:
    """The arguments that a process was started with; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def die_with_parent() -> Callable[[], None]:
    """A `preexec_fn` that has the kernel kill the child as soon as its parent thread is gone."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request was in place
            os._exit(1)

    return in_child


def free_ports(count: int, rng: random.Random | None = None) -> list[int]:
    """`count` different loopback ports that nobody listens on, below the ephemeral range.

    An ephemeral port would be lost while its server is down: a client that keeps trying to connect
    to it can be given that same port as its own, and then talks to itself.
    """
    rng = rng or random.Random()
    below = int(_EPHEMERAL_RANGE.read_text().split()[0]) if _EPHEMERAL_RANGE.exists() else 32_768
    candidates = range(_PORTS_FROM, below) if below > _PORTS_FROM + 1000 else range(10_000, 32_768)
    ports: list[int] = []
    for port in rng.sample(candidates, k=min(len(candidates), 200 + count)):
        if is_free(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"found {len(ports)} free ports of {count} in {candidates} on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

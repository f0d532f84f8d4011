"""CPU time and memory of a system's processes, from /proc."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

OTHERS: Final = "others"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """CPU seconds so far, by name, with the whole machine's busy time."""

    at_s: float
    cpu_s: Mapping[str, float]
    machine_busy_s: float
    waited_s: Mapping[str, float]  # ready to run, but without a core


@dataclass(slots=True)
class Watched:
    """Processes by name; a name in `families` stands for a process with all its children.

    A process in `parts` is counted under its own name and not under its parent's.
    """

    families: dict[str, int]
    parts: dict[str, int] = field(default_factory=dict)

    def _members(self) -> dict[str, list[psutil.Process]]:
        apart = set(self.parts.values())
        found = {
            name: [p for p in _family(pid) if p.pid not in apart]
            for name, pid in self.families.items()
        }
        return found | {name: _family(pid)[:1] for name, pid in self.parts.items()}

    def snapshot(self, at_s: float) -> Snapshot:
        """CPU time now."""
        processes = self._members()
        cpu = {name: sum(map(_cpu_s, members)) for name, members in processes.items()}
        waited = {name: sum(map(_waited_s, members)) for name, members in processes.items()}
        times = psutil.cpu_times()
        busy = times.user + times.nice + times.system + times.softirq
        return Snapshot(at_s, cpu, busy, waited)

    def memory_mb(self) -> dict[str, float]:
        """Proportional set size, in megabytes."""
        return {
            name: round(sum(map(_pss, members)) / 1e6, 1)
            for name, members in self._members().items()
        }


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _waited_s(process: psutil.Process) -> float:
    waited_ns = 0
    for stat in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            waited_ns += int(stat.read_text().split()[1])
    return waited_ns / 1e9


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


def cores(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """Cores kept busy by each name between two snapshots, and by the rest of the machine."""
    seconds = after.at_s - before.at_s
    found = {
        name: (cpu_s - before.cpu_s.get(name, 0.0)) / seconds for name, cpu_s in after.cpu_s.items()
    }
    busy = (after.machine_busy_s - before.machine_busy_s) / seconds
    return {**found, OTHERS: max(0.0, busy - sum(found.values()))}


def waiting(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """How many threads of each name stood ready without a core, on average.

    Next to the cores kept busy it tells a process that is starved from one that is blocked.
    """
    seconds = after.at_s - before.at_s
    return {
        name: max(0.0, waited_s - before.waited_s.get(name, 0.0)) / seconds
        for name, waited_s in after.waited_s.items()
    }

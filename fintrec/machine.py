"""What a number was measured on: processor, memory, kernel, versions, commit, date."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("fintrec", "numpy", "pyarrow", "scikit-learn", "torch")
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def describe(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """The machine and the software, ready for JSON; packages that are not installed are left out."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": _memory_gb(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": _versions(packages),
        "commit": _commit(),
    }


def in_words(machine: dict[str, Any]) -> str:
    """The machine in half a sentence: `2 cores of AMD EPYC, 23.5 GiB, Python 3.11.7`."""
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GiB, "
        f"Python {machine['python']}"
    )


def peak_memory_bytes() -> int:
    """Most memory that this process held at once."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss also counts the process that started this one
        words = status.read_text().partition("VmHWM:")[2].split()
        return int(words[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _memory_gb() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _commit() -> str:
    """Short hash of the checkout, `+` where files differ from it; empty outside of one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    answers = [
        subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno"))
    ]
    head, changes = (answer.stdout.strip() for answer in answers)
    return head + ("+" if head and changes else "")

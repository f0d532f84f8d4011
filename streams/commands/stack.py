"""`fintrec stack up|status|logs|down`: the local stack from the command line."""

import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from features.errors import FintrecError
from streams.commands.options import dir_option, json_option, print_json, wide_console
from streams.local_stack.stack import LocalStack, StackAlreadyRunning, log_tail, status, stop
from streams.local_stack.state import SERVERS
from streams.settings import Settings, load_settings


@click.group()
def stack() -> None:
    """Start, inspect and end the local stack: Kafka, a Redis-protocol store and Triton."""


@stack.command()
@dir_option
@json_option
@click.option(
    "--model-repository",
    type=click.Path(file_okay=False, path_type=Path),
    help="What Triton serves (default: triton_models in the stack's folder).",
)
def up(stack_dir: Path | None, as_json: bool, model_repository: Path | None) -> None:
    """Start the stack and leave it running; if it runs already, say where."""
    settings = load_settings(stack_dir)
    local = LocalStack(settings.stack_dir, model_repository, settings.jar_cache)
    console = Console(stderr=True)
    try:
        with StartProgress(console) as progress:
            local.start(progress)
            local.detach()
    except StackAlreadyRunning:
        console.print(f"already running in {settings.stack_dir}")
        local.wait_ready()
    _show(_status(settings), as_json)


@stack.command("status")
@dir_option
@json_option
def show_status(stack_dir: Path | None, as_json: bool) -> None:
    """Print addresses and, per server, pid, readiness and log; fails if no stack runs."""
    settings = load_settings(stack_dir)
    found = _status(settings)
    _show(found, as_json)
    if not all(server["ready"] for server in found["servers"].values()):
        sys.exit(1)


@stack.command()
@dir_option
@click.argument("server", type=click.Choice([*SERVERS, "supervisor"]))
@click.option("--lines", "-n", default=50, show_default=True, type=click.IntRange(1))
def logs(stack_dir: Path | None, server: str, lines: int) -> None:
    """Print the end of a server's log, also of a stack that has ended."""
    path = load_settings(stack_dir).stack_dir / "logs" / f"{server}.log"
    if not path.exists():
        raise FintrecError(f"there is no log {path}")
    click.echo(log_tail(path, lines))


@stack.command()
@dir_option
def down(stack_dir: Path | None) -> None:
    """End the stack; its data stays in the folder."""
    folder = load_settings(stack_dir).stack_dir
    click.echo(f"ended the stack in {folder}" if stop(folder) else f"no stack runs in {folder}")


class StartProgress:
    """A small live table of the three servers while they start; plain lines without a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._rows = {name: ("waiting", 0.0) for name in SERVERS}
        self._live = Live(
            get_renderable=self._table, console=console, refresh_per_second=8, transient=False
        )

    def __enter__(self) -> "StartProgress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, server: str, what: str) -> None:
        """Note what happens to a server."""
        elapsed_s = time.monotonic() - self._began
        is_news = what.partition(",")[0] != self._rows[server][0].partition(",")[0]
        if is_news and not self._console.is_terminal:
            self._console.print(f"{server}: {what} ({elapsed_s:.1f} s)")
        self._rows[server] = (what, elapsed_s)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now_s = time.monotonic() - self._began
        for name, (what, since_s) in self._rows.items():
            is_done = what == "ready"
            mark = "[green]ready[/]" if is_done else f"[yellow]{what}[/]"
            table.add_row(name, mark, f"{since_s if is_done else now_s:.1f} s")
        return table


def _status(settings: Settings) -> dict[str, Any]:
    found = status(settings.stack_dir)
    if found is None:
        raise FintrecError(
            f"no stack is running in {settings.stack_dir}: start one with 'fintrec stack up'"
        )
    return found


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    table = Table("server", "address", "pid", "ready", "log", box=None)
    where = {
        "kafka": found["kafka"],
        "redis": found["redis"],
        "triton": f"{found['triton_grpc']} (gRPC) {found['triton_http']} (HTTP)",
    }
    processes = found["servers"] | found["workers"]
    for name, server in processes.items():
        address = where.get(name, "(worker)")
        table.add_row(name, address, str(server["pid"] or "-"), str(server["ready"]), server["log"])
    console = wide_console()
    console.print(table)
    for name, server in processes.items():
        if server["log_tail"] is not None:
            console.print(f"\n{name} does not run (exit code {server['exit_code']}); its log:")
            console.print(server["log_tail"], markup=False, highlight=False)

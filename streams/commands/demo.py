"""`fintrec demo`: one event becomes one slate, on the real servers, start to finish."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from features.clock import SystemClock
from features.errors import FintrecError
from streams.commands.options import dir_option, wide_console
from streams.commands.slate_table import slate_table
from streams.local_stack.stack import LocalStack
from streams.settings import Settings, load_settings

ASKED = 50  # items asked for, so that a change far down is seen as well
SHOWN = 5
STEPS = {
    "stack": "start Kafka, the online store and Triton",
    "simulate": "build a simulated bank",
    "topics": "create the topics",
    "workers": "start an ingest and a scoring worker",
    "features": "apply the Feast repository, load the nightly features",
    "policy": "set the ranking policy: a click counts as ten dollars",
    "publish": "publish the catalogue, consents and the last days' events",
    "train": "train pCTR and pCVR on the log",
    "export": "export to Triton and load the models",
}


@click.command()
@click.option("--keep", is_flag=True, help="Leave the stack and the workers running.")
@click.option("--size", default="demo", show_default=True, help="Size of the simulated bank.")
@click.option("--minutes", default=0.45, show_default=True, help="Training time of each model.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Save the output.")
@dir_option
def demo(keep: bool, size: str, minutes: float, svg: Path | None, stack_dir: Path | None) -> None:
    """Build everything from nothing, ask for slates, and show what an event changes."""
    console = Console(record=True, width=110) if svg else wide_console()
    settings = load_settings(stack_dir)
    began = time.monotonic()
    with ExitStack() as exits:
        stack = LocalStack(settings.stack_dir, jar_cache=settings.jar_cache)
        exits.callback(stack.close)
        with StepTable(console) as report:
            build(stack, settings, size, minutes, report)
        settings = load_settings(settings.stack_dir)
        console.print()
        show(settings, settings.stack_dir / "bank", console, began)
        if keep:
            stack.detach()
            console.print(what_next(settings))
        else:
            console.print("[dim]ending everything that was started[/]")
    if svg is not None:
        svg.write_text(console.export_svg(title="make demo"))


class StepTable:
    """Steps with their state and time: a live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[str, float] = {}
        self._ended: dict[str, tuple[str, float]] = {}
        self._notes: dict[str, str] = {}
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8)

    def __enter__(self) -> "StepTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, step: str, what: str) -> None:
        """Note what happens to a step: running, done, failed, or anything worth a word."""
        now = time.monotonic()
        if what == "running":
            self._began[step] = now
        elif what in ("done", "failed"):
            self._ended[step] = (what, now - self._began.get(step, now))
            self._notes.pop(step, None)
        else:
            self._notes[step] = what
            return
        if not self._console.is_terminal:
            took = f" in {self._ended[step][1]:.1f} s" if step in self._ended else ""
            self._console.print(f"{step}: {what}{took}")

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for step, words in STEPS.items():
            mark: Any = Text("")
            took = ""
            if step in self._ended:
                state, seconds = self._ended[step]
                mark = Text("✓", "green") if state == "done" else Text("✗", "red")
                took = f"{seconds:.1f} s"
            elif step in self._began:
                mark, took = self._spinner, f"{now - self._began[step]:.1f} s"
            table.add_row(mark, words, took, self._notes.get(step, ""))
        return table


def build(
    stack: LocalStack, settings: Settings, size: str, minutes: float, report: StepTable
) -> None:
    """From an empty folder to running workers with loaded models."""
    from streams.demo import Runner, start_afresh, steps

    def start() -> None:
        stack.start(lambda server, what: report("stack", f"{server} {what}"))

    folder = settings.stack_dir
    start_afresh(folder)
    plan = steps(folder / "bank", folder / "checkpoint", size, minutes)
    Runner(settings, report).run(plan, stack, start)


def show(settings: Settings, bank: Path, console: Console, began: float) -> None:
    """Ask for a user's slate, let something happen, ask again, and say what changed."""
    from streams.demo import causes, choose_user, intraday, publish, slate_request, wait_until
    from streams.slate_client import SlateClient

    clock = SystemClock()
    with SlateClient(settings) as client:
        user = choose_user(settings, bank)
        wait_until(
            f"a slate of {user} with hidden states",
            lambda: client.ask(slate_request(user, clock), 30.0)["tier"] == "fresh",
        )
        first = client.ask(slate_request(user, clock, ASKED))
        console.print(slate_table(_head(first), f"slate for {user}, before"))
        console.print(f"[dim]first slate {time.monotonic() - began:.0f} s after the start[/]\n")
        before = intraday(settings, user)
        clicked = travel_item(settings, first)
        events = causes(user, clicked, clock)
        published = time.monotonic()
        publish(settings, events)
        after = wait_until(
            f"the events of {user} reaching the state",
            lambda: changed(before, intraday(settings, user), len(events)),
        )
        seen_ms = (time.monotonic() - published) * 1000
        second = client.ask(slate_request(user, clock, ASKED))
    console.print(
        Panel(
            Text.assemble(
                ("what happened\n", "bold"),
                "a card purchase of $842.50 at an airline, and a click on ",
                (clicked, "cyan"),
                f"; in the state within {seen_ms:.0f} ms of being published\n",
                ("what the models see of it\n", "bold"),
                "\n".join(_differences(before, after)),
            ),
            expand=False,
        )
    )
    console.print(
        slate_table(_head(second), f"slate for {user}, after", moved=_moved(first, second))
    )
    console.print(climbers(first, second))


def travel_item(settings: Settings, slate: Mapping[str, Any]) -> str:
    """The travel item that the user clicks: the best-ranked one, else the first of the catalogue."""
    from streams.demo import items_of_category

    travel = items_of_category(settings, "travel")
    ranked = [item["item_id"] for item in slate["items"] if item["item_id"] in travel]
    if not (ranked or travel):
        raise FintrecError("the catalogue has no item of category travel")
    return ranked[0] if ranked else travel[0]


def changed(before: Mapping[str, int], now: Mapping[str, int], num_events: int) -> Any:
    """The features now, once the state has taken the events in; else None."""
    return now if now["events_count"] >= before["events_count"] + num_events else None


def _differences(before: Mapping[str, int], after: Mapping[str, int]) -> Sequence[str]:
    shown = [
        name
        for name in after
        if after[name] != before[name]
        and (name.endswith(("_15m", "_since_session", "_day")) or name == "events_count")
    ]
    return [f"  {name}  {before[name]} -> {after[name]}" for name in shown]


def _head(slate: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**slate, "items": slate["items"][:SHOWN]}


def climbers(first: Mapping[str, Any], second: Mapping[str, Any]) -> Table:
    """The items whose rank rose most between two slates of the same question."""
    before = {item["item_id"]: item for item in first["items"]}
    both = [(before[i["item_id"]], i) for i in second["items"] if i["item_id"] in before]
    both.sort(key=lambda pair: pair[1]["position"] - pair[0]["position"])
    table = Table(title=f"what rose most of the first {ASKED}", title_justify="left")
    for name in ("item", "rank", "pCTR", "pCVR", "RS"):
        table.add_column(name, justify="left" if name == "item" else "right")
    for old, new in both[:SHOWN]:
        table.add_row(
            new["item_id"],
            f"{old['position']} -> {new['position']}",
            f"{old['pctr']:.4f} -> {new['pctr']:.4f}",
            f"{old['pcvr']:.5f} -> {new['pcvr']:.5f}",
            f"{old['ranking_score']:.4f} -> {new['ranking_score']:.4f}",
        )
    return table


def _moved(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, str]:
    position = {item["item_id"]: item["position"] for item in first["items"]}
    notes = {}
    for item in second["items"]:
        old = position.get(item["item_id"])
        if old is None:
            notes[item["item_id"]] = "not shown"
        elif old != item["position"]:
            notes[item["item_id"]] = f"was {old}"
        else:
            notes[item["item_id"]] = "same"
    return notes


def what_next(settings: Settings) -> Group:
    """Commands to try on a stack that was left running."""
    at = "" if settings.stack_dir == load_settings().stack_dir else f" --dir {settings.stack_dir}"
    lines = (
        ("a slate", f"fintrec request u000001{at}"),
        ("the same as JSON", f"fintrec request u000002 --json{at}"),
        ("make clicks count for more", f"fintrec policy set --lambda-ctr 50{at}"),
        ("see every policy", f"fintrec policy show{at}"),
        ("slates as they are made", f"fintrec tail slates.v1 -n 3 --no-follow{at}"),
        ("users who react to their slates", f"fintrec simulate --live --minutes 1{at}"),
        ("what runs where", f"fintrec stack status{at}"),
        ("end it all", f"fintrec stack down{at}"),
    )
    table = Table.grid(padding=(0, 2))
    for words, command in lines:
        table.add_row(Text(words, style="dim"), Text(command))
    return Group(Text("running; try (the command is .venv/bin/fintrec)", style="bold"), table)

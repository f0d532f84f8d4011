"""`fintrec simulate --live`: users of a simulated bank react to the slates that they are served.

Plain `fintrec simulate` stays where it is; this is the same verb with one flag more.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from features.errors import FintrecError
from fintrec.commands.options import POSITIVE
from fintrec.commands.simulate import simulate as plain
from streams.commands.options import dir_option, json_option, print_json, wide_console

_REFRESH_S: Final = 0.25
FLAG: Final = "--live"


class WithLive(click.Command):
    """`fintrec simulate`, which hands over to the live verb where the flag is given."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of the verb that the arguments ask for."""
        if FLAG in args:
            left = [argument for argument in args if argument != FLAG]
            return live.make_context(f"{info_name} {FLAG}", left, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _plain(**given: Any) -> Any:
    del given["live"]
    assert plain.callback is not None
    return plain.callback(**given)


_LIVE_OPTION: Final = click.Option(
    [FLAG],
    is_flag=True,
    help="Play users against the running stack instead: fintrec simulate --live --help",
)
simulate = WithLive(
    "simulate", params=[*plain.params, _LIVE_OPTION], callback=_plain, help=plain.help
)


@click.command()
@click.option(
    "--log",
    "log_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="LOG_DIR",
    help="Log of fintrec simulate with its hidden truth [default: bank of the stack's folder].",
)
@click.option("--users", type=click.IntRange(1), default=None, help="So many of its users.")
@click.option("--minutes", type=POSITIVE, default=5, show_default=True)
@click.option(
    "--speed",
    type=click.FloatRange(1, 100_000),
    default=60,
    show_default=True,
    help="Seconds of the bank's time in a second.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1),
    default=10,
    show_default=True,
    help="Seconds until a user gives up on a slate.",
)
@dir_option
@json_option
def live(
    log_dir: Path | None,
    users: int | None,
    minutes: float,
    speed: float,
    seed: int,
    timeout_s: float,
    stack_dir: Path | None,
    as_json: bool,
) -> None:
    """Play users who go on where a simulated log ended, against the running stack (make up).

    They shop, log in and look at pages; each page asks for a slate, and clicks and conversions
    follow from the hidden truth of the bank (docs/operations.md). Ctrl-C ends it with a summary.
    """
    from features.clock import SystemClock
    from streams.live.exchange import KafkaExchange
    from streams.live.future import TooManyUsers, draw_future
    from streams.live.player import Pace, Player
    from streams.live.run import run
    from streams.settings import load_settings

    settings, clock = load_settings(stack_dir), SystemClock()
    settings.require("kafka_bootstrap")
    wall_ms = round(minutes * 60_000)
    try:
        future, memory = draw_future(
            log_dir or settings.stack_dir / "bank", users, seed, round(wall_ms * speed)
        )
    except TooManyUsers as refused:
        raise click.BadParameter(str(refused), param_hint="--users") from refused
    with KafkaExchange(settings, future.entities) as exchange:
        start_ms = clock.now_ms()
        pace = Pace(start_ms, start_ms + wall_ms, speed, future.start_ms)
        run_id = f"live-{seed}-{start_ms}"
        player = Player(future, memory, pace, seed, run_id, round(timeout_s * 1000))
        with _Watch(player.counts.summary, minutes * 60, as_json) as watch:
            is_whole = run(player, exchange, clock, watch)
        done = {
            "run_id": run_id,
            "users": len(future.users),
            "seconds": round(watch.seconds, 3),
            "bank_hours": round(watch.seconds * speed / 3600, 3),
            "interrupted": not is_whole,
            **player.counts.summary(),
            "acknowledged": exchange.num_acknowledged,
            "refused": exchange.refused,
        }
    if as_json:
        print_json(done)
    else:
        console = wide_console()
        console.print(_table(done, done["seconds"]))
        console.print(_last_words(done), highlight=False)
    if done["requests"] and not done["answered"] and not done["interrupted"]:
        raise FintrecError(
            f"none of {done['requests']:,} requests had a slate: is a scoring worker running "
            "(fintrec stack status)?"
        )


class _Watch:
    """A live table on a terminal, nothing elsewhere; called at every turn of the run."""

    def __init__(
        self, summary: Callable[[], Mapping[str, Any]], length_s: float, is_silent: bool
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._summary, self._length_s = summary, length_s
        console = Console(stderr=True)
        self._shown = None
        if console.is_terminal and not is_silent:
            self._shown = Live(console=console, auto_refresh=False, transient=True)
        self._began = self._drawn = time.monotonic()

    def __enter__(self) -> "_Watch":
        if self._shown is not None:
            self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
        if self._shown is not None:
            self._shown.stop()

    def __call__(self) -> None:
        now = time.monotonic()
        if self._shown is not None and now - self._drawn >= _REFRESH_S:
            self._drawn, passed = now, now - self._began
            title = f"{passed:.0f} of {self._length_s:.0f} s, Ctrl-C ends it"
            self._shown.update(_table(self._summary(), passed, title), refresh=True)


def _table(found: Mapping[str, Any], seconds: float, title: str = "") -> Any:
    from rich.table import Table

    table = Table(title=title or "live users", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("of it", style="dim")
    for row in _rows(found, max(seconds, 1e-9)):
        table.add_row(*row)
    return table


def _rows(found: Mapping[str, Any], seconds: float) -> list[tuple[str, str, str]]:
    latency, tiers, z = found["latency_ms"], found["tiers"], found["clicks_z"]
    return [
        ("events", f"{found['num_events']:,}", f"{found['num_events'] / seconds:,.1f} a second"),
        ("", "", _listed(found["events"])),
        ("slates asked for", f"{found['requests']:,}", f"{found['answered']:,} answered"),
        ("unanswered", f"{found['unanswered']:,}", f"{found['late_slates']:,} came too late"),
        ("tiers", "", _listed(tiers)),
        (
            "latency ms",
            f"{latency['p50']:.0f}" if latency else "-",
            f"median; 99 of 100 within {latency['p99']:.0f}" if latency else "",
        ),
        ("items shown", f"{found['shown']:,}", f"{found['dismissals']:,} dismissed"),
        ("clicks", f"{found['clicks']:,}", f"CTR {_share(found['ctr'])}"),
        (
            "CTR by truth",
            _share(found["ctr_by_truth"]),
            "" if z is None else f"clicks are {z:+.1f} standard deviations from it",
        ),
        ("CTR by model", _share(found["ctr_by_model"]), "mean pCTR of what was shown"),
        (
            "CTR of others",
            "",
            f"{_share(found['ctr_of_logging_policy'])} for the simulator's own pages, "
            f"{_share(found['ctr_of_best'])} at best, by truth",
        ),
        (
            "conversions",
            f"{sum(found['conversions'].values()):,}",
            _listed(found["conversions"]),
        ),
        ("after the end", f"{sum(found['after_the_end'].values()):,}", _after(found)),
    ]


def _after(found: Mapping[str, Any]) -> str:
    left = f"{found['pages_not_reached']:,} pages not reached"
    return "; ".join(filter(None, (_listed(found["after_the_end"]), left)))


def _last_words(done: Mapping[str, Any]) -> str:
    lines = [
        f"{done['users']:,} users, {done['seconds']:.0f} s, {done['bank_hours']:.1f} hours of the "
        f"bank; {done['acknowledged']:,} records acknowledged; run {done['run_id']}"
    ]
    if done["interrupted"]:
        lines.append("ended by Ctrl-C before its end")
    if done["refused"]:
        lines.append(
            f"refused by the border: {_listed(done['refused'])} (fintrec tail *.dead_letter)"
        )
    if done["unknown_items"]:
        lines.append(
            f"served, but not of this bank: {done['unknown_items']:,} items; is --log the log that "
            f"was published?"
        )
    if done["not_allowed_items"]:
        lines.append(
            f"shown although the user's true products, tenure or consent do not allow it: "
            f"{done['not_allowed_items']:,}"
        )
    return "\n".join(lines)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()) if number)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"

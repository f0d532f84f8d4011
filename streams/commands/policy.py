"""`fintrec policy set|show`: the coefficients, values and urgencies of eq. 1."""

from pathlib import Path

import click
import msgspec
from rich.table import Table

from features.border import to_record
from features.clock import SystemClock
from features.errors import MalformedEvent
from features.records import RankingPolicy
from fintrec.policies import PolicyBook
from streams.commands.options import dir_option, json_option, print_json, wide_console
from streams.policy_topic import publish_policy, read_policies
from streams.settings import load_settings


@click.group()
def policy() -> None:
    """Show or set the ranking policy; scoring workers follow without a restart."""


@policy.command()
@click.option("--scope", default=None, help="Only this product's (default: all).")
@dir_option
@json_option
def show(scope: str | None, stack_dir: Path | None, as_json: bool) -> None:
    """Print every known policy version and which is in force now."""
    book = PolicyBook(read_policies(load_settings(stack_dir)))
    now_ms = SystemClock().now_ms()
    shown = [p for p in book.all() if scope is None or p.scope == scope]
    rows = [
        msgspec.to_builtins(p) | {"in_force": book.in_force(p.scope, now_ms) == p} for p in shown
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(title="ranking policies", title_justify="left")
    for name in ("scope", "version", "l_us", "l_ctr", "l_cvr", "values", "urgencies", "in force"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            row["scope"] or "(all)",
            str(row["version"]),
            f"{row['lambda_us']:g}",
            f"{row['lambda_ctr']:g}",
            f"{row['lambda_cvr']:g}",
            str(len(row["value_usd"])),
            str(len(row["urgency"])),
            "yes" if row["in_force"] else "",
        )
    wide_console().print(table)


@policy.command("set")
@click.option("--scope", default="", help="A product's name; default: every surface.")
@click.option("--lambda-us", type=float, help="Weight of urgency.")
@click.option("--lambda-ctr", type=float, help="Weight of pCTR.")
@click.option("--lambda-cvr", type=float, help="Weight of pCVR times value.")
@click.option("--value", "values", multiple=True, metavar="ITEM=USD", help="v(i); repeatable.")
@click.option("--urgency", "urgencies", multiple=True, metavar="ITEM=N", help="us(i); repeatable.")
@click.option("--effective-from-ms", type=int, help="Default: now.")
@click.option("--expires-ms", type=int, help="Default: never.")
@dir_option
@json_option
def set_policy(
    scope: str,
    lambda_us: float | None,
    lambda_ctr: float | None,
    lambda_cvr: float | None,
    values: tuple[str, ...],
    urgencies: tuple[str, ...],
    effective_from_ms: int | None,
    expires_ms: int | None,
    stack_dir: Path | None,
    as_json: bool,
) -> None:
    """Publish the next version of a scope's policy: what is not given stays as it is in force."""
    settings = load_settings(stack_dir)
    book = PolicyBook(read_policies(settings))
    now_ms = SystemClock().now_ms()
    base = book.in_force(scope, now_ms)
    newest = max((p.version for p in book.all() if p.scope == scope), default=0)
    changed = {
        "scope": scope,
        "version": newest + 1,
        "base_version": base.version,
        "lambda_us": base.lambda_us if lambda_us is None else lambda_us,
        "lambda_ctr": base.lambda_ctr if lambda_ctr is None else lambda_ctr,
        "lambda_cvr": base.lambda_cvr if lambda_cvr is None else lambda_cvr,
        "value_usd": dict(base.value_usd) | _pairs(values, "--value"),
        "urgency": dict(base.urgency) | _pairs(urgencies, "--urgency"),
        "effective_from_ms": now_ms if effective_from_ms is None else effective_from_ms,
        "expires_ms": expires_ms,
    }
    try:
        made = to_record(changed, RankingPolicy)
    except MalformedEvent as refused:
        raise click.UsageError(str(refused)) from refused
    publish_policy(settings, made)
    if as_json:
        print_json(msgspec.to_builtins(made))
    else:
        click.echo(
            f"policy {scope or '(all)'} version {made.version}: us {made.lambda_us:g}, "
            f"ctr {made.lambda_ctr:g}, cvr {made.lambda_cvr:g}"
        )


def _pairs(given: tuple[str, ...], option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in given:
        item, equals, number = text.rpartition("=")
        try:
            if not equals or not item:
                raise ValueError(text)
            found[item] = float(number)
        except ValueError as refused:
            raise click.BadParameter(
                f"got {text!r}, expected ITEM=NUMBER", param_hint=option
            ) from refused
    return found

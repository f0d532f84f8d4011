"""Plots of a simulated bank: funnel, delays, hours, spending, propensities, needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from features.categories import category_of
from features.spec import DAY_MS, HOUR_MS
from fintrec import logs
from fintrec.bank import needs, truth
from fintrec.bank.marginals import Found
from fintrec.bank.money import LOCAL_OFFSET_MS
from fintrec.bank.population import NEVER_MS
from fintrec.bank.visits import Triggers, fast_needs

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "fintrec"  # the same plot has the same bytes
_INCHES: Final = (6.4, 3.6)
_TYPES: Final = ("marketing", "servicing", "third_party")


def funnel(found: Found, axes: Any) -> None:
    """Impressions, clicks and caused conversions by content type, logarithmic."""
    clicks = found.clicks
    kind = found.content_types[clicks.item]
    caused = found.causes.filter(np.isin(found.causes["cause"].to_numpy(), ("click", "exposure")))
    place = {item.item_id: index for index, item in enumerate(found.items)}
    goals = found.content_types[[place[name] for name in caused["item_id"].to_pylist()]]
    for number, name in enumerate(_TYPES):
        counts = [
            (clicks.of("impression") & (kind == name)).sum(),
            (clicks.of("click") & (kind == name)).sum(),
            (goals == name).sum(),
        ]
        axes.bar(np.arange(3) + 0.27 * (number - 1), counts, 0.25, label=name.replace("_", " "))
    axes.set(yscale="log", ylabel="number", xticks=range(3))
    axes.set_xticklabels(("shown", "clicked", "converted by the exposure"))
    axes.legend(fontsize=8)


def delays(found: Found, axes: Any) -> None:
    """Days from an exposure to the conversion it caused, by the item's attribution window."""
    pages = truth.read_days(found.log_dir, truth.PAGES).select(["slate_id", "event_time_ms"])
    caused = found.causes.filter(np.isin(found.causes["cause"].to_numpy(), ("click", "exposure")))
    pages = pages.rename_columns(["slate_id", "page_ms"])
    joined = caused.join(pages, "slate_id", join_type="inner")
    days = (logs.integers(joined, "event_time_ms") - logs.integers(joined, "page_ms")) / DAY_MS
    window = {item.item_id: item.attribution_window_days for item in found.items}
    own = np.array([window[name] for name in joined["item_id"].to_pylist()])
    for number, length in enumerate(np.unique(own)):
        values = np.quantile(days[own == length], np.linspace(0, 1, 101))
        axes.plot(values, np.linspace(0, 1, 101), color=f"C{number}", label=f"{length} day window")
        axes.axvline(length, color=f"C{number}", linewidth=0.6, linestyle=":")
    axes.set(xscale="log", xlim=(1e-3, 100), xlabel="days", ylabel="share converted")
    axes.legend(fontsize=8)


def hours(found: Found, axes: Any) -> None:
    """Share of events by the users' local hour."""
    clicks = found.clicks
    kinds = logs.coded(found.money, "kind")
    buys = kinds.mapped(lambda name: int(name == "purchase")) > 0
    for name, time_ms in (
        ("logins", clicks.time_ms[clicks.of("login")]),
        ("calls", clicks.time_ms[clicks.of("call")]),
        ("purchases", logs.integers(found.money, "event_time_ms")[buys]),
    ):
        hour = (time_ms + LOCAL_OFFSET_MS) // HOUR_MS % 24
        axes.plot(np.bincount(hour, minlength=24) / max(len(hour), 1), label=name)
    axes.set(xlabel="local hour", ylabel="share of events", xlim=(0, 23))
    axes.legend(fontsize=8)


def spending(found: Found, axes: Any) -> None:
    """Dollars a user and month by category."""
    mcc = logs.coded(found.money, "mcc")
    buys = logs.coded(found.money, "kind").mapped(lambda name: int(name == "purchase"))
    dollars = np.bincount(
        mcc.codes, found.money["amount_usd"].to_numpy() * buys, minlength=len(mcc.names)
    )
    manifest = found.manifest
    months = (manifest["end_ms"] - manifest["history_start_ms"]) / needs.MONTH_MS
    total: dict[str, float] = {}
    for name, value in zip(mcc.names, dollars.tolist(), strict=True):
        if value:
            total[category_of(name)] = total.get(category_of(name), 0.0) + value
    names = sorted(total, key=total.__getitem__)
    axes.barh(names, [total[n] / manifest["num_users"] / months for n in names])
    axes.set(xlabel="USD a user and month")


def propensities(found: Found, axes: Any) -> None:
    """Logged propensities by position."""
    clicks = found.clicks
    shown = clicks.of("impression")
    edges = np.logspace(-4, 0, 50)
    for position in (1, 3, 5):
        values = clicks.propensity[shown & (clicks.position == position)]
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts / max(len(values), 1), edges, label=f"position {position}")
    axes.set(xscale="log", xlabel="propensity", ylabel="share of impressions")
    axes.legend(fontsize=8)


def slow_need(found: Found, axes: Any) -> None:
    """Need for a home around a move, and what shows of it by month, of the mover who buys most often."""
    ids, people = truth.read_users(found.log_dir)
    manifest = found.manifest
    months = np.arange(manifest["history_start_ms"], manifest["end_ms"], needs.MONTH_MS)
    home = [event.name for event in needs.LIFE_EVENTS].index("moving_house")
    began = people.life_ULR[:, home, 0]
    third = (months[-1] - months[0]) // 3
    moved = (began > months[0] + third // 2) & (began < months[0] + 2 * third)
    busy = np.where(moved & (began < NEVER_MS), people.spend_activity, 0.0)
    user = int(busy.argmax())
    level = people.levels(np.full(len(months), user), months)[:, needs.NEED_INDEX["home"]]
    is_mine = logs.coded(found.money, "user_id").mapped(lambda name: int(name == ids[user])) > 0
    at_home = logs.coded(found.money, "mcc").mapped(lambda mcc: int(category_of(mcc) == "home")) > 0
    bought = logs.integers(found.money, "event_time_ms")[is_mine & at_home]
    counts = np.histogram(bought, np.append(months, months[-1] + needs.MONTH_MS))[0]
    axes.bar(np.arange(len(months)), counts, color="C1")
    axes.set_ylabel("home purchases a month", color="C1")
    beside = axes.twinx()
    beside.plot(level, color="C0")
    beside.set_ylabel("need: home", color="C0")
    axes.axvline((began[user] - months[0]) / needs.MONTH_MS, color="grey", linestyle=":")
    axes.set(xlabel="months of the log (dotted: moving house)")


def fast_need(found: Found, axes: Any) -> None:
    """How needs rise and fade after a trip was booked, a statement, a fraud report."""
    passed = np.linspace(1, 72, 200)
    for name, need in (
        ("travel_purchase", "travel"),
        ("statement", "payment"),
        ("fraud_report", "security"),
        ("fraud_report", "travel"),
    ):
        zero, which = np.zeros(1, np.int64), np.array([needs.TRIGGER_INDEX[name]])
        at = (passed * HOUR_MS).astype(np.int64)
        lifted = fast_needs(Triggers(zero, zero, which), np.zeros(len(at), np.int64), at)
        label = f"{need} after {name.replace('_', ' ')}"
        axes.plot(passed, lifted[:, needs.NEED_INDEX[need]], label=label)
    axes.set(xlabel="hours since", ylabel="lift of the need")
    axes.legend(fontsize=8)


PLOTS: Final[dict[str, Callable[[Found, Any], None]]] = {
    "funnel": funnel,
    "delays": delays,
    "hours": hours,
    "spending": spending,
    "propensities": propensities,
    "slow_need": slow_need,
    "fast_need": fast_need,
}


def draw(found: Found, folder: Path) -> list[Path]:
    """Write all plots as bank_<name>.svg; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, plot in PLOTS.items():
        figure = Figure(_INCHES, layout="constrained")
        axes = figure.subplots()
        plot(found, axes)
        axes.grid(True, alpha=0.2)
        path = folder / f"bank_{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        paths.append(path)
    return paths

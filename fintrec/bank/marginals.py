"""What came out of a simulated bank: rates and shares of a log, beside the paper's description.

Everything is counted from the log and its hidden truth, nothing from the simulator's memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.records import Item
from features.spec import DAY_MS, HOUR_MS
from fintrec import logs
from fintrec.bank import truth
from fintrec.bank.population import BoolArray, FloatArray, IntArray
from fintrec.bank.visits import AXIS_MS

Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Clicks:
    """Columns of a clickstream as NumPy; names as places in their lists, -1 for none."""

    users: tuple[str, ...]
    user: IntArray
    time_ms: IntArray
    action: npt.NDArray[np.str_]
    item: IntArray
    position: IntArray
    propensity: FloatArray
    is_anonymous: BoolArray
    session: IntArray

    def of(self, action: str) -> BoolArray:
        """Rows of an action."""
        return np.asarray(self.action == action)


@dataclass(frozen=True, slots=True)
class Found:
    """A simulated log, read once for tables and plots."""

    manifest: dict[str, Any]
    items: tuple[Item, ...]
    clicks: Clicks
    money: pa.Table
    conversions: pa.Table
    causes: pa.Table
    log_dir: Path

    @property
    def categories(self) -> npt.NDArray[np.str_]:
        """The items' categories, (I,)."""
        return np.array([item.category for item in self.items])

    @property
    def content_types(self) -> npt.NDArray[np.str_]:
        """The items' content types, (I,)."""
        return np.array([item.content_type for item in self.items])


def read(log_dir: Path) -> Found:
    """Read a simulated LOG_DIR and the causes of its conversions."""
    items = logs.read_items(log_dir)
    table = logs.read_table(log_dir, logs.CLICKSTREAM)
    place = {item.item_id: index for index, item in enumerate(items)}
    users = logs.coded(table, "user_id")
    actions = logs.coded(table, "action")
    return Found(
        manifest=logs.read_manifest(log_dir),
        items=items,
        clicks=Clicks(
            users=tuple(users.names),
            user=users.codes.astype(np.int64),
            time_ms=logs.integers(table, "event_time_ms"),
            action=np.array(actions.names)[actions.codes],
            item=logs.coded(table, "item_id").mapped(lambda name: place.get(name, -1)),
            position=logs.integers(table, "position"),
            propensity=table["propensity"].to_numpy(),
            is_anonymous=users.mapped(lambda name: int(not name)) > 0,
            session=logs.coded(table, "session_id").codes.astype(np.int64),
        ),
        money=logs.read_table(log_dir, logs.TRANSACTIONS),
        conversions=logs.read_table(log_dir, logs.CONVERSIONS),
        causes=truth.read_days(log_dir, truth.CONVERSIONS),
        log_dir=log_dir,
    )


def percent(part: float, whole: float) -> str:
    """A share as people read it, "-" of nothing."""
    if not whole:
        return "-"
    share = part / whole
    return f"{100 * share:.2f} %" if share < 0.02 else f"{100 * share:.1f} %"


def against_the_paper(found: Found) -> list[tuple[str, str, str]]:
    """(what, the paper, this bank)."""
    manifest, clicks = found.manifest, found.clicks
    num_events = sum(manifest["rows"][name] for name in logs.EVENT_TABLES)
    windows = sorted({item.attribution_window_days for item in found.items})
    kinds = np.unique(logs.coded(found.money, "kind").names).tolist()
    sources = len(kinds) + len(np.unique(clicks.action[clicks.item < 0])) + 3
    sizes = np.bincount(np.unique(clicks.session[clicks.of("impression")], return_inverse=True)[1])
    per_user = np.bincount(clicks.user[~clicks.is_anonymous])
    rows_per_user = (num_events / manifest["num_users"]).__round__()
    return [
        ("users", "30M+", f"{manifest['num_users']:,}"),
        ("items", "200+", f"{len(found.items)}"),
        ("interactions", "1BN+", f"{num_events:,} ({rows_per_user:,} a user)"),
        ("sources of events", "10+", f"{sources}"),
        (
            "content types",
            "marketing, servicing, third party",
            ", ".join(
                f"{kind.replace('_', ' ')} {int((found.content_types == kind).sum())}"
                for kind in ("marketing", "servicing", "third_party")
            ),
        ),
        ("products (surfaces)", "4", f"{len({p for i in found.items for p in i.products})}"),
        ("attribution windows", "60 / 30 / 15 days", " / ".join(f"{w}" for w in windows[::-1])),
        ("days of training, validation, test", "90 / 7 / 7", _days(manifest)),
        ("history", "years of transactions", _history(manifest)),
        (
            "steps of a user's history",
            "up to 120 are used",
            f"median {int(np.median(per_user)):,} interactions",
        ),
        ("impressions a visit", "not given", f"{sizes.mean():.1f}"),
        ("conversions", "after a click, an exposure, or neither", _attribution_words(found)),
    ]


def _days(manifest: dict[str, Any]) -> str:
    return f"{(manifest['end_ms'] - manifest['start_ms']) / DAY_MS:.0f} digital days in all"


def _history(manifest: dict[str, Any]) -> str:
    return f"{(manifest['end_ms'] - manifest['history_start_ms']) / DAY_MS:,.0f} days"


def _attribution_words(found: Found) -> str:
    shares = attribution(found)
    return " / ".join(f"{100 * share:.0f} %" for share in shares.values()) + " of all"


def attribution(found: Found) -> dict[str, float]:
    """Shares of conversions by the best claim within the item's window: click, exposure, none."""
    clicks = found.clicks
    place = {name: index for index, name in enumerate(clicks.users)}
    items = {item.item_id: index for index, item in enumerate(found.items)}
    user = logs.coded(found.conversions, "user_id").mapped(lambda name: place.get(name, -1))
    item = logs.coded(found.conversions, "item_id").mapped(items.__getitem__)
    time_ms = logs.integers(found.conversions, "event_time_ms")
    window = np.array([i.attribution_window_days for i in found.items])[item] * DAY_MS
    claims = []
    for action in ("click", "impression"):
        rows = clicks.of(action)
        key = clicks.user[rows] * len(found.items) + clicks.item[rows]
        claims.append(_newest_age(key, clicks.time_ms[rows], user * len(items) + item, time_ms))
    by_click, by_view = (age <= window for age in claims)
    whole = max(len(user), 1)
    return {
        "click": float(by_click.sum() / whole),
        "exposure only": float((by_view & ~by_click).sum() / whole),
        "neither": float((~by_view & ~by_click).sum() / whole),
    }


def _newest_age(key: IntArray, time_ms: IntArray, at: IntArray, when_ms: IntArray) -> IntArray:
    """Age of the newest event of each key strictly before an instant; AXIS_MS for none."""
    names, code = np.unique(key, return_inverse=True)
    axis = np.sort(code * AXIS_MS + time_ms)
    if not len(axis):
        return np.full(len(at), AXIS_MS)
    mine = np.minimum(np.searchsorted(names, at), len(names) - 1)
    last = np.searchsorted(axis, mine * AXIS_MS + when_ms, side="left") - 1
    age = mine * AXIS_MS + when_ms - axis[np.maximum(last, 0)]
    known = (last >= 0) & (names[mine] == at) & (age < AXIS_MS // 2)
    return np.where(known, age, AXIS_MS)


def click_rates(found: Found) -> list[Row]:
    """Click rates by content type, position and what happened before."""
    clicks = found.clicks
    shown, clicked = clicks.of("impression"), clicks.of("click")
    kind = found.content_types[clicks.item]
    rows = [("all", percent(clicked.sum(), shown.sum()))]
    for name in ("marketing", "servicing", "third_party"):
        mine = kind == name
        rows.append((name.replace("_", " "), percent((clicked & mine).sum(), (shown & mine).sum())))
    rates = [
        percent((clicked & (clicks.position == p)).sum(), (shown & (clicks.position == p)).sum())
        for p in range(1, 6)
    ]
    rows.append(("positions 1 to 5", " / ".join(rates)))
    rows.append(("dismissed", percent(clicks.of("dismiss").sum(), shown.sum())))
    return rows + after_triggers(found)


def after_triggers(found: Found) -> list[Row]:
    """Click rates of items of a need soon after its trigger, and otherwise."""
    clicks, rows = found.clicks, []
    place = {name: index for index, name in enumerate(clicks.users)}
    buyer = logs.coded(found.money, "user_id").mapped(lambda name: place.get(name, -1))
    bought_ms = logs.integers(found.money, "event_time_ms")
    kinds = logs.coded(found.money, "kind")
    kind = np.array(kinds.names)[kinds.codes]
    mcc = logs.coded(found.money, "mcc")
    code = np.array(mcc.names)[mcc.codes] if len(mcc.names) else kind
    reports = clicks.of("fraud_report")
    for need, hours, who, when, what in (
        ("travel", 8, buyer, bought_ms, np.isin(code, ("3000", "4511", "4722", "7011", "7512"))),
        ("home", 8, buyer, bought_ms, np.isin(code, ("5200", "5712"))),
        ("payment", 24, buyer, bought_ms, kind == "statement"),
        ("security", 12, clicks.user, clicks.time_ms, reports),
    ):
        mine = (clicks.of("impression") | clicks.of("click")) & (
            found.categories[clicks.item] == need
        )
        age = _newest_age(who[what], when[what], clicks.user[mine], clicks.time_ms[mine])
        clicked = clicks.action[mine] == "click"
        soon = age < hours * HOUR_MS
        rates = [percent((clicked & side).sum(), (~clicked & side).sum()) for side in (soon, ~soon)]
        rows.append((f"{need} items within {hours} h of its trigger / else", " / ".join(rates)))
    return rows


def guardrails(found: Found) -> list[Row]:
    """How often what should not happen happened, by what was shown before."""
    clicks = found.clicks
    pages = clicks.of("impression") & (clicks.position == 1)
    calls = clicks.of("call")
    answered = [
        _followed(clicks, calls, clicks.of("click") & _is_offer(found, name), 2 * HOUR_MS)
        for name in ("contact_us", "explain_fee")
    ]
    third = found.content_types[clicks.item] == "third_party"
    marketing = found.content_types[clicks.item] == "marketing"
    reports = clicks.of("fraud_report")
    fraud = [
        _followed(clicks, reports, clicks.of("click") & which, 30 * DAY_MS)
        for which in (third, marketing)
    ]
    again = clicks.of("complaint")
    return [
        ("pages followed by a call within 2 h", _followed(clicks, calls, pages, 2 * HOUR_MS)),
        ("the same after a click on contact us / explain fee", " / ".join(answered)),
        ("pages followed by a complaint within a day", _followed(clicks, again, pages, DAY_MS)),
        (
            "clicks on third-party / marketing items followed by a fraud report within 30 days",
            " / ".join(fraud),
        ),
        *_late_payments(found),
    ]


def _is_offer(found: Found, name: str) -> BoolArray:
    named = np.array([item.item_id.rpartition("_")[0] == name for item in found.items])
    return np.asarray(named[found.clicks.item] & (found.clicks.item >= 0))


def _followed(clicks: Clicks, events: BoolArray, after: BoolArray, within_ms: int) -> str:
    axis = np.sort(clicks.user[events] * AXIS_MS + clicks.time_ms[events])
    at = clicks.user[after] * AXIS_MS + clicks.time_ms[after]
    num = np.searchsorted(axis, at + within_ms, side="right") - np.searchsorted(
        axis, at, side="right"
    )
    return percent((num > 0).sum(), len(at))


def _late_payments(found: Found) -> list[Row]:
    """Card statements of the digital days paid late, by the reminders shown before the due date."""
    clicks, money = found.clicks, found.money
    kinds, accounts = logs.coded(money, "kind"), logs.coded(money, "account")
    card = accounts.mapped(lambda name: int(name == "credit_card")) > 0
    is_sent = kinds.mapped(lambda name: int(name == "statement")) > 0
    is_paid = card & (kinds.mapped(lambda name: int(name == "payment")) > 0)
    user, time_ms = logs.coded(money, "user_id"), logs.integers(money, "event_time_ms")
    place = {name: index for index, name in enumerate(clicks.users)}
    owner = user.mapped(lambda name: place.get(name, -1))
    rows = np.flatnonzero(is_sent | is_paid)
    cents = np.round(money["amount_usd"].to_numpy()[rows] * 100).astype(np.int64)
    order = rows[np.lexsort((time_ms[rows], cents, owner[rows]))]
    due = money["due_date_ms"].fill_null(0).to_numpy()
    first, second = order[:-1], order[1:]
    matched = is_sent[first] & is_paid[second] & (owner[first] == owner[second])
    sent, paid = first[matched], second[matched]
    inside = (time_ms[sent] >= found.manifest["start_ms"]) & (
        due[sent] + 15 * DAY_MS < found.manifest["end_ms"]
    )
    sent, paid = sent[inside], paid[inside]
    late = time_ms[paid] > due[sent]
    reminder = found.categories[clicks.item] == "payment"
    counts = []
    for action in ("impression", "click"):
        some = clicks.of(action) & reminder
        axis = np.sort(clicks.user[some] * AXIS_MS + clicks.time_ms[some])
        low, high = owner[sent] * AXIS_MS + time_ms[sent], owner[sent] * AXIS_MS + due[sent]
        counts.append(np.searchsorted(axis, high) - np.searchsorted(axis, low))
    shown, clicked = counts
    groups = {
        "no payment item shown": shown == 0,
        "shown, none clicked": (shown > 0) & (clicked == 0),
        "one clicked": clicked > 0,
    }
    return [
        (f"statements paid late: {name}", f"{percent(late[g].sum(), g.sum())} of {g.sum():,}")
        for name, g in groups.items()
    ]


def visits(found: Found) -> list[Row]:
    """Sessions, anonymous visitors, consent and propensities."""
    clicks, manifest = found.clicks, found.manifest
    days = (manifest["end_ms"] - manifest["start_ms"]) / DAY_MS
    shown = clicks.propensity[clicks.of("impression")]
    some = shown[shown < 1]
    quantiles = " / ".join(f"{q:.4f}" for q in np.quantile(some, (0.01, 0.5, 0.99)))
    anonymous = np.unique(clicks.session[clicks.is_anonymous])
    logins = np.unique(clicks.session[clicks.of("login")])
    return [
        ("sessions a user and day", f"{len(logins) / manifest['num_users'] / days:.2f}"),
        ("anonymous visits / of them with a login", _anonymous(anonymous, logins)),
        ("propensity of an impression, 1st / 50th / 99th percentile", quantiles),
        ("impressions that were pinned (propensity 1)", percent((shown == 1).sum(), len(shown))),
    ]


def _anonymous(anonymous: IntArray, logins: IntArray) -> str:
    return f"{len(anonymous):,} / {percent(np.isin(anonymous, logins).sum(), len(anonymous))}"


def causes(found: Found) -> list[Row]:
    """True causes of conversions, and what attribution makes of them."""
    names, counts = np.unique(found.causes["cause"].to_numpy(), return_counts=True)
    whole = int(counts.sum())
    rows = [
        (f"caused by: {name}", percent(n, whole)) for name, n in zip(names, counts, strict=True)
    ]
    claims = attribution(found).items()
    return rows + [(f"attributed to: {name}", percent(share, 1.0)) for name, share in claims]


TABLES: Final = {
    "Visits": visits,
    "Clicks, of impressions": click_rates,
    "Conversions": causes,
    "Guardrails": guardrails,
}

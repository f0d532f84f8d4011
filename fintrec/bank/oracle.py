"""What the best possible predictor scores on a simulated log, by its hidden truth.

Clicks: the true probabilities themselves; no predictor has a lower expected log loss.

Conversions caused by one exposure: `p = c * g1 + (1 - c) * g0`, also the truth.

Conversions of any cause, an item's label for a page (docs/data_layout.md): the best probability
would integrate over all futures. Two predictors enclose it:

- `hindsight` knows, beyond the past, which pages, clicks and triggers follow, but not which of them
  succeed or when. Knowing more, no honest predictor beats it in expectation. For items that open a
  product this is approximate: that they are still shown tells that the product is not yet open.
- `foresight` knows needs, earlier exposures and what came of them, the place of the page, the
  logging policy and rates, as of the instant before the page is filled, and expects the future to
  go on as the user's past did. It is honest, so the best possible is no worse.

"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.spec import DAY_MS, MINUTE_MS
from fintrec import logs
from fintrec.bank import needs, truth
from fintrec.bank.catalogue import NO_PRODUCT, Catalogue
from fintrec.bank.forecast import Exposures, Forecast, Log
from fintrec.bank.mechanism import Mechanism
from fintrec.bank.observed import read_triggers
from fintrec.bank.population import NEVER_MS, OPTED_OUT, BoolArray, FloatArray
from fintrec.bank.visits import AXIS_MS
from fintrec.metrics import auroc, log_loss

CLICK_WINDOW_MS: Final = 30 * MINUTE_MS  # pages of the log's last minutes have open labels


def read(log_dir: Path) -> Log:
    """Read a simulated LOG_DIR and its hidden truth."""
    manifest = logs.read_manifest(log_dir)
    ids, people = truth.read_users(log_dir)
    catalogue = truth.read_catalogue(log_dir)
    goals = logs.read_table(log_dir, logs.CONVERSIONS)
    since = manifest["start_ms"] - needs.TRIGGER_MEMORY_MS
    item_ids = pa.array([item.item_id for item in catalogue.items])
    return Log(
        people=people,
        catalogue=catalogue,
        exposures=_exposures(log_dir, pa.array(ids), item_ids, catalogue),
        triggers=read_triggers(log_dir, ids, since),
        goal_user=pc.index_in(goals["user_id"].cast(pa.string()), pa.array(ids)).to_numpy(),
        goal_item=pc.index_in(goals["item_id"].cast(pa.string()), item_ids).to_numpy(),
        goal_ms=logs.integers(goals, "event_time_ms"),
        owned_since_UC=truth.read_users(log_dir, as_of_end=True)[1].owned_since_UE,
        start_ms=manifest["start_ms"],
        end_ms=manifest["end_ms"],
    )


def _exposures(log_dir: Path, users: pa.Array, items: pa.Array, catalogue: Catalogue) -> Exposures:
    caused = truth.read_days(log_dir, truth.CONVERSIONS).filter(pc.field("slate_id") != "")
    caused = caused.select(["slate_id", "item_id", "event_time_ms"])
    caused = caused.rename_columns(["slate_id", "item_id", "goal_ms"])
    table = truth.read_days(log_dir, truth.IMPRESSIONS).drop_columns(["event_id", "propensity"])
    table = table.join(caused, ["slate_id", "item_id"])
    item = pc.index_in(table["item_id"], items).to_numpy().astype(np.int64)
    within = Mechanism(catalogue).within_window()[item]
    user = pc.index_in(table["user_id"], users).to_numpy().astype(np.int64)
    time_ms = logs.integers(table, "event_time_ms")
    found = Exposures(
        user=user,
        item=item,
        time_ms=time_ms,
        place=table["place"].to_numpy().astype(np.int64),
        click=table["click_probability"].to_numpy().astype(np.float64),
        clicked=table["clicked"].to_numpy(),
        if_clicked=table["conversion_probability_if_clicked"].to_numpy() / within,
        if_not=table["conversion_probability_if_not"].to_numpy() / within,
        goal_ms=table["goal_ms"].fill_null(NEVER_MS).to_numpy(),
    )
    return found.of(np.lexsort((item, time_ms, user)))


def judge(
    log_dir: Path, from_ms: int, until_ms: int, label_days: float | None = None
) -> dict[str, Any]:
    """Scores of the best possible predictors on the pages of [from, until), like a test period.

    `label_days` caps attribution windows as `DatasetConfig.label_days` does. Pages of users who
    opted out and of the log's last half hour are left out, as in a training set.
    """
    log = read(log_dir)
    shown = log.exposures
    judged = (shown.time_ms >= from_ms) & (shown.time_ms < until_ms)
    judged &= shown.time_ms + CLICK_WINDOW_MS <= log.end_ms
    judged &= log.people.consent_at(shown.user, shown.time_ms) != OPTED_OUT
    window_days = log.catalogue.window_days
    if label_days is not None:
        window_days = np.minimum(window_days, label_days)
    some = shown.of(judged)
    return {
        "impressions": len(some.user),
        "clicks": _score(some.click, some.clicked),
        "caused": _caused(log, some, window_days),
        "any_cause": _any_cause(log, some, window_days),
    }


def _score(probability: FloatArray, label: BoolArray) -> dict[str, Any]:
    """Realised log loss and AUROC, the expected log loss, and that of the constant rate."""
    if not len(label):
        return {"examples": 0}
    inside = np.clip(probability, 1e-12, 1 - 1e-12)
    entropy = -(inside * np.log(inside) + (1 - inside) * np.log1p(-inside))
    return {
        "examples": len(label),
        "positives": int(label.sum()),
        "predicted_positives": round(float(probability.sum()), 1),
        "log_loss": round(log_loss(probability, label), 6),
        "expected_log_loss": round(float(entropy.mean()), 6),
        "auroc": round(auroc(probability, label), 6),
        "constant_log_loss": round(log_loss(np.full(len(label), label.mean()), label), 6),
    }


def _caused(log: Log, some: Exposures, window_days: FloatArray) -> dict[str, Any]:
    window_ms = (window_days * DAY_MS).astype(np.int64)[some.item]
    some_known = np.flatnonzero(some.time_ms + window_ms <= log.end_ms)
    within = Mechanism(log.catalogue).within_window(window_days)
    some, window_ms = some.of(some_known), window_ms[some_known]
    goal = some.click * some.if_clicked + (1 - some.click) * some.if_not
    return _score(goal * within[some.item], some.goal_ms - some.time_ms <= window_ms)


def _any_cause(log: Log, some: Exposures, window_days: FloatArray) -> dict[str, Any]:
    """Both predictors on (page, item) with complete windows; items that open no product apart."""
    if not len(some.user):
        return {"examples": 0}
    pages = np.unique(some.user * AXIS_MS + some.time_ms)
    users, first = np.unique(pages // AXIS_MS, return_index=True)
    forecast = Forecast(log, int(some.time_ms.min()), window_days)
    parts = []
    for user, times in zip(users.tolist(), np.split(pages % AXIS_MS, first[1:]), strict=True):
        parts.append(forecast.of_user(user, times))
    hindsight, foresight, label, known, item = (np.concatenate(c) for c in zip(*parts, strict=True))
    opens = (log.catalogue.enrolls != NO_PRODUCT)[item]
    found = {}
    for name, which in (("all items", known), ("items that open no product", known & ~opens)):
        found[name] = {
            "hindsight": _score(hindsight[which], label[which]),
            "foresight": _score(foresight[which], label[which]),
        }
    return found

"""BPI Challenge 2012: loan applications at a Dutch bank, from submission to the accepted offer.

| source | record |
|---|---|
| a case, one application | user `application-<case>`; consent granted, an applicant waits for an offer |
| O_SENT | impression of the item `loan-offer-<band of the amount asked for>` |
| O_SENT_BACK | click on it |
| O_ACCEPTED | conversion, attributed to offers of the 30 days before |
| START of a call (leads, completing, offers, missing papers) | action `call`, channel `call_center` |
| any other event | action `other`, its name in `page`, its lifecycle in `layout` |
| first of A_APPROVED, A_REGISTERED, A_ACTIVATED | also the night's static row: owns a personal loan |

The amount asked for is known from the start and stands in the item. Who did it (`resource`) is the
bank's staff and is left out; no event is.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.spec import CUTOFF_HOUR_UTC, DAY_MS, HOUR_MS, USER_STATIC
from fintrec import logs
from fintrec.adapters.source import INSTANT, granted, joined, milliseconds, new_log, read_source

FOLLOW_UP_DAYS: Final = 30
SENT: Final = "O_SENT"
SENT_BACK: Final = "O_SENT_BACK"
ACCEPTED: Final = "O_ACCEPTED"
ENROLLED: Final = ("A_APPROVED", "A_REGISTERED", "A_ACTIVATED")
CALLS: Final = (
    "W_Afhandelen leads",
    "W_Completeren aanvraag",
    "W_Nabellen offertes",
    "W_Nabellen incomplete dossiers",
)
# Upper ends of the bands of the amount asked for, euros; the last band is open.
BANDS: Final = ((5_000, "5k"), (10_000, "10k"), (20_000, "20k"), (None, "more"))
READABLE_AFTER_MS: Final = 2 * HOUR_MS

BoolArray = npt.NDArray[np.bool_]


def import_log(source: Path, log_dir: Path) -> dict[str, Any]:
    """Write the folder's data as a LOG_DIR; returns counts by name.

    Raises LogError where the file is missing or not as expected.
    """
    new_log(log_dir)
    text = dict.fromkeys(("case", "activity", "lifecycle"), pa.string())
    events = _described(
        read_source(source / "bpic2012.parquet", {**text, "ts": INSTANT, "amount_req": pa.int64()})
    )
    activity = events["activity"].to_numpy(zero_copy_only=False)
    accepted, enrolled = activity == ACCEPTED, np.isin(activity, ENROLLED)
    interactions, users = events.filter(pa.array(~accepted)), pc.unique(events["user_id"])
    first_ms, last_ms = pc.min_max(events["event_time_ms"]).as_py().values()
    num_interactions = logs.write_table(log_dir, logs.CLICKSTREAM, interactions)
    num_accepted = _write_conversions(log_dir, events.filter(pa.array(accepted)))
    counts = {
        "events": events.num_rows,
        "applications": granted(log_dir, users, first_ms),
        "interactions": num_interactions,
        "offers_sent": int((activity == SENT).sum()),
        "offers_sent_back": int((activity == SENT_BACK).sum()),
        "offers_accepted": num_accepted,
        "calls": pc.sum(pc.equal(events["action"], "call")).as_py() or 0,
        "enrolled": _write_static(log_dir, events.filter(pa.array(enrolled))),
        "items": logs.write_table(log_dir, logs.ITEMS, _items()),
        "left_out_events": events.num_rows - num_interactions - num_accepted,
    }
    manifest = {"source": "bpic2012", "start_ms": first_ms, "end_ms": last_ms + 1}
    logs.write_manifest(log_dir, {**manifest, "counts": counts})
    return counts


def _described(events: pa.Table) -> pa.Table:
    """The columns of an interaction for every event of the source."""
    activity, lifecycle = (
        events[name].to_numpy(zero_copy_only=False) for name in ("activity", "lifecycle")
    )
    called = np.isin(activity, CALLS) & (lifecycle == "START")
    rules = ((activity == SENT, "impression"), (activity == SENT_BACK, "click"), (called, "call"))
    action = np.select([where for where, _ in rules], [name for _, name in rules], "other")
    offered = np.isin(activity, (SENT, SENT_BACK, ACCEPTED))
    desk = np.char.startswith(activity.astype(str), "W_")
    return pa.table(
        {
            "event_id": joined(events["case"], "-", pa.array(np.arange(events.num_rows))),
            "event_time_ms": milliseconds(events["ts"]),
            "action": pa.array(action.tolist()),
            "user_id": joined("application-", events["case"]),
            "channel": pa.array(np.where(desk, "call_center", "other").tolist()),
            "product": pa.repeat("personal_loan", events.num_rows),
            "page": events["activity"],
            "layout": events["lifecycle"],
            "item_id": pa.array(_offers(events["amount_req"], offered).tolist()),
            "activity": events["activity"],
        }
    )


def _offers(amount: pa.ChunkedArray, offered: BoolArray) -> npt.NDArray[np.str_]:
    """The item of each event, "" where it is not about an offer."""
    ends = [end for end, _ in BANDS if end is not None]
    band = np.searchsorted(ends, amount.to_numpy(), side="left")
    names = np.array([f"loan-offer-{name}" for _, name in BANDS])
    return np.where(offered, names[band], "")


def _items() -> pa.Table:
    names = [f"loan-offer-{name}" for _, name in BANDS]
    return pa.table(
        {
            "item_id": names,
            "version": [1] * len(names),
            "content_type": ["marketing"] * len(names),
            "category": ["personal_loan"] * len(names),
            "attribution_window_days": [FOLLOW_UP_DAYS] * len(names),
        }
    )


def _write_conversions(log_dir: Path, accepted: pa.Table) -> int:
    columns = ["event_id", "user_id", "event_time_ms", "item_id"]
    return logs.write_table(log_dir, logs.CONVERSIONS, accepted.select(columns))


def _write_static(log_dir: Path, enrolled: pa.Table) -> int:
    """One row an application, at the first nightly cut-off after its first enrolment event."""
    first = enrolled.group_by("user_id").aggregate([("event_time_ms", "min")])
    shift_ms = CUTOFF_HOUR_UTC * HOUR_MS
    since_ms = first["event_time_ms_min"].to_numpy()
    cutoff_ms = ((since_ms - shift_ms) // DAY_MS + 1) * DAY_MS + shift_ms
    owned = [["personal_loan"]] * first.num_rows
    tenures = {
        feature.name: np.zeros(first.num_rows, np.int64)
        for feature in USER_STATIC.features
        if feature.dtype != "string_list"
    }
    return logs.write_table(
        log_dir,
        logs.USER_STATIC_TABLE,
        pa.table(
            {
                "user_id": first["user_id"],
                "event_timestamp": pa.array(cutoff_ms).cast(INSTANT),
                "created_timestamp": pa.array(cutoff_ms + READABLE_AFTER_MS).cast(INSTANT),
                "enrollments": pa.array(owned, pa.list_(pa.string())),
                **tenures,
            }
        ),
    )

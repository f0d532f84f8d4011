"""F_d(t) and visits written down as slowly and obviously as possible, one row at a time."""

from datetime import UTC, datetime, timedelta

import numpy as np

from features.categories import CATEGORIES
from features.history import INTERACTION, Rows
from features.spec import DYNAMIC_FEATURES, SESSION_IDLE_MS, WINDOWS_MS
from features.vocabulary import ACTIONS, CHANNELS

NEVER = -(1 << 60)


def slow_visits(rows: Rows) -> list[tuple[int, int, int, int]]:
    """(visit, order, start_ms, previous_end_ms) of each row of one user; NEVER for no session."""
    found: list[tuple[int, int, int, int]] = []
    num_visits = 0
    session = None  # [visit, length, start, end, last action]
    previous_end = NEVER
    for row in rows:
        time_ms, action = int(row["time_ms"]), ACTIONS[row["action"]]
        is_digital = row["source"] == INTERACTION and CHANNELS[row["channel"]] in (
            "web",
            "mobile_app",
        )
        if not is_digital:
            last_touch = session[3] if session else NEVER
            found.append((num_visits, 0, time_ms, last_touch))
            num_visits += 1
            continue
        opens = (
            session is None
            or time_ms - session[3] > SESSION_IDLE_MS
            or (action == "login" and session[4] != "login")
            or session[4] == "logout"
        )
        if opens:
            previous_end = session[3] if session else NEVER
            session = [num_visits, 0, time_ms, time_ms, action]
            num_visits += 1
        assert session is not None
        found.append((session[0], session[1], session[2], previous_end))
        session[1] += 1
        session[3:] = [time_ms, action]
    return found


def cutoff_ms(time_ms: int) -> int:
    """04:00 UTC at or before an instant, by the calendar."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    cutoff = at.replace(hour=4, minute=0, second=0, microsecond=0)
    if cutoff > at:
        cutoff -= timedelta(days=1)
    return int((cutoff - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


def slow_features(rows: Rows) -> list[dict[str, int]]:
    """Every dynamic feature by name, for each row of one user."""
    events = [
        (int(r["time_ms"]), ACTIONS[r["action"]], int(r["cents"]), CATEGORIES[r["category"]])
        for r in rows
    ]
    return [
        _features_at([e for e in events if e[0] <= now[0]], now[0], visit)
        for now, visit in zip(events, slow_visits(rows), strict=True)
    ]


def slow_matrix(rows: Rows) -> np.ndarray:
    """The same in registry order, (rows, NUM_DYNAMIC)."""
    names = [feature.name for feature in DYNAMIC_FEATURES]
    values = [[features[name] for name in names] for features in slow_features(rows)]
    return np.array(values, np.int64).reshape(len(rows), len(names))


def _features_at(
    seen: list[tuple[int, str, int, str]], now_ms: int, visit: tuple[int, int, int, int]
) -> dict[str, int]:
    out = {}
    starts = {name: now_ms - size + 1 for name, size in WINDOWS_MS.items()}
    for name, start in (starts | {"day": cutoff_ms(now_ms)}).items():
        inside = [event for event in seen if event[0] >= start]
        out[f"impressions_count_{name}"] = sum(e[1] == "impression" for e in inside)
        out[f"clicks_count_{name}"] = sum(e[1] == "click" for e in inside)
        out[f"purchases_count_{name}"] = sum(e[1] == "purchase" for e in inside)
        out[f"spend_sum_{name}"] = sum(e[2] for e in inside if e[1] == "purchase")
    for category in CATEGORIES[1:]:
        # `inside` is still what happened since the nightly cut-off.
        out[f"spend_{category}_sum_day"] = sum(
            e[2] for e in inside if e[1] == "purchase" and e[3] == category
        )
    _, order, start_ms, previous_end = visit
    since = [event for event in seen if event[0] > previous_end]
    out["purchases_count_since_session"] = sum(e[1] == "purchase" for e in since)
    out["spend_sum_since_session"] = sum(e[2] for e in since if e[1] == "purchase")
    out["contacts_count_since_session"] = sum(e[1] in ("call", "branch") for e in since)
    for what, actions in (
        ("click", ("click",)),
        ("purchase", ("purchase",)),
        ("login", ("login",)),
        ("contact", ("call", "branch")),
    ):
        times = [e[0] for e in seen if e[1] in actions]
        out[f"{what}_recency"] = now_ms - max(times) if times else -1
    earlier = [e[0] for e in seen if e[0] < now_ms]
    out["touch_recency"] = now_ms - max(earlier) if earlier else -1
    out["session_interactions_count"] = order + 1
    out["session_age"] = now_ms - start_ms
    return out

import numpy as np
import pytest

from features.categories import CATEGORIES
from features.history import ROW, TRANSACTION
from features.records import CONTENT_TYPES
from features.spec import DAY_MS, DYNAMIC_FEATURES
from features.vocabulary import ACTIONS, code
from features.windows import (
    FOREST_FEATURES,
    FOREST_NAMES,
    FOREST_WINDOWS_MS,
    forest_features,
    forest_fingerprint,
)

START_MS = 20_000 * DAY_MS


def bank(rng, lengths):
    """Ordered logs of some users over 45 days, with instants that several rows share."""
    rows = np.zeros(sum(lengths), ROW)
    starts = np.cumsum([0, *lengths])
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        # Half-day steps, so that many rows lie exactly on a window's border.
        rows["time_ms"][start:end] = np.sort(
            START_MS + rng.integers(0, 90, end - start) * DAY_MS // 2
        )
    rows["action"] = rng.integers(2, len(ACTIONS), len(rows))
    bought = rows["action"] == code("action", "purchase")
    rows["source"][bought] = TRANSACTION
    rows["cents"] = np.where(bought, rng.integers(-500, 90_000, len(rows)), 0)
    rows["category"] = np.where(bought, rng.integers(0, len(CATEGORIES), len(rows)), 0)
    return rows, rng.integers(-1, len(CONTENT_TYPES), len(rows))


def slow(mine, kinds, time_ms):
    """The features of one decision, by the words of the registry."""
    found = {}
    for window, span in FOREST_WINDOWS_MS.items():
        inside = [
            (row, kind)
            for row, kind in zip(mine, kinds, strict=True)
            if time_ms - span < row["time_ms"] < time_ms
        ]

        def count(*actions, content_type=None, inside=inside):
            codes = [code("action", name) for name in actions]
            place = None if content_type is None else CONTENT_TYPES.index(content_type)
            return sum(
                row["action"] in codes and (place is None or kind == place) for row, kind in inside
            )

        for name, actions in {
            "impressions": ["impression"],
            "clicks": ["click"],
            "dismissals": ["dismiss"],
            "conversions": ["conversion"],
            "page_views": ["page_view"],
            "logins": ["login"],
            "contacts": ["call", "branch"],
            "complaints": ["complaint"],
            "fraud_reports": ["fraud_report"],
            "cash_withdrawals": ["atm"],
            "purchases": ["purchase"],
            "payments": ["payment"],
            "transfers": ["transfer"],
            "fees": ["fee"],
        }.items():
            found[f"{name}_count_{window}"] = count(*actions)
            if name in ("impressions", "clicks", "conversions"):
                for kind in CONTENT_TYPES:
                    found[f"{name}_{kind}_count_{window}"] = count(*actions, content_type=kind)
        bought = [row for row, _ in inside if row["action"] == code("action", "purchase")]
        found[f"spend_sum_{window}"] = sum(int(row["cents"]) for row in bought)
        for place, category in enumerate(CATEGORIES[1:], start=1):
            spent = sum(int(row["cents"]) for row in bought if row["category"] == place)
            found[f"spend_{category}_sum_{window}"] = spent
        shown = found[f"impressions_count_{window}"]
        for rate, what in (("click_rate", "clicks"), ("conversion_rate", "conversions")):
            found[f"{rate}_{window}"] = found[f"{what}_count_{window}"] / shown if shown else 0
    return found


@pytest.mark.parametrize("seed", range(3))
def test_windows_equal_counting_row_by_row_strictly_before_the_page(seed):
    rng = np.random.default_rng(seed)
    lengths = np.array([300, 0, 41, 160])
    rows, kinds = bank(rng, lengths)
    user = rng.integers(0, 4, 40)
    time_ms = START_MS + rng.integers(0, 100, 40) * DAY_MS // 2
    found = forest_features(rows, lengths, kinds, user, time_ms)
    starts = np.cumsum([0, *lengths])
    for place in range(40):
        mine = slice(starts[user[place]], starts[user[place] + 1])
        expected = slow(rows[mine], kinds[mine], time_ms[place])
        assert found[place].tolist() == pytest.approx([expected[name] for name in FOREST_NAMES])
    assert (found.any(axis=0)).sum() > 100


def test_nothing_at_or_after_a_page_is_counted():
    rng = np.random.default_rng(0)
    rows, kinds = bank(rng, np.array([400]))
    now = np.array([START_MS + 20 * DAY_MS])
    early = rows["time_ms"] < now[0]
    before = forest_features(
        rows[early], np.array([early.sum()]), kinds[early], np.zeros(1, int), now
    )
    whole = forest_features(rows, np.array([400]), kinds, np.zeros(1, int), now)
    assert whole.tobytes() == before.tobytes()
    assert (early.sum(), 400 - early.sum()) > (100, 100)


def test_names_are_unique_and_none_is_a_served_feature():
    assert len(set(FOREST_NAMES)) == len(FOREST_FEATURES)
    assert not set(FOREST_NAMES) & {feature.name for feature in DYNAMIC_FEATURES}
    assert len(forest_fingerprint()) == 64

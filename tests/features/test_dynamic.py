import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.dynamic import dynamic_features, nightly_cutoff_ms, visits
from features.history import EMPTY, Rows
from features.spec import DAY_MS, DYNAMIC_FEATURES, HOUR_MS, MINUTE_MS, NUM_DYNAMIC
from tests.features.slow_dynamic import NEVER, cutoff_ms, slow_matrix, slow_visits
from tests.features.timelines import NOON_MS, histories, minutes, timeline

NAMES = [feature.name for feature in DYNAMIC_FEATURES]


def features_of(*users: Rows) -> np.ndarray:
    lengths = np.array([len(rows) for rows in users], np.int64)
    rows = np.concatenate(users)
    return dynamic_features(rows, lengths, visits(rows, lengths))


def column(rows: Rows, name: str) -> list[int]:
    return features_of(rows)[:, NAMES.index(name)].tolist()


def visit_numbers(rows: Rows) -> list[int]:
    return visits(rows, np.array([len(rows)])).visit.tolist()


@settings(max_examples=120)
@given(st.lists(histories(), min_size=1, max_size=4))
def test_every_feature_of_every_row_equals_its_slow_twin(users):
    found = features_of(*users)
    expected = np.concatenate([slow_matrix(rows) for rows in users])
    wrong = [NAMES[place] for place in np.flatnonzero((found != expected).any(axis=0))]
    assert not wrong


@settings(max_examples=60)
@given(st.lists(histories(), min_size=1, max_size=5))
def test_users_of_a_batch_get_what_each_gets_alone(users):
    alone = [features_of(rows) for rows in users]
    assert np.array_equal(features_of(*users), np.concatenate(alone))


@settings(max_examples=60)
@given(st.lists(histories(), min_size=1, max_size=3))
def test_visits_equal_their_slow_twin(users):
    lengths = np.array([len(rows) for rows in users], np.int64)
    rows = np.concatenate(users)
    found = visits(rows, lengths)
    slow = [slow_visits(rows) for rows in users]
    per_user = np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])
    first = 0
    for places, expected in zip(per_user, slow, strict=True):
        assert (found.visit[places] - first).tolist() == [visit for visit, *_ in expected]
        assert found.order[places].tolist() == [order for _, order, *_ in expected]
        assert found.start_ms[places].tolist() == [start for *_, start, _ in expected]
        previous = found.previous[places]
        assert set(previous.tolist()) <= {-1, *places.tolist()}
        ends = np.where(previous >= 0, rows["time_ms"][previous], NEVER)
        assert ends.tolist() == [end for *_, end in expected]
        first += max((visit + 1 for visit, *_ in expected), default=0)


@given(st.integers(0, 1 << 42))
def test_the_nightly_cutoff_is_four_in_the_morning_by_the_calendar(time_ms):
    assert nightly_cutoff_ms(np.array([time_ms]))[0] == cutoff_ms(time_ms)


def test_a_window_is_open_at_its_start_and_closed_at_its_end():
    # (0 ------------ 15]     the click at 0 is just outside, the one at 15 inside
    #  c              c
    assert column(minutes("c0 c15"), "clicks_count_15m") == [1, 1]
    assert column(minutes("c0 c14"), "clicks_count_15m") == [1, 2]


def test_events_of_one_instant_count_each_other():
    # c c $   all at 0, one of them later in the list
    assert column(minutes("c0 $0 c0"), "clicks_count_15m") == [2, 2, 2]
    assert column(minutes("c0 $0 c0"), "purchase_recency") == [0, 0, 0]
    assert column(minutes("c0 $0 c0"), "touch_recency") == [-1, -1, -1]


def test_the_day_begins_with_the_event_at_the_cutoff():
    # 03:59:59.999  |  04:00   10:00
    #       $       |    $       i
    four = NOON_MS - 8 * HOUR_MS
    rows = timeline([("$", four - 1), ("$", four), ("i", four + 6 * HOUR_MS)])
    assert column(rows, "purchases_count_day") == [1, 1, 1]
    assert column(rows, "spend_sum_24h") == [100, 200, 200]
    assert column(rows, "spend_fuel_sum_day") == [100, 100, 100]
    assert column(rows, "spend_dining_sum_day") == [0, 0, 0]


@pytest.mark.parametrize(("idle", "expected"), [("i30", [0, 0]), ("i31", [0, 1])])
def test_a_session_ends_after_more_than_thirty_minutes_idle(idle, expected):
    # L0 ........... i30   idle for exactly 30 minutes: the same session
    # L0 ............ i31  longer: a new one
    assert visit_numbers(minutes(f"L0 {idle}")) == expected


def test_one_millisecond_over_thirty_minutes_is_a_new_session():
    rows = timeline([("i", NOON_MS), ("i", NOON_MS + 30 * MINUTE_MS + 1)])
    assert visit_numbers(rows) == [0, 1]


def test_a_login_in_mid_session_opens_a_new_one_and_a_second_login_does_not():
    # i0 i1 | L2 L3 i4
    assert visit_numbers(minutes("i0 i1 L2 L3 i4")) == [0, 0, 1, 1, 1]


def test_what_follows_a_logout_is_a_new_session():
    # L0 i1 O2 | i3
    assert visit_numbers(minutes("L0 i1 O2 i3")) == [0, 0, 0, 1]


def test_an_offline_touch_inside_a_session_is_its_own_visit_and_does_not_end_it():
    # L0 i5    i20
    #       b10
    rows = minutes("L0 i5 b10 i20")
    assert visit_numbers(rows) == [0, 0, 1, 0]
    assert column(rows, "session_interactions_count") == [1, 2, 1, 3]
    assert column(rows, "session_age") == [0, 5 * MINUTE_MS, 0, 20 * MINUTE_MS]


def test_an_offline_touch_does_not_keep_a_session_awake():
    # L0 ... b20 ... | i31
    assert visit_numbers(minutes("L0 b20 i31")) == [0, 1, 2]


def test_purchases_since_the_previous_session_count_from_its_last_event():
    # session 1: L0 i10     session 2: L60 i65
    #         $5        $30               $70
    rows = minutes("L0 $5 i10 $30 L60 i65 $70")
    #                     L0 $5 i10 $30 L60 i65 $70
    assert column(rows, "purchases_count_since_session") == [0, 1, 1, 1, 1, 1, 1]
    # The branch visit at 20 sees session 1 as over; the login at 60 counts it as well.
    touched = minutes("L0 i10 b20 L60 i65")
    assert column(touched, "contacts_count_since_session") == [0, 0, 1, 1, 1]


def test_recency_is_minus_one_for_what_never_happened():
    assert column(minutes("i0 i5"), "click_recency") == [-1, -1]
    assert column(minutes("c0 i5"), "click_recency") == [0, 5 * MINUTE_MS]
    assert column(minutes("t0 i5 b7"), "contact_recency") == [0, 5 * MINUTE_MS, 0]


def test_a_neighbour_in_the_batch_is_never_seen():
    clicks, views = minutes("c0 c1 c2"), minutes("v0 v1")
    found = features_of(clicks, views)
    assert found[3:, NAMES.index("click_recency")].tolist() == [-1, -1]
    assert found[3:, NAMES.index("clicks_count_24h")].tolist() == [0, 0]
    assert found[3:, NAMES.index("touch_recency")].tolist() == [-1, MINUTE_MS]


def test_a_refund_lowers_the_sum_and_a_payment_is_no_purchase():
    rows = timeline([("$", NOON_MS), ("p", NOON_MS + 1)], cents=-300)
    assert column(rows, "spend_sum_1h") == [-300, -300]
    assert column(rows, "purchases_count_1h") == [1, 1]


def test_the_earliest_events_of_time_have_features():
    rows = timeline([("c", 0), ("$", 3 * HOUR_MS), ("c", 5 * HOUR_MS)])
    assert np.array_equal(features_of(rows), slow_matrix(rows))


def test_no_rows_have_no_features():
    assert features_of(EMPTY).shape == (0, NUM_DYNAMIC)
    assert features_of(EMPTY, minutes("c0"), EMPTY)[0, NAMES.index("clicks_count_15m")] == 1


def test_the_registry_names_all_thirty_eight_features_of_the_twin():
    rows = timeline([("$", NOON_MS), ("c", NOON_MS + DAY_MS)])
    assert slow_matrix(rows).shape == (2, NUM_DYNAMIC) == (2, len(set(NAMES)))

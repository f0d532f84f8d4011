import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.encoding import (
    BUCKETS,
    REQUEST_COLUMNS,
    TOKEN_COLUMNS,
    bucket_of,
    encode_context,
    encode_histories,
    encode_request,
    encode_static,
    missing_static,
    squash,
)
from features.history import EMPTY, WINDOW, Rows
from features.records import SlateRequest
from features.spec import (
    CONTEXT_WIDTH,
    DAY_MS,
    DYNAMIC_FEATURES,
    ENROLLMENTS,
    FM_WIDTH,
    NUM_DYNAMIC,
    NUM_STATIC,
)
from features.vocabulary import code, fingerprint
from tests.features.slow_dynamic import slow_matrix, slow_visits
from tests.features.timelines import NOON_MS, histories, minutes, random_rows

FIELDS = TOKEN_COLUMNS[:-1]


def slow_squash(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        logs = np.sign(values) * np.log1p(np.abs(values.astype(np.float32)))
        return logs.astype(np.float32).astype(np.float16)


def slow_encoding(rows: Rows, size: int) -> tuple[np.ndarray, ...]:
    """tokens, times, dynamic, visits and the latest F_d of one user, row by row."""
    tokens = np.zeros((size, len(TOKEN_COLUMNS)), np.int32)
    times, numbers = np.zeros(size, np.int64), np.full(size, -1, np.int32)
    dynamic = np.zeros((size, NUM_DYNAMIC), np.float16)
    matrix, visits = slow_matrix(rows), slow_visits(rows)
    shown = min(len(rows), WINDOW)
    lowest = min((visit for visit, *_ in visits[len(rows) - shown :]), default=0)
    for back in range(1, shown + 1):
        row, (visit, order, *_) = rows[-back], visits[-back]
        tokens[-back] = [*(row[field] for field in FIELDS), order]
        times[-back], numbers[-back] = row["time_ms"], visit - lowest
        dynamic[-back] = slow_squash(matrix[-back])
    latest = matrix[-1] if len(rows) else np.zeros(NUM_DYNAMIC, np.int64)
    return tokens, times, dynamic, numbers, latest


def assert_equal_to_the_twin(users: list[Rows], bucket: int | None = None) -> None:
    found = encode_histories(users, bucket)
    size = found.arrays.times_BT.shape[1]
    for place, rows in enumerate(users):
        for got, expected in zip(
            (*found.arrays, found.latest_BF), slow_encoding(rows, size), strict=True
        ):
            assert got[place].dtype == expected.dtype
            assert np.array_equal(got[place], expected)


@settings(max_examples=60)
@given(st.lists(histories(), min_size=1, max_size=5))
def test_encoded_histories_equal_their_slow_twin(users):
    assert_equal_to_the_twin(users)


@pytest.mark.parametrize("lengths", [(119, 120, 121), (180, 1), (0, 150, 0, 16, 0)])
def test_windows_longer_than_the_model_sees_equal_their_slow_twin(lengths):
    rng = np.random.default_rng(7)
    assert_equal_to_the_twin([random_rows(rng, length, 3 * DAY_MS) for length in lengths])


def test_a_batch_of_many_users_equals_its_slow_twin():
    # More rows than are worked on at once, with empty users at both ends and in between.
    rng = np.random.default_rng(8)
    lengths = rng.integers(0, 90, 50)
    lengths[[0, 1, 20, 21, 22, 48, 49]] = 0
    assert_equal_to_the_twin([random_rows(rng, int(length), DAY_MS) for length in lengths])


def test_features_count_rows_that_the_window_no_longer_shows():
    clicks = random_rows(np.random.default_rng(9), 150, 0, ties=False)
    clicks["action"], clicks["source"] = code("action", "click"), 0
    found = encode_histories([clicks])
    assert found.arrays.times_BT.shape == (1, WINDOW)
    assert slow_matrix(clicks)[-1].tolist() == found.latest_BF[0].tolist()
    clicks_in_an_hour = [f.name for f in DYNAMIC_FEATURES].index("clicks_count_1h")
    assert found.latest_BF[0, clicks_in_an_hour] == 150


def test_the_newest_interaction_stands_last_and_padding_is_on_the_left():
    arrays = encode_histories([minutes("L0 i1 b2"), minutes("c0")]).arrays
    assert arrays.times_BT.shape == (2, 16)
    assert (arrays.times_BT[0] > 0).tolist() == [False] * 13 + [True] * 3
    assert (arrays.times_BT[1] > 0).tolist() == [False] * 15 + [True]
    assert arrays.times_BT[1, -1] == NOON_MS
    assert arrays.visits_BT[0].tolist() == [-1] * 13 + [0, 0, 1]
    assert not arrays.tokens_BTC[0, :13].any()
    assert not arrays.dynamic_BTF[0, :13].any()


def test_visits_are_numbered_from_the_window_on():
    # 130 offline touch points: the window shows the last 120, numbered from 0.
    rows = minutes(" ".join(f"b{minute}" for minute in range(130)))
    assert encode_histories([rows]).arrays.visits_BT[0].tolist() == list(range(WINDOW))


@settings(max_examples=30)
@given(st.lists(histories(), min_size=1, max_size=4), st.sampled_from(BUCKETS[1:]))
def test_a_longer_bucket_only_adds_padding(users, bucket):
    short, long = encode_histories(users).arrays, encode_histories(users, bucket).arrays
    size = short.times_BT.shape[1]
    if bucket < size:
        return
    for narrow, wide in zip(short, long, strict=True):
        assert np.array_equal(wide[:, bucket - size :], narrow)
    assert (long.visits_BT[:, : bucket - size] == -1).all()


@pytest.mark.parametrize(
    ("length", "bucket"), [(0, 16), (1, 16), (16, 16), (17, 32), (64, 64), (65, 120), (120, 120)]
)
def test_the_smallest_bucket_that_holds_a_history_is_taken(length, bucket):
    assert bucket_of(length) == bucket


def test_a_bucket_that_is_too_short_is_the_callers_mistake():
    with pytest.raises(ValueError, match="bucket=16 is shorter than the longest window, 20 rows"):
        encode_histories([random_rows(np.random.default_rng(0), 20, DAY_MS)], bucket=16)
    with pytest.raises(ValueError, match="history has 121 rows"):
        bucket_of(121)


@pytest.mark.parametrize("users", [[], [EMPTY], [EMPTY] * 40])
def test_users_without_history_are_all_padding(users):
    found = encode_histories(users)
    assert found.arrays.times_BT.shape == (len(users), 16)
    assert not found.arrays.tokens_BTC.any()
    assert not found.latest_BF.any()
    assert (found.arrays.visits_BT == -1).all()


def test_read_only_views_of_a_packed_state_are_encoded():
    rows = minutes("L0 i1 c2")
    packed = np.frombuffer(b"head" * 4 + rows.tobytes(), rows.dtype, len(rows), 16)
    for got, expected in zip(
        encode_histories([packed]).arrays, encode_histories([rows]).arrays, strict=True
    ):
        assert np.array_equal(got, expected)


def test_a_strided_history_is_encoded_as_its_copy():
    rows = minutes("L0 i1 c2 i3 i4")[::2]
    for got, expected in zip(
        encode_histories([rows]).arrays, encode_histories([rows.copy()]).arrays, strict=True
    ):
        assert np.array_equal(got, expected)


@given(st.lists(st.integers(-(1 << 62), 1 << 62), min_size=1, max_size=200))
def test_squash_is_the_signed_log_to_the_nearest_half(values):
    features = np.array(values, np.int64)
    assert squash(features).tobytes() == (slow_squash(features) + np.float16(0)).tobytes()


def test_squash_rounds_every_small_count_as_numpy_does():
    features = np.arange(-(1 << 18), 1 << 18)
    assert np.array_equal(squash(features), slow_squash(features))
    assert squash(np.array([0]))[0] == 0
    assert np.isfinite(squash(np.array([(1 << 63) - 1, -(1 << 62)]))).all()


def test_squash_keeps_order_and_sign():
    features = np.array([-1_000_000, -1, 0, 1, 60_000, 86_400_000, 1 << 42])
    squashed = squash(features).astype(float)
    assert (np.diff(squashed) > 0).all()
    assert np.sign(squashed).tolist() == np.sign(features).tolist()


def test_static_context_is_enrollments_then_tenures_then_a_flag():
    days = [0] * len(ENROLLMENTS)
    days[1] = 365
    vector = encode_static(["savings", "no such product"], days, 4_000)
    assert vector.shape == (NUM_STATIC,)
    assert vector[: len(ENROLLMENTS)].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert vector[len(ENROLLMENTS) + 1] == np.float16(np.log1p(365))
    assert vector[-2] == np.float16(np.log1p(4_000))
    assert vector[-1] == 0
    assert missing_static().tolist() == [0] * (NUM_STATIC - 1) + [1]


def test_static_context_needs_a_tenure_for_every_enrollment():
    with pytest.raises(ValueError, match="tenure_days has 2 entries, expected 8"):
        encode_static([], [1, 2], 3)


def test_context_flags_a_missing_foundation_embedding():
    static = np.stack([missing_static(), encode_static(["checking"], [9] * 8, 9)])
    vector = np.linspace(-1, 1, FM_WIDTH).astype(np.float16)
    context = encode_context(static, [None, vector])
    assert context.shape == (2, CONTEXT_WIDTH)
    assert context.dtype == np.float16
    assert np.array_equal(context[:, :NUM_STATIC], static)
    assert not context[0, NUM_STATIC:-1].any()
    assert np.array_equal(context[1, NUM_STATIC:-1], vector)
    assert context[:, -1].tolist() == [1, 0]


def test_an_embedding_of_another_width_is_refused():
    with pytest.raises(ValueError, match="could not broadcast"):
        encode_context(missing_static()[None], [np.zeros(FM_WIDTH - 1, np.float16)])


def test_a_request_is_encoded_by_its_place_and_time():
    request = SlateRequest(
        request_id="r",
        user_id="u",
        event_time_ms=NOON_MS,
        product="mobile_home",
        page="home",
        placement="hero",
        channel="web",
        device="never heard of",
    )
    row = dict(zip(REQUEST_COLUMNS, encode_request(request, 17), strict=True))
    assert row == {
        "product": fingerprint("product", "mobile_home"),
        "page": fingerprint("page", "home"),
        "placement": fingerprint("placement", "hero"),
        "layout": 0,
        "channel": code("channel", "web"),
        "device": 1,
        "time_ms": NOON_MS,
        "last_event_ms": 17,
    }

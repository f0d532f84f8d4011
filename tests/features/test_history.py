import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.history import (
    CAPS,
    EMPTY,
    INTERACTION,
    ROW,
    TRANSACTION,
    Rows,
    as_of,
    bounded,
    merged,
    ordered,
)
from tests.features.timelines import random_rows


@st.composite
def deliveries(draw: st.DrawFn, max_rows: int = 260) -> list[Rows]:
    """Batches as they may arrive: any order, late, tied, and some rows delivered twice."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32), "seed"))
    rows = random_rows(rng, draw(st.integers(0, max_rows)), draw(st.sampled_from([0, 50, 10**8])))
    arriving = rng.permutation(np.concatenate((np.arange(len(rows)), np.arange(len(rows)) // 2)))
    cuts = np.sort(rng.integers(0, len(arriving) + 1, draw(st.integers(0, 6))))
    return np.split(rows[arriving], cuts)


def slow_history(events: Rows) -> Rows:
    """Sort, keep each event once, and keep the newest of each source, with lists and sets."""
    once = {(int(e["time_ms"]), int(e["event"]), int(e["source"])): e for e in events}
    kept = [once[key] for key in sorted(once)]
    for source, cap in CAPS.items():
        own = [e for e in kept if e["source"] == source]
        dropped = {e.tobytes() for e in own[: max(0, len(own) - cap)]}
        kept = [e for e in kept if e.tobytes() not in dropped]
    return np.array(kept, ROW) if kept else EMPTY


def folded(batches: list[Rows], history: Rows = EMPTY) -> Rows:
    for batch in batches:
        history = merged(history, batch)
    return history


@settings(max_examples=60)
@given(deliveries())
def test_any_arrival_gives_the_sorted_distinct_bounded_events(batches):
    assert folded(batches).tobytes() == slow_history(np.concatenate(batches)).tobytes()


@settings(max_examples=60)
@given(deliveries(), st.randoms(use_true_random=False))
def test_merging_is_associative_commutative_and_idempotent(batches, random):
    expected = folded(batches).tobytes()
    shuffled = random.sample(batches, len(batches))
    assert folded(shuffled).tobytes() == expected
    assert folded([*batches, *shuffled]).tobytes() == expected
    half = len(batches) // 2
    left, right = folded(batches[:half]), folded(batches[half:])
    assert merged(left, right).tobytes() == merged(right, left).tobytes() == expected


@settings(max_examples=40)
@given(deliveries(max_rows=500), st.integers(0, 500))
def test_history_as_of_a_place_is_what_folding_the_prefix_gives(batches, end):
    log = ordered(np.concatenate(batches))
    end = min(end, len(log))
    one_by_one = folded([log[place : place + 1] for place in range(end)])
    assert as_of(log, end).tobytes() == one_by_one.tobytes()


def test_each_source_keeps_its_own_newest_rows():
    # 130 purchases, then 200 impressions: the impressions do not push the purchases out.
    rows = np.zeros(330, ROW)
    rows["time_ms"] = rows["event"] = np.arange(330)
    rows["source"] = np.where(np.arange(330) < 130, TRANSACTION, INTERACTION)
    kept = bounded(rows)
    assert kept["time_ms"].tolist() == [*range(70, 130), *range(210, 330)]


def test_a_late_row_older_than_a_full_history_changes_nothing():
    full = np.zeros(CAPS[INTERACTION], ROW)
    full["time_ms"] = full["event"] = np.arange(1000, 1000 + len(full))
    late = np.zeros(1, ROW)
    late["time_ms"], late["event"] = 999, 7
    assert merged(full, late).tobytes() == full.tobytes()


def test_events_of_one_instant_stand_in_the_order_of_their_fingerprints():
    rows = np.zeros(3, ROW)
    rows["time_ms"], rows["event"] = 5, [3, 1, 2]
    assert merged(EMPTY, rows)["event"].tolist() == [1, 2, 3]


def test_an_event_given_twice_with_other_content_gives_one_history_in_any_order():
    rows = np.zeros(2, ROW)
    rows["time_ms"], rows["event"], rows["item"] = 5, 9, [40, 30]
    first, second = rows[:1], rows[1:]
    one, other = folded([first, second]), folded([second, first])
    assert one.tobytes() == other.tobytes()
    assert len(one) == 1


def test_an_id_that_two_sources_share_names_two_events():
    rows = np.zeros(2, ROW)
    rows["time_ms"], rows["event"], rows["source"] = 5, 9, [TRANSACTION, INTERACTION]
    one, other = folded([rows[:1], rows[1:]]), folded([rows[1:], rows[:1]])
    assert one.tobytes() == other.tobytes()
    assert len(one) == 2


def test_nothing_new_leaves_the_history_as_it_is():
    rows = random_rows(np.random.default_rng(3), 9, 100)
    assert merged(rows, EMPTY) is rows
    assert len(as_of(rows, 0)) == 0

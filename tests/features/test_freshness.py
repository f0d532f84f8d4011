from features.freshness import Freshness, freshness


def test_a_row_is_good_up_to_its_time_to_live_and_stale_after() -> None:
    assert freshness(1_000, 1_500, 500) is Freshness.PRESENT
    assert freshness(1_000, 1_501, 500) is Freshness.STALE


def test_a_row_from_a_clock_ahead_of_ours_is_good() -> None:
    assert freshness(9_000, 1_000, 1) is Freshness.PRESENT


def test_no_timestamp_is_missing_however_long_the_time_to_live() -> None:
    assert freshness(None, 0, 2**62) is Freshness.MISSING

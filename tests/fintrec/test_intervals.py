"""Intervals by resampling users: equal to a slow twin, and honest about how often they hold."""

import random

import numpy as np
import pytest

from fintrec.intervals import (
    Interval,
    bootstrap,
    bootstrap_rows,
    bootstrap_sums,
    paired_difference,
    unpaired_difference,
    user_sums,
)


def clustered(rng: np.random.Generator, users: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows around each user's own level; the true mean is 2."""
    user = rng.integers(0, users, rows)
    levels = rng.normal(2.0, 1.0, users)
    return levels[user] + rng.normal(0, 0.5, rows), user


def slow_interval(
    values: np.ndarray, users: np.ndarray, weights: np.ndarray, replicates: int, seed: int
) -> Interval:
    """The same draws, one user and one row at a time."""
    names = sorted(set(users.tolist()))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(replicates):
        top = bottom = 0.0
        for place in rng.integers(0, len(names), len(names)).tolist():
            for value, user, weight in zip(values, users, weights, strict=True):
                if user == names[place]:
                    top += value
                    bottom += weight
        if bottom > 0:
            found.append(top / bottom)
    low, high = np.percentile(found, [2.5, 97.5])
    return Interval(values.sum() / weights.sum(), low, high, len(names))


def close(first: Interval, second: Interval) -> bool:
    return first.users == second.users and np.allclose(
        [first.value, first.low, first.high], [second.value, second.low, second.high], atol=1e-12
    )


def test_the_interval_of_a_mean_is_that_of_a_slow_twin() -> None:
    values, users = clustered(np.random.default_rng(1), 7, 40)
    fast = bootstrap(values, users, replicates=50, seed=3)
    assert close(fast, slow_interval(values, users, np.ones(40), 50, 3))


def test_the_interval_of_a_ratio_is_that_of_a_slow_twin_and_skips_empty_replicates() -> None:
    values, users = clustered(np.random.default_rng(2), 4, 12)
    weights = np.where(users == 0, 1.0, 0.0)  # a replicate without user 0 has no ratio
    fast = bootstrap(values * weights, users, weights, replicates=60, seed=4)
    assert close(fast, slow_interval(values * weights, users, weights, 60, 4))


def test_blocks_of_bounded_memory_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values, users = clustered(np.random.default_rng(3), 20, 100)
    whole = bootstrap(values, users, replicates=30)
    monkeypatch.setattr("fintrec.intervals._DRAWS_AT_ONCE", 45)
    assert bootstrap(values, users, replicates=30) == whole


def test_rows_and_sums_agree_on_a_mean() -> None:
    values, users = clustered(np.random.default_rng(4), 9, 50)
    by_rows = bootstrap_rows(
        lambda weight: float((values * weight).sum() / weight.sum()), users, replicates=40
    )
    assert close(by_rows, bootstrap(values, users, replicates=40))


def test_order_of_rows_and_names_of_users_do_not_matter() -> None:
    values, users = clustered(np.random.default_rng(5), 9, 50)
    mixed = np.random.default_rng(6).permutation(50)
    named = np.array([f"u{user:03d}" for user in users])
    assert close(bootstrap(values, users), bootstrap(values[mixed], named[mixed]))


def test_about_95_of_100_intervals_hold_the_truth_where_rows_resemble_each_other() -> None:
    rng = np.random.default_rng(7)
    held = held_by_rows = 0
    for _ in range(200):
        values, users = clustered(rng, 50, 600)
        held += bootstrap(values, users, replicates=300).holds(2.0)
        held_by_rows += bootstrap(values, np.arange(600), replicates=300).holds(2.0)
    assert 180 <= held <= 198
    assert held_by_rows < 100, "rows as clusters promise far too much"


def test_a_paired_difference_finds_what_two_intervals_cannot() -> None:
    rng = np.random.default_rng(8)
    values, users = clustered(rng, 40, 400)
    better = values - 0.05 + rng.normal(0, 0.02, 400)
    first, second = bootstrap(better, users), bootstrap(values, users)
    assert first.high > second.low, "the two intervals overlap"
    difference = paired_difference(better, values, users)
    assert difference.high < 0
    assert difference.value == pytest.approx(-0.05, abs=0.01)


def test_an_unpaired_difference_of_equal_sets_holds_zero_and_is_wider_than_a_paired_one() -> None:
    rng = np.random.default_rng(12)
    values, users = clustered(rng, 40, 400)
    better = values - 0.05
    sums = [user_sums(users, column, np.ones(400)) for column in (better, values)]
    unpaired = unpaired_difference(*sums)
    paired = paired_difference(better, values, users)
    assert unpaired.value == pytest.approx(paired.value)
    assert unpaired.holds(0.0)
    assert not paired.holds(0.0)
    far = user_sums(users, values - 3, np.ones(400))
    assert unpaired_difference(far, sums[1]).high < 0


def test_a_statistic_of_sums_is_taken_of_each_replicate() -> None:
    rng = np.random.default_rng(9)
    users = rng.integers(0, 30, 300)
    sums = user_sums(users, rng.random(300), rng.random(300))
    found = bootstrap_sums(
        sums, lambda total: np.abs(total[:, 0] - total[:, 1]) / total[:, 1], replicates=80, seed=5
    )
    again = np.random.default_rng(5)
    slow = []
    for _ in range(80):
        first, second = sum(sums[place] for place in again.integers(0, 30, 30))
        slow.append(abs(first - second) / second)
    assert np.allclose([found.low, found.high], np.percentile(slow, [2.5, 97.5]))


def test_sums_by_user_are_those_of_a_loop() -> None:
    random.seed(10)
    users = [random.choice("abc") for _ in range(20)]
    values = [random.random() for _ in range(20)]
    slow = [sum(v for v, u in zip(values, users, strict=True) if u == name) for name in "abc"]
    assert np.allclose(user_sums(users, values)[:, 0], slow)


def test_json_and_back() -> None:
    interval = bootstrap([1.0, 2.0, 4.0], ["a", "b", "c"])
    assert Interval.from_dict(interval.to_dict()) == interval


@pytest.mark.parametrize(
    ("values", "users", "weights", "says"),
    [
        ([1.0, 2.0], [1, 1], None, "at least 2 users, got 1"),
        ([1.0, 2.0], [1, 2, 3], None, "one value, user and weight a row"),
        ([1.0, float("nan")], [1, 2], None, "must be finite"),
        ([1.0, 2.0], [1, 2], [0.0, 0.0], "expected more than 0"),
    ],
)
def test_what_has_no_interval_is_said(
    values: list[float], users: list[int], weights: list[float] | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        bootstrap(values, users, weights)
    if len(values) == len(users) and weights is None and len(set(users)) > 1:
        with pytest.raises(ValueError, match=says):
            paired_difference(values, values[::-1], users)


def test_unequal_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="the same rows in the same order"):
        paired_difference([1.0], [1.0, 2.0], [1])

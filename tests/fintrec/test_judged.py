"""Metrics with intervals: their values are the metrics', their bounds those of slow twins."""

import numpy as np
import pytest

from fintrec import fairness, judged
from fintrec.fairness import FITS, HIGH, LOW, TOO_SMALL, Groups, slices
from fintrec.intervals import SEED
from fintrec.judged import Judged
from fintrec.metrics import auroc, calibration_error, log_loss


def rows(num_users: int = 12, num_rows: int = 300, seed: int = 0) -> Judged:
    rng = np.random.default_rng(seed)
    probability = rng.choice([0.05, 0.1, 0.2, 0.4, 0.7], num_rows)  # with ties
    return Judged(
        page=np.arange(num_rows),
        user=rng.integers(0, num_users, num_rows) * 3,
        item=rng.integers(0, 5, num_rows),
        probability=probability,
        label=rng.random(num_rows) < probability,
    )


def drawn_again(found: Judged, statistic, replicates: int) -> list[float]:
    """The statistic of each replicate, on rows that are really repeated."""
    names = np.unique(found.user)
    rng = np.random.default_rng(SEED)
    values = []
    for _ in range(replicates):
        places = rng.integers(0, len(names), len(names))
        taken = np.concatenate([np.flatnonzero(found.user == names[p]) for p in places])
        values.append(statistic(found.probability[taken], found.label[taken]))
    return values


@pytest.mark.parametrize(
    ("interval", "metric"),
    [
        (judged.log_loss_interval, log_loss),
        (judged.auroc_interval, auroc),
    ],
)
def test_an_interval_is_that_of_repeated_rows(interval, metric) -> None:
    found = rows()
    fast = interval(found, 40)
    assert fast.value == pytest.approx(metric(found.probability, found.label), abs=1e-12)
    slow = np.percentile(drawn_again(found, metric, 40), [2.5, 97.5])
    assert np.allclose([fast.low, fast.high], slow)


def test_the_calibration_error_is_that_of_the_metrics() -> None:
    found = rows(num_rows=307)
    interval = judged.calibration_error_interval(found)
    assert interval.value == pytest.approx(calibration_error(found.probability, found.label))
    assert 0 <= interval.low < interval.high


def test_the_reliability_table_holds_every_row_once_in_order() -> None:
    found = rows()
    table = judged.reliability(found)
    assert sum(row["rows"] for row in table) == len(found)
    assert sum(row["positives"] for row in table) == found.label.sum()
    assert [row["predicted"] for row in table] == sorted(row["predicted"] for row in table)


def test_without_both_labels_or_with_one_user_there_is_no_interval() -> None:
    found = rows()
    only = Judged(found.page, found.user, found.item, found.probability, found.label & False)
    assert judged.auroc_interval(only) is None
    assert judged.log_loss_interval(only) is not None
    alone = Judged(found.page, found.user * 0, found.item, found.probability, found.label)
    for interval in (
        judged.auroc_interval,
        judged.log_loss_interval,
        judged.calibration_error_interval,
    ):
        assert interval(alone) is None


def of_rates(predicted: float, observed: float, num_users: int) -> Judged:
    """Twenty rows a user, of which the observed share is positive."""
    num = num_users * 20
    label = np.arange(num) % 20 < round(observed * 20)
    return Judged(
        np.arange(num),
        np.arange(num) // 20,
        np.zeros(num, np.int64),
        np.full(num, predicted),
        label,
    )


@pytest.mark.parametrize(
    ("predicted", "observed", "num_users", "verdict"),
    [
        (0.25, 0.25, 50, FITS),
        (0.50, 0.25, 50, HIGH),
        (0.10, 0.25, 50, LOW),
        (0.50, 0.25, fairness.MIN_USERS - 1, TOO_SMALL),
        (0.50, 0.0, 50, TOO_SMALL),
    ],
)
def test_a_slice_is_flagged_where_its_gap_lies_beyond_chance(
    predicted, observed, num_users, verdict
) -> None:
    found = of_rates(predicted, observed, num_users)
    (row,) = slices(found, [Groups("all", ("one",), np.zeros(num_users, np.int64), "user")])
    assert row["verdict"] == verdict
    assert row["gap"]["value"] == pytest.approx(predicted - observed)
    assert (row["users"], row["rows"]) == (num_users, num_users * 20)


def test_slices_part_the_rows_and_leave_out_who_has_no_group() -> None:
    found = rows(num_users=6)
    of = np.full(16, -1)
    of[[0, 3]], of[[6, 9]] = 0, 2
    groups = [
        Groups("age band", ("a", "b", "c"), of, "user"),
        Groups("content type", ("x", "y"), np.array([0, 1, 0, 1, 0]), "item"),
    ]
    table = slices(found, groups)
    assert [(row["attribute"], row["group"]) for row in table] == [
        ("age band", "a"),
        ("age band", "c"),
        ("content type", "x"),
        ("content type", "y"),
    ]
    assert table[0]["rows"] == np.isin(found.user, [0, 3]).sum()
    assert table[2]["rows"] + table[3]["rows"] == len(found)
    assert table[2]["log_loss"]["value"] == pytest.approx(
        log_loss(found.probability[found.item % 2 == 0], found.label[found.item % 2 == 0])
    )

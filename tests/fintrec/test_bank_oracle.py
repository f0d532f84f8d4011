import math

import numpy as np
import pytest

from features.spec import DAY_MS, MINUTE_MS
from fintrec.bank import needs, oracle
from fintrec.bank.chunk import simulate_chunk
from fintrec.bank.forecast import MAX_PAGES, REMAINING_PAGES, Forecast
from fintrec.bank.goals import EXTERNAL_PER_DAY, external_shares, wanted_needs, without_exposure
from fintrec.bank.observed import read_triggers
from fintrec.bank.simulate import BankSize, simulate
from fintrec.bank.visits import find_triggers

END_MS = 1_795_900_000_123
FROM_MS = END_MS - 9 * DAY_MS


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle") / "log"
    simulate(BankSize("test", 250, 24, 40), 11, END_MS, folder)
    return folder


@pytest.fixture(scope="module")
def log(log_dir):
    return oracle.read(log_dir)


@pytest.fixture(scope="module")
def scores(log_dir):
    return oracle.judge(log_dir, FROM_MS, END_MS, label_days=4)


def test_the_truth_is_honest_and_better_than_a_constant(scores):
    found = [scores["clicks"], scores["caused"]]
    found += [parts["hindsight"] for parts in scores["any_cause"].values()]
    for score in found:
        spread = math.sqrt(score["predicted_positives"])
        assert score["positives"] > 10
        assert abs(score["positives"] - score["predicted_positives"]) < 5 * spread
        assert score["log_loss"] < score["constant_log_loss"]
        assert score["log_loss"] == pytest.approx(score["expected_log_loss"], rel=0.25)
        assert score["auroc"] > 0.65


def test_foresight_lies_between_hindsight_and_a_constant(scores):
    for parts in scores["any_cause"].values():
        hindsight, foresight = parts["hindsight"]["log_loss"], parts["foresight"]["log_loss"]
        assert hindsight < foresight < parts["foresight"]["constant_log_loss"]


def test_judged_pages_are_those_of_a_training_set(scores, log):
    shown = log.exposures
    opted_out = log.people.consent_at(shown.user, shown.time_ms) == 2
    inside = (shown.time_ms >= FROM_MS) & (shown.time_ms + 30 * MINUTE_MS <= END_MS) & ~opted_out
    assert scores["impressions"] == inside.sum() > 500
    assert scores["clicks"]["positives"] == log.exposures.clicked[inside].sum()


def test_hindsight_follows_from_everything_that_may_bring_a_goal(log):
    """A slow twin of one user's pages."""
    window_days = np.minimum(log.catalogue.window_days, 4.0)
    user = int(np.bincount(log.exposures.user).argmax())
    shown = log.exposures.of(log.exposures.user == user)
    times = np.unique(shown.time_ms)[-25:-1]
    hindsight, _, label, known, item = Forecast(log, FROM_MS, window_days).of_user(user, times)
    mine = log.triggers.user == user
    triggers = list(zip(log.triggers.which[mine], log.triggers.time_ms[mine], strict=True))
    open_to_all = without_exposure(log.catalogue)
    num_items = len(log.catalogue.items)
    for row in np.random.default_rng(0).choice(len(hindsight), 150, replace=False):
        time_ms, place = int(times[row // num_items]), int(item[row])
        window = window_days[place] * DAY_MS
        opens = log.catalogue.enrolls[place]
        if opens < log.owned_since_UC.shape[1] and log.owned_since_UC[user, opens] <= time_ms:
            assert hindsight[row] == 0
            continue
        left = 1.0
        lag = log.catalogue.lag_days[place] * DAY_MS
        for at in np.flatnonzero(shown.item == place):
            rate = shown.if_clicked[at] if shown.clicked[at] else shown.if_not[at]
            age = time_ms - int(shown.time_ms[at])
            if age + window <= 0 or (age > 0 and shown.goal_ms[at] <= time_ms):
                continue
            by_now, by_then = (reached(a, lag) for a in (age, age + window))
            left *= 1 - rate * (by_then - by_now) / (1 - rate * by_now)
        for which, came in triggers:
            if wanted_needs()[which] == log.catalogue.need[place] and open_to_all[place]:
                served = (open_to_all & (log.catalogue.need == wanted_needs()[which])).sum()
                passed = reached(time_ms - came + window, DAY_MS) - reached(time_ms - came, DAY_MS)
                left *= 1 - needs.TRIGGERS[which].goal / served * passed
        middle = np.array([time_ms + int(np.median(window_days) * DAY_MS / 2)])
        share = external_shares(log.catalogue, log.people.levels(np.array([user]), middle))
        left *= math.exp(-EXTERNAL_PER_DAY * share[0, place] * window_days[place])
        assert hindsight[row] == pytest.approx(1 - left, rel=1e-6, abs=1e-12)
    reachable = times[:, None] + window_days * DAY_MS <= END_MS
    assert np.array_equal(known, reachable.ravel())
    goals = [
        any(
            0 < goal_ms - times[row // num_items] <= window_days[item[row]] * DAY_MS
            for goal_ms in log.goal_ms[(log.goal_user == user) & (log.goal_item == item[row])]
        )
        for row in range(len(label))
    ]
    assert label.tolist() == goals


def reached(age_ms, lag_ms):
    return 1 - math.exp(-max(age_ms - 60_000, 0) / lag_ms)


def test_triggers_read_back_from_a_log_are_those_of_its_simulation(log_dir):
    size = BankSize("test", 250, 24, 40)
    chunk = simulate_chunk(11, 0, 0, 250, size.span(END_MS))
    ids = [f"u{number:06d}" for number in range(250)]
    for since_ms, until_ms in ((0, None), (FROM_MS, END_MS - DAY_MS)):
        found = read_triggers(log_dir, ids, since_ms, until_ms)
        made = find_triggers(chunk.money, chunk.contacts)
        inside = (made.time_ms >= since_ms) & (made.time_ms < (until_ms or END_MS))
        assert rows(found.user, found.time_ms, found.which) == rows(
            made.user[inside], made.time_ms[inside], made.which[inside]
        )


def rows(*columns):
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_fewer_pages_remain_the_further_a_visit_is():
    assert len(REMAINING_PAGES) == MAX_PAGES
    assert REMAINING_PAGES[0] == pytest.approx(1.7, abs=0.01)
    assert (np.diff(REMAINING_PAGES) < 0).all()
    assert REMAINING_PAGES[-1] == 0


def test_a_period_without_pages_has_nothing_to_score(log_dir):
    found = oracle.judge(log_dir, END_MS + 1, END_MS + 2)
    assert found["impressions"] == 0
    assert found["clicks"] == {"examples": 0}
    assert found["any_cause"] == {"examples": 0}

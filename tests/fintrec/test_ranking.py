from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.records import RankingPolicy
from fintrec.ranking import DECIMALS, order, ranking_scores

probabilities = st.floats(0, 1)
values = st.floats(-2e7, 2e7)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, who is eligible, and pinned positions."""
    users, size = draw(st.integers(1, 4)), draw(st.integers(0, 9))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    scores = rng.choice([0.0, -0.0, 0.5, 0.50000001, 2.0, -1.0], (users, size))
    pinned = rng.integers(1, 7, size) * (rng.random(size) < draw(st.sampled_from([0.0, 0.4])))
    return scores, rng.random((users, size)) < 0.7, pinned


def slow_order(scores: list[float], eligible: list[bool], pinned: list[int]) -> list[int]:
    """Positions filled one after the other; places stand for ids."""
    left = [place for place in range(len(scores)) if eligible[place]]
    waiting = sorted((pinned[place], place) for place in left if pinned[place])
    free = sorted(
        (place for place in left if not pinned[place]), key=lambda place: (-scores[place], place)
    )
    slate: list[int] = []
    while waiting or free:
        if waiting and (waiting[0][0] <= len(slate) + 1 or not free):
            slate.append(waiting.pop(0)[1])
        else:
            slate.append(free.pop(0))
    return slate


@given(scored())
def test_the_order_equals_its_slow_twin(case):
    scores, eligible, pinned = case
    ranked, count = order(scores, eligible, pinned)
    for row in range(len(scores)):
        expected = slow_order(scores[row].tolist(), eligible[row].tolist(), pinned.tolist())
        assert ranked[row, : count[row]].tolist() == expected
        assert sorted(ranked[row].tolist()) == list(range(scores.shape[1]))


@given(
    st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9), probabilities, probabilities, values
)
def test_a_ranking_score_is_equation_one(l_us, l_ctr, l_cvr, pctr, pcvr, value):
    policy = RankingPolicy(version=1, lambda_us=l_us, lambda_ctr=l_ctr, lambda_cvr=l_cvr)
    found = ranking_scores(
        policy, np.array([[pctr]]), np.array([[pcvr]]), np.array([value]), np.array([0.75])
    )[0, 0]
    parts = [
        Decimal(l_us) * Decimal("0.75"),
        Decimal(l_ctr) * Decimal(pctr),
        Decimal(l_cvr) * Decimal(pcvr) * Decimal(value),
    ]
    scale = float(sum(abs(part) for part in parts))
    assert found == pytest.approx(float(sum(parts)), rel=0, abs=1e-14 * scale + 10**-DECIMALS)


def test_each_coefficient_weighs_its_own_part():
    pctr, pcvr = np.array([[0.5, 0.1]]), np.array([[0.01, 0.2]])
    value, urgency = np.array([100.0, 10.0]), np.array([0.0, 3.0])
    scores = {
        name: ranking_scores(
            RankingPolicy(version=1, **(dict.fromkeys(_LAMBDAS, 0.0) | {name: 2.0})),
            pctr,
            pcvr,
            value,
            urgency,
        )[0].tolist()
        for name in _LAMBDAS
    }
    assert scores == {"lambda_us": [0, 6], "lambda_ctr": [1, 0.2], "lambda_cvr": [2, 4]}


_LAMBDAS = ("lambda_us", "lambda_ctr", "lambda_cvr")


def test_equal_scores_stand_in_the_order_of_ids():
    ranked, _ = order(np.array([[1.0, 2.0, 1.0, 2.0]]), np.ones((1, 4), bool), np.zeros(4, int))
    assert ranked[0].tolist() == [1, 3, 0, 2]


def test_scores_that_differ_below_the_eighth_decimal_are_equal():
    policy = RankingPolicy(version=1)
    pctr = np.array([[0.1, 0.1 + 1e-10]])
    scores = ranking_scores(policy, pctr, np.zeros((1, 2)), np.zeros(2), np.zeros(2))
    assert scores[0, 0] == scores[0, 1]


def test_a_pinned_item_stands_at_its_position():
    scores, everyone = np.array([[4.0, 3.0, 2.0, 1.0]]), np.ones((1, 4), bool)
    assert order(scores, everyone, np.array([0, 0, 0, 2]))[0].tolist() == [[0, 3, 1, 2]]
    assert order(scores, everyone, np.array([4, 0, 0, 0]))[0].tolist() == [[1, 2, 3, 0]]


def test_of_two_items_pinned_to_one_position_the_lower_id_has_it():
    scores = np.array([[4.0, 3.0, 2.0, 1.0]])
    ranked, _ = order(scores, np.ones((1, 4), bool), np.array([0, 1, 1, 2]))
    assert ranked[0].tolist() == [1, 2, 3, 0]


def test_a_pinned_item_that_is_not_eligible_is_not_shown():
    ranked, count = order(np.array([[1.0, 2.0]]), np.array([[False, True]]), np.array([1, 0]))
    assert ranked[0, : count[0]].tolist() == [1]


def test_a_position_beyond_the_slate_is_its_end():
    ranked, _ = order(np.array([[1.0, 2.0]]), np.ones((1, 2), bool), np.array([0, 50]))
    assert ranked[0].tolist() == [0, 1]


def test_nobody_eligible_and_no_candidates_give_empty_slates():
    _, none = order(np.array([[1.0, 2.0]]), np.zeros((1, 2), bool), np.array([1, 0]))
    assert none.tolist() == [0]
    ranked, count = order(np.empty((3, 0)), np.empty((3, 0), bool), np.empty(0, int))
    assert (ranked.shape, count.tolist()) == ((3, 0), [0, 0, 0])

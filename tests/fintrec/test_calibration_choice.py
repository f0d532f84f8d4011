"""Which map is chosen, and what each can fit."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fintrec.calibration import MIN_SLOPE, Calibration
from fintrec.calibration_choice import BY_ITEM, FAMILIES, Impressions, choose
from fintrec.calibration_fit import by_item, fit, fit_beta, fit_isotonic, fit_level
from fintrec.logistic import corrections, logit, regression, sigmoid

NUM_ITEMS = 6


def shown(num: int, seed: int = 0, chance=None, items: np.ndarray | None = None) -> Impressions:
    """Impressions of `num // 20` users whose clicks follow `chance(level, item)`."""
    rng = np.random.default_rng(seed)
    level = -rng.gamma(3.0, 1.2, num) - 0.05
    item = rng.integers(0, NUM_ITEMS, num) if items is None else items
    chance = chance or (lambda level, item: sigmoid(0.9 * level + 0.5))
    clicked = rng.random(num) < chance(level, item)
    return Impressions(level, item, clicked, rng.integers(0, max(num // 20, 2), num))


def loss(probability: np.ndarray, clicked: np.ndarray) -> float:
    return float(-np.where(clicked, np.log(probability), np.log1p(-probability)).mean())


def bent(level: np.ndarray, item: np.ndarray) -> np.ndarray:
    """A staircase: nothing that a line in log p could follow."""
    return np.where(level < -4, 0.01, np.where(level < -2, 0.05, 0.6))


OWN = np.array([-1.5, 1.5, 0.0, -0.7, 0.7, 1.0])


def own_level(level: np.ndarray, item: np.ndarray) -> np.ndarray:
    return sigmoid(level + 0.5 + OWN[item])


def test_a_line_is_left_to_platt_and_a_staircase_to_isotonic() -> None:
    straight, staircase = shown(20_000), shown(20_000, chance=bent)
    assert "isotonic" not in choose(straight, NUM_ITEMS).kind
    found = choose(staircase, NUM_ITEMS)
    assert found.kind.startswith("isotonic")
    scores = found.choice["scores"]
    assert scores["isotonic"]["log_loss"] < scores["beta"]["log_loss"]
    later = shown(20_000, 1, bent)
    ours = loss(found.probability(later.level, later.item), later.clicked)
    assert ours < loss(fit(*staircase[:3:2]).probability(later.level), later.clicked) - 0.005


def test_beta_follows_a_curve_that_platt_cannot() -> None:
    def curved(level: np.ndarray, item: np.ndarray) -> np.ndarray:
        return sigmoid(0.7 * level - 1.2 - 1.6 * np.log(-np.expm1(level)))

    sample = shown(30_000, chance=curved)
    found = choose(sample, NUM_ITEMS)
    assert found.choice["scores"]["beta"]["more_than_platt"] < 0
    made = fit_beta(sample.level, sample.clicked)
    assert made.a == pytest.approx(0.7, abs=0.1)
    assert made.b == pytest.approx(-1.2, abs=0.25)
    assert made.c == pytest.approx(1.6, abs=0.3)


def test_items_of_their_own_level_are_found_and_alike_items_are_not() -> None:
    found = choose(shown(20_000, chance=own_level), NUM_ITEMS)
    assert found.kind.endswith("by item")
    centred = np.array(found.offsets) / 1000
    np.testing.assert_allclose(centred - centred.mean(), OWN - OWN.mean(), atol=0.25)
    alike = choose(shown(20_000), NUM_ITEMS).choice["scores"]
    own = alike["platt + offset 1"]["more_than_platt"]
    assert own == pytest.approx(0, abs=3e-4)


def test_an_item_with_few_impressions_moves_little_and_one_without_not_at_all() -> None:
    many = shown(6000, chance=own_level, items=np.zeros(6000, int))
    few = shown(30, seed=2, chance=lambda level, item: level > -99, items=np.ones(30, int))
    both = Impressions(*(np.concatenate(pair) for pair in zip(many, few, strict=True)))
    whole = fit(both.level, both.clicked)
    weak = by_item(whole, *both[:3], NUM_ITEMS, 0.25)
    strong = by_item(whole, *both[:3], NUM_ITEMS, 1.0, 0.25)
    assert 0 < weak.offsets[1] < strong.offsets[1]
    assert weak.offsets[2:] == (0,) * 4
    assert strong.slopes[2:] == (1000,) * 4
    assert weak.slopes == ()


def test_the_choice_is_made_on_users_that_the_candidates_have_not_seen() -> None:
    # Each user is shown one item of her own and clicks all or nothing of it.
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 30)
    clicked = rng.random(60)[user] < 0.3
    sample = Impressions(rng.normal(-3, 1, len(user)), user, clicked, user)
    own = choose(sample, 60).choice["scores"]["platt + offset 1"]
    assert own["more_than_platt"] == 0
    as_strangers = sample._replace(user=np.arange(len(user)))
    own = choose(as_strangers, 60).choice["scores"]["platt + offset 1"]
    assert own["more_than_platt"] < -0.2


def test_the_same_seed_gives_the_same_map_and_another_seed_other_folds() -> None:
    sample = shown(4000)
    one, two, other = (choose(sample, NUM_ITEMS, seed) for seed in (1, 1, 2))
    assert one == two
    assert one.choice["scores"] != other.choice["scores"]
    assert json.loads(json.dumps(one.to_dict())) == one.to_dict()


def test_too_few_clicks_fall_back_in_stated_steps() -> None:
    empty = choose(shown(0), NUM_ITEMS)
    assert (empty.a, empty.b, empty.offsets) == (1.0, 0.0, ())
    assert empty.choice["reason"].startswith("no impression")

    def some(clicks: int) -> Impressions:
        sample = shown(2000)
        return sample._replace(clicked=np.arange(2000) % 2000 < clicks)

    for clicks in (0, 1, 9):
        found = choose(some(clicks), NUM_ITEMS)
        assert found.a == 1.0
        assert f"{clicks} clicks" in found.choice["reason"]
        mean = found.probability(some(clicks).level).mean()
        assert mean == pytest.approx((clicks + 1) / 2001, abs=1e-3)
    ten = choose(some(10), NUM_ITEMS).choice
    assert list(ten["scores"]) == ["platt"]
    assert "too few" in ten["reason"]
    assert ten["left_out"]["isotonic"] == "needs 100 clicks"
    assert set(choose(some(30), NUM_ITEMS).choice["scores"]) == {"platt", "beta"}
    all_of_them = choose(some(200), NUM_ITEMS).choice
    assert len(all_of_them["scores"]) == len(FAMILIES) * (1 + len(BY_ITEM))
    assert all_of_them["left_out"] == {}
    alone = some(200)._replace(user=np.zeros(2000, int))
    assert choose(alone, NUM_ITEMS).choice["reason"].startswith("one user")


def test_levels_that_are_no_numbers_are_refused() -> None:
    for num, clicks in ((40, 5), (4000, None)):
        sample = shown(num)
        broken = sample.level.copy()
        broken[:3] = np.nan
        clicked = sample.clicked if clicks is None else np.arange(num) < clicks
        with pytest.raises(ValueError, match="levels of impressions are NaN"):
            choose(sample._replace(level=broken, clicked=clicked), NUM_ITEMS)


impressions = st.lists(
    st.tuples(
        st.sampled_from([-60.0, -9.5, -3.0, -1e-9]) | st.floats(-20, 0),
        st.integers(0, NUM_ITEMS - 1),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(impressions, st.integers(1, 4))
def test_any_sample_has_a_finite_monotone_map(rows, times):
    columns = zip(*rows * times, strict=True) if rows else ([], [], [], [])
    level, item, clicked, user = (np.array(list(column)) for column in columns)
    sample = Impressions(level.astype(float), item.astype(int), clicked.astype(bool), user)
    candidates = [choose(sample, NUM_ITEMS)]
    for make in (fit, fit_level, fit_beta, fit_isotonic):
        made = make(sample.level, sample.clicked)
        candidates += [made, by_item(made, *sample[:3], NUM_ITEMS, 1.0, 0.25)]
    grid = np.tile(np.linspace(-700, 0, 300)[:, None], (1, NUM_ITEMS))
    for made in candidates:
        found = made.probability(grid)
        assert ((found > 0) & (found < 1)).all()
        assert (np.diff(found, axis=0) >= -1.1e-8).all()
        assert Calibration.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_isotonic_pools_what_falls_and_goes_on_outside() -> None:
    level = np.repeat([-5.0, -4.0, -3.0, -2.0], 500)
    rates = np.repeat([0.02, 0.10, 0.06, 0.30], 500)
    clicked = np.tile(np.arange(500) / 500, 4) < rates
    made = fit_isotonic(level, clicked)
    found = made.probability(np.array([-5.0, -3.5, -2.0]))
    np.testing.assert_allclose(found, [0.02, 0.08, 0.30], atol=0.02)
    outside = made.probability(np.array([-100.0, -5.5, -1.0]))
    assert 0 < outside[0] < outside[1] < found[0]
    assert found[2] < outside[2] < found[2] + 0.01


def test_a_model_that_ranks_backwards_keeps_its_order_and_loses_its_slope() -> None:
    backwards = shown(5000, chance=lambda level, item: sigmoid(-level - 5))
    for made in (fit(*backwards[:3:2]), fit_beta(*backwards[:3:2])):
        assert made.a == MIN_SLOPE
    assert made.c == 0.0
    flat = fit_isotonic(*backwards[:3:2])
    assert len(set(flat.knots.logit)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_corrections_equal_one_regression_an_item(seed: int) -> None:
    sample = shown(3000, seed, own_level)
    base, target = sample.level + 1, sample.clicked.astype(float)
    offsets, slopes = corrections(base, target, sample.item, NUM_ITEMS, 0.5, 0.25, 0.1)
    centre = base.mean()
    for item in range(NUM_ITEMS):
        mine = sample.item == item
        # offset + slope * base = base + d + e (base - centre), by a regression with offset `base`
        twin = _twin(base[mine], target[mine], centre)
        assert slopes[item] == pytest.approx(1 + twin[1], abs=1e-5)
        assert offsets[item] == pytest.approx(twin[0] - twin[1] * centre, abs=1e-5)


def _twin(base: np.ndarray, target: np.ndarray, centre: float) -> np.ndarray:
    """The penalised optimum by small gradient steps."""
    weights = np.zeros(2)
    inputs = np.stack((np.ones_like(base), base - centre))
    for _ in range(20_000):
        gradient = inputs @ (sigmoid(base + weights @ inputs) - target)
        gradient += weights / np.array([0.5, 0.25]) ** 2
        weights -= 2e-3 * gradient
    assert np.abs(gradient).max() < 1e-6
    return weights


def test_bounds_of_the_regression_hold_and_are_met_only_where_they_bind() -> None:
    rng = np.random.default_rng(0)
    inputs = np.stack((rng.normal(size=4000), rng.normal(size=4000), np.ones(4000)))
    target = (rng.random(4000) < sigmoid(inputs[0] - 0.8 * inputs[1])).astype(float)
    free = regression(inputs, target, (0, 0, 0), (1e-6,) * 3, (None, None, None))
    np.testing.assert_allclose(free, [1, -0.8, 0], atol=0.15)
    bound = regression(inputs, target, (0, 0, 0), (1e-6,) * 3, (0.0, 0.0, None))
    assert bound[1] == 0
    without = regression(inputs[[0, 2]], target, (0, 0), (1e-6,) * 2, (0.0, None))
    np.testing.assert_allclose(bound[[0, 2]], without, atol=1e-6)


def test_logit_undoes_sigmoid() -> None:
    values = np.linspace(-20, 20, 81)
    np.testing.assert_allclose(logit(sigmoid(values)), values, rtol=1e-6, atol=1e-9)

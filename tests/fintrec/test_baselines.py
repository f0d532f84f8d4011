"""Baselines: rows that know nothing of what follows, priors put right, signals that are found."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.errors import FintrecError
from features.history import INTERACTION, WINDOW, ordered
from features.spec import DAY_MS, MINUTE_MS
from features.vocabulary import code, fingerprint
from features.windows import FOREST_FEATURES, FOREST_NAMES
from fintrec.baselines import (
    examples,
    fm_features,
    item_history,
    neighbours,
    per_item,
    popularity,
    trees,
)
from fintrec.baselines.boosting import BoostingConfig
from fintrec.baselines.design import Design, pages_of
from fintrec.baselines.examples import Examples
from fintrec.baselines.forest import ForestConfig
from fintrec.baselines.item_history import ItemHistory
from fintrec.baselines.neighbours import NeighbourConfig
from fintrec.dataset import files
from fintrec.datasets import (
    DatasetConfig,
    build_dataset,
    converted,
    label_known,
    load_training_set,
)
from fintrec.logistic import sigmoid
from fintrec.metrics import log_loss
from tests.fintrec import tiny

CONFIG = DatasetConfig(
    validation_days=3, test_days=4, label_days=3, num_shards=4, negatives_rate=0.05
)
SMALL = ForestConfig(num_trees=20, min_leaf=3, max_features=0.5, max_samples=0.8)


@pytest.fixture(scope="module")
def built(bank_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines") / "set"
    build_dataset(bank_log, folder, CONFIG)
    data = load_training_set(folder)
    return folder, data, examples.read(folder, data)


def test_features_stand_where_the_training_set_has_the_page(built):
    folder, data, read = built
    stored = {}
    for number in range(4):
        table = pq.read_table(files.shard_path(folder, files.DECISIONS, number))
        for row in table.to_pylist():
            key = row["user_id"], row["time_ms"], row["page"], row["placement"], row["layout"]
            stored[key] = [row[name] for name in FOREST_NAMES]
    for name in ("train", "validation", "test"):
        decisions = getattr(data, name)
        assert read.features[name].shape == (len(decisions), len(FOREST_FEATURES))
        for at in range(0, len(decisions), 17):
            _, page, placement, layout = decisions.request[at, :4].tolist()
            user = data.users[decisions.user[at]]
            key = user, int(decisions.time_ms[at]), page, placement, layout
            assert read.features[name][at].tolist() == pytest.approx(stored[key], rel=1e-6)


def test_features_of_a_page_count_nothing_of_the_page_or_after_it(built):
    _, data, read = built
    column = FOREST_NAMES.index("impressions_count_7d")
    seen = 0
    for at in range(0, len(data.test), 5):
        log, now = data.logs[data.test.user[at]], data.test.time_ms[at]
        mine = log[log["action"] == code("action", "impression")]["time_ms"]
        expected = ((mine > now - 7 * DAY_MS) & (mine < now)).sum()
        assert read.features["test"][at, column] == expected
        seen += (mine >= now).any()
    assert seen > 10  # pages that a leak would have shown


def test_rows_of_a_page_do_not_depend_on_what_it_showed(built):
    _, data, read = built
    design = Design(data)
    blind = replace(
        data.test,
        shown=np.full_like(data.test.shown, -1),
        clicked=np.zeros_like(data.test.clicked),
        converted_indptr=np.zeros_like(data.test.converted_indptr),
        converted_items=data.test.converted_items[:0],
    )
    some = np.arange(6)
    seen = design.every_item(pages_of(data.test, read.features["test"]).taken(some))
    assert np.array_equal(
        seen, design.every_item(pages_of(blind, read.features["test"]).taken(some))
    )
    assert seen.shape == (
        6 * len(data.items),
        len(design.names(pages_of(blind, read.features["test"]))),
    )


def slow_item_history(data, decisions, page, item):
    """The columns of one pair out of the user's whole log, by the clock alone."""
    log, now = data.logs[decisions.user[page]], int(decisions.time_ms[page])
    recent = log[(log["time_ms"] < now) & (log["source"] == INTERACTION)][-WINDOW:]
    mine = recent[recent["item"] == fingerprint("item", data.items[item])]
    counts, since = [], []
    for action in ("impression", "click", "dismiss", "conversion"):
        times_ms = mine["time_ms"][mine["action"] == code("action", action)]
        counts.append(len(times_ms))
        since.append(np.log1p((now - times_ms.max()) / MINUTE_MS) if len(times_ms) else -1)
    return [*counts, *since]


def test_an_item_s_own_history_is_what_a_slow_loop_counts(built, monkeypatch):
    _, data, read = built
    monkeypatch.setattr(item_history, "_PAGES_AT_ONCE", 3)
    design, some = Design(data), np.arange(0, len(data.test), 29)
    plain = pages_of(data.test, read.features["test"])
    pages = plain.with_item_history(data, data.test).taken(some)
    assert design.names(pages)[-8:] == item_history.NAMES
    assert design.item_column(pages) == design.item_column(plain)
    rows = design.every_item(pages)
    assert rows.shape[1] == len(design.names(pages))
    assert np.array_equal(rows[:, :-8], design.every_item(plain.taken(some)))  # off: as before
    own = rows[:, -8:].reshape(len(some), len(data.items), 8)
    for at, page in enumerate(some):
        for item in range(0, len(data.items), 3):
            expected = slow_item_history(data, data.test, page, item)
            assert own[at, item].tolist() == pytest.approx(expected, rel=1e-6)
    assert (own[..., :4] > 0).any(axis=(0, 1)).all()  # each action is there to be counted
    assert own[..., 0].max() > 1
    order = np.random.default_rng(5).permutation(len(rows))
    page, item = np.divmod(order, len(data.items))
    assert np.array_equal(design.rows(pages, page, item), rows[order])
    with pytest.raises(ValueError, match=r"decisions for .* pages"):
        plain.with_item_history(data, data.validation)


def test_an_item_s_own_history_has_nothing_of_the_page_s_instant_or_after_it():
    data = tiny.training_set(num_users=3)
    at = len(data.test) - 1
    now, user, end = data.test.time_ms[at], data.test.user[at], data.test.end[at]
    log = data.logs[user]
    assert log["time_ms"][end - 1] < now == log["time_ms"][end]
    before = ItemHistory(data, data.test, np.array([at]))
    items = np.arange(len(data.items))
    page = np.zeros_like(items)
    seen = before.columns(page, items)

    def with_clicks(times_ms, decisions):
        new = np.repeat(log[end : end + 1], 2)
        new["time_ms"], new["event"], new["action"] = times_ms, (1, 2), code("action", "click")
        logs = list(data.logs)
        logs[user] = ordered(np.concatenate((log, new)))
        found = ItemHistory(replace(data, logs=logs), decisions, np.array([at]))
        return found.columns(page, items)

    assert np.array_equal(with_clicks((now, now + 1), data.test), seen)
    ends = data.test.end.copy()
    ends[at] += 2
    earlier = with_clicks((now - 2, now - 1), replace(data.test, end=ends))
    item = [fingerprint("item", name) for name in data.items].index(int(log["item"][end]))
    assert earlier[item, 1] == seen[item, 1] + 2
    assert earlier[item, 5] == pytest.approx(np.log1p(1 / MINUTE_MS))
    nobody = ItemHistory(data, replace(data.test, end=np.zeros_like(ends)), np.arange(4))
    assert nobody.columns(page[:4], items[:4]).tolist() == [[0] * 4 + [-1] * 4] * 4
    assert before.columns(page[:0], items[:0]).shape == (0, 8)


def test_codes_and_base_rates_come_from_training_alone(built):
    _, data, read = built
    other = replace(data, test=data.train, validation=data.train)
    pages = pages_of(data.test, read.features["test"]).taken(np.arange(4))
    assert np.array_equal(Design(data).every_item(pages), Design(other).every_item(pages))


def test_examples_have_the_labels_of_their_pages_and_every_conversion(built):
    _, data, read = built
    for name in ("train", "test"):
        decisions, drawn = getattr(data, name), read.examples[name]
        label = converted(data, decisions, np.arange(len(decisions)))
        assert np.array_equal(drawn.converted, label[drawn.page, drawn.item])
        assert label_known(data, decisions)[drawn.page, drawn.item].all()
        assert drawn.converted.sum() == len(decisions.converted_items) > 0
        assert drawn.negatives_rate == CONFIG.negatives_rate


def test_features_of_another_training_set_are_refused(built):
    folder, data, _ = built
    with pytest.raises(FintrecError, match="are not the .* of the training set"):
        examples.read(folder, replace(data, test=data.validation))


def test_a_down_sampled_classifier_sums_to_the_base_rate_after_the_correction():
    rng = np.random.default_rng(0)
    truth = sigmoid(rng.normal(-4.0, 1.0, 200_000))
    label = rng.random(len(truth)) < truth
    rate = 0.05
    # What a perfect classifier says that saw all positives and a share of the negatives.
    seen = truth / (truth + rate * (1 - truth))
    right = sigmoid(per_item.corrected(seen, rate))
    assert right == pytest.approx(truth, rel=1e-6)
    assert right.mean() == pytest.approx(label.mean(), rel=0.05)
    assert seen.mean() > 5 * label.mean()
    with pytest.raises(ValueError, match=r"negatives_rate=0 is not in \(0, 1\]"):
        per_item.corrected(seen, 0)


def test_each_item_gets_its_own_map_and_one_without_positives_stays_near_the_common_one():
    rng = np.random.default_rng(1)
    level = rng.normal(-2.0, 1.0, (20_000, 3))
    shift = np.array([0.0, 1.0, 0.0])
    label = rng.random(level.shape) < sigmoid(0.8 * level + shift)
    known = np.ones(level.shape, bool)
    known[:, 2] = False  # an item whose labels are all open
    found = per_item.fit(level, label, known)
    assert found.slope_K[:2] == pytest.approx([0.8, 0.8], abs=0.08)
    assert found.offset_K[1] - found.offset_K[0] == pytest.approx(1.0, abs=0.15)
    assert found.offset_K[0] < found.offset_K[2] < found.offset_K[1]
    assert found.apply(level).mean(axis=0)[:2] == pytest.approx(label.mean(axis=0)[:2], rel=0.03)


def test_maps_without_any_known_label_change_nothing():
    level = np.random.default_rng(2).normal(size=(50, 2))
    nothing = np.zeros(level.shape, bool)
    assert per_item.fit(level, nothing, nothing).apply(level) == pytest.approx(sigmoid(level))


def planted(use_static: bool = True):
    """A bank whose conversions follow a habit that F_s tells, and its parts for the trees."""
    data = tiny.training_set(num_users=60)
    if not use_static:
        data = replace(
            data,
            **{
                name: replace(getattr(data, name), static=np.zeros_like(getattr(data, name).static))
                for name in ("train", "validation", "test")
            },
        )
    parts = {}
    for name in ("train", "validation", "test"):
        decisions = getattr(data, name)
        empty = np.zeros((len(decisions), len(FOREST_FEATURES)), np.float32)
        every = np.arange(len(decisions))
        label, known = converted(data, decisions, every), label_known(data, decisions)
        parts[name] = pages_of(decisions, empty), label, known
    pages, label, known = parts["train"]
    page, item = np.nonzero(known)
    return data, parts, Examples(page, item, label[page, item], 1.0)


def loss_of(predicted, part):
    _, label, known = part
    return log_loss(predicted[known], label[known])


@pytest.mark.parametrize("kind", ["forest", "boosting"])
def test_trees_find_a_planted_signal_that_base_rates_cannot(kind):
    data, parts, drawn = planted()
    design = Design(data)
    config = SMALL if kind == "forest" else BoostingConfig(num_trees=30, min_leaf=5)
    classifier = config.classifier(design.item_column(parts["train"][0]), 0)
    held_out = trees.HeldOut(*parts["validation"])
    model = trees.fit(classifier, design, parts["train"][0], drawn, held_out)
    predicted = model.predict(parts["test"][0])
    flat = popularity.conversions(data).predict(parts["test"][0])
    assert loss_of(predicted, parts["test"]) < 0.9 * loss_of(flat, parts["test"])
    label, known = parts["test"][1:]
    assert predicted[known].mean() == pytest.approx(label[known].mean(), rel=0.3)


def test_more_items_than_a_category_may_have_are_ordered_numbers():
    data, parts, _ = planted()
    design, pages = Design(data), parts["train"][0]
    assert design.names(pages)[design.item_column(pages)] == "item"
    design.num_items = 256
    assert design.item_column(pages) is None
    assert BoostingConfig().classifier(None, 0).categorical_features is None


def test_a_foundation_model_s_vectors_reach_the_forest_through_32_components():
    data, parts, drawn = planted(use_static=False)
    rng = np.random.default_rng(3)
    axes = rng.normal(size=(7, 768)).astype(np.float32)
    with_fm = {}
    reducer = None
    for name in ("train", "validation", "test"):
        habit = getattr(data, name).user % 7
        vectors = axes[habit] + rng.normal(0, 0.3, (len(habit), 768)).astype(np.float32)
        missing = rng.random(len(habit)) < 0.1
        if reducer is None:
            reducer = fm_features.fit_reducer(vectors, missing, seed=0)
        pages, label, known = parts[name]
        with_fm[name] = pages.with_fm(reducer.apply(vectors, missing)), label, known
    design, losses = Design(data), []
    for chosen in (parts, with_fm):
        held_out = trees.HeldOut(*chosen["validation"])
        model = trees.fit(SMALL.classifier(None, 0), design, chosen["train"][0], drawn, held_out)
        losses.append(loss_of(model.predict(chosen["test"][0]), chosen["test"]))
    assert with_fm["test"][0].fm_MP.shape[1] == fm_features.NUM_COMPONENTS + 1
    assert losses[1] < 0.95 * losses[0]


def test_a_missing_vector_counts_as_the_training_s_average_and_is_flagged():
    vectors = np.random.default_rng(4).normal(size=(100, 40)).astype(np.float32)
    reducer = fm_features.fit_reducer(vectors, np.zeros(100, bool), 0, num_components=4)
    reduced = reducer.apply(vectors, np.arange(100) == 7)
    assert reduced[7].tolist() == [0, 0, 0, 0, 1]
    assert reduced[:, 4].sum() == 1
    with pytest.raises(ValueError, match="3 vectors are present, expected at least 4"):
        fm_features.fit_reducer(vectors, np.arange(100) >= 3, 0, num_components=4)


def test_examples_of_one_label_are_refused():
    data, parts, drawn = planted()
    none = replace(drawn, converted=np.zeros_like(drawn.converted))
    held_out = trees.HeldOut(*parts["validation"])
    with pytest.raises(ValueError, match="with 0 conversions: expected both labels"):
        trees.fit(SMALL.classifier(None, 0), Design(data), parts["train"][0], none, held_out)


def test_neighbours_find_what_follows_a_click_where_base_rates_cannot():
    data, parts, _ = planted(use_static=False)
    every = {name: np.arange(len(getattr(data, name))) for name in parts}
    config = NeighbourConfig(half_life_days=8.0, prior=2.0)
    model = neighbours.fit(data, every["validation"], config)
    predicted = model.predict(data, data.test, every["test"])
    flat = popularity.conversions(data).predict(every["test"])
    assert loss_of(predicted, parts["test"]) < 0.95 * loss_of(flat, parts["test"])
    label, known = parts["test"][1:]
    assert predicted[known].mean() == pytest.approx(label[known].mean(), rel=0.3)
    # The same pages with the histories of others: what was learnt is of the user, not of the page.
    turned = replace(data, logs=[data.logs[at - 1] for at in range(len(data.logs))])
    early = data.test.end.min()
    assert all(len(log) > early for log in turned.logs)
    other = model.predict(turned, data.test, every["test"])
    assert loss_of(other, parts["test"]) > loss_of(flat, parts["test"])


def test_affinities_are_log_lifts_of_weighted_counts():
    data = planted()[0]
    config = NeighbourConfig(half_life_days=3.0, prior=5.0, num_neighbours=10_000)
    model = neighbours.fit(data, np.arange(len(data.validation)), config)
    rate = np.array(popularity.conversions(data).rates_K)
    known = label_known(data, data.train)
    for at, item in ((0, 1), (len(model.events_V) // 2, 3), (len(model.events_V) - 1, 5)):
        reached = expected = 0.0
        for page in range(len(data.train)):
            decisions = data.train
            log = data.logs[decisions.user[page]][: decisions.end[page]]
            mine = log[neighbours._events(log) == model.events_V[at]]
            if not len(mine):
                continue
            age_days = (decisions.time_ms[page] - mine["time_ms"].max()) / DAY_MS
            weight = 0.5 ** (age_days / 3.0)
            reached += weight * converted(data, decisions, np.array([page]))[0, item]
            expected += weight * known[page, item] * rate[item]
        lift = np.log((reached + 5.0) / (expected + 5.0))
        assert model.affinity_VK[at, item] == pytest.approx(lift, abs=1e-4)
    few = neighbours.fit(
        data, np.arange(len(data.validation)), replace(config, num_neighbours=4)
    ).affinity_VK
    assert ((few != 0).sum(axis=0) <= 4).all()
    assert (np.abs(few).max(axis=0) == np.abs(model.affinity_VK).max(axis=0)).all()


def test_neighbours_without_a_complete_label_or_with_senseless_settings_are_refused():
    data = planted()[0]
    early = replace(data, train=replace(data.train, observed_until_ms=0))
    with pytest.raises(ValueError, match="none of .* training pages has a complete label"):
        neighbours.fit(early, np.arange(3))
    alone = neighbours.fit(data, np.arange(0))  # nothing held out: the maps stay as they begin
    assert alone.weights_3.tolist() == [1, 1, 0]
    assert np.isfinite(alone.predict(data, data.test, np.arange(9))).all()
    with pytest.raises(ValueError, match="prior 0"):
        NeighbourConfig(prior=0)
    with pytest.raises(ValueError, match="num_neighbours is 0"):
        NeighbourConfig(num_neighbours=0)

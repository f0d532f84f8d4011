"""Counts of the items of a history: against a plain loop, over time, by category, in few slots."""

import numpy as np
import pytest
import torch

from features.history import EMPTY, Rows
from features.spec import DAY_MS, HOUR_MS
from features.vocabulary import Vocabulary, fingerprint
from fintrec.learning.preparation import prepare
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.models.item_counts import (
    CATEGORY_SLOTS,
    COUNTS_WIDTH,
    HALF_LIVES_H,
    ITEM_SLOTS,
    Fade,
    ItemCounts,
    ItemCountsHead,
)
from fintrec.popularity import measure
from fintrec.training import train, train_models
from tests.fintrec.tiny import (
    ITEMS,
    NAMES,
    config,
    history,
    history_inputs,
    models,
    request_inputs,
    training_set,
)

CATEGORIES = torch.tensor([0, 1, 0, 1, 2, 2, 0])
NUM_VALUES, SLOTS = len(HALF_LIVES_H), ITEM_SLOTS + CATEGORY_SLOTS


def told(model: torch.nn.Module) -> None:
    """Tell a model the categories, and let its head read the counts."""
    model.encoder.item_counts.set_categories(CATEGORIES)
    model.item_head.counts_head.set_categories(CATEGORIES)
    torch.nn.init.normal_(model.item_head.counts_head.output_KU)


def by_hand(model: torch.nn.Module, rows: Rows, sees: list[bool]) -> np.ndarray:
    """Counts (L, S) of the interactions that are seen, one after the other, at the newest's time."""
    counts = model.encoder.item_counts
    inputs = history_inputs([rows])
    size = inputs[1].shape[1]
    with torch.inference_mode():
        x_TD = model.encoder.embedding(*inputs)[0, size - len(rows) :]
        value_TL = counts.values(x_TD[None])[0].numpy()
    found = np.zeros((NUM_VALUES, SLOTS))
    number = {fingerprint("item", name): place for place, name in enumerate(ITEMS)}
    for place, row in enumerate(rows):
        item = number.get(int(row["item"]))
        if item is None or not sees[place]:
            continue
        age_ms = float(rows["time_ms"][-1] - row["time_ms"])
        for value, half_life_h in enumerate(HALF_LIVES_H):
            left = value_TL[place, value] * 2.0 ** (-age_ms / (half_life_h * HOUR_MS))
            found[value, item] += left
            found[value, ITEM_SLOTS + int(CATEGORIES[item])] += left
    return found


@pytest.mark.parametrize("length", [0, 1, 9, 30])
def test_counts_are_those_of_a_plain_loop(length: int) -> None:
    rows = history(np.random.default_rng(length), length) if length else EMPTY
    pctr, pcvr = models(item_history=True)
    time_ms = rows["time_ms"].tolist()
    seen = {
        pctr: [t < time_ms[-1] for t in time_ms[:-1]] + [True] * bool(length),
        pcvr: [True] * length,
    }
    for model, sees in seen.items():
        told(model)
        with torch.inference_mode():
            state_W = model.encode(*history_inputs([rows]))[0].float()
        assert len(state_W) == model.item_head.state_width == 16 + COUNTS_WIDTH
        expected = by_hand(model, rows, sees)
        np.testing.assert_allclose(
            state_W[16:].reshape(expected.shape), expected, rtol=2e-3, atol=2e-3
        )
        assert bool(expected.any()) == (length > 0)


def test_of_two_like_items_only_the_one_of_the_history_moves_and_its_category_a_little() -> None:
    head = ItemCountsHead(len(ITEMS), 16)
    head.set_categories(CATEGORIES)
    torch.nn.init.ones_(head.output_U)
    torch.nn.init.zeros_(head.item_KU)
    counts = torch.zeros(1, NUM_VALUES, SLOTS)
    request = request_inputs(np.random.default_rng(0), 1)[1]
    request[:, 7] = request[:, 6]
    state, nothing = torch.zeros(1, 16), torch.zeros(1, len(ITEMS))
    with torch.inference_mode():
        before = head(nothing, state, counts.flatten(1), request)
        counts[:, :, 3] = 1.0
        own = head(nothing, state, counts.flatten(1), request) - before
        counts[:, :, ITEM_SLOTS + 1] = 1.0
        both = head(nothing, state, counts.flatten(1), request) - before
    assert own.nonzero()[:, 1].tolist() == [3]
    assert both.nonzero()[:, 1].tolist() == [1, 3]  # the items of category 1


def test_counts_fade_on_until_the_request() -> None:
    """A state later by the fading alone says the same: the stored one needs no new encoding."""
    head = ItemCountsHead(len(ITEMS), 16)
    torch.nn.init.normal_(head.output_KU)
    rng = np.random.default_rng(0)
    request = request_inputs(rng, 1)[1]
    counts = torch.randn(1, NUM_VALUES, SLOTS)
    left = torch.tensor([2.0 ** (-24 / hours) for hours in HALF_LIVES_H])[None, :, None]
    at_once, next_day = request.clone(), request.clone()
    at_once[:, 7] = at_once[:, 6]
    next_day[:, 7] = next_day[:, 6] - DAY_MS
    arguments = torch.zeros(1, len(ITEMS)), torch.randn(1, 16)
    with torch.inference_mode():
        torch.testing.assert_close(
            head(*arguments, counts.flatten(1), next_day),
            head(*arguments, (counts * left).flatten(1), at_once),
        )


def test_names_that_are_not_scored_leave_no_count() -> None:
    rows = history(np.random.default_rng(3), 8)
    rows["item"] = [fingerprint("item", "unheard_of"), 0] * 4
    for model in models(item_history=True):
        with torch.inference_mode():
            assert not model.encode(*history_inputs([rows]))[0, 16:].any()


def test_more_items_than_slots_share_them() -> None:
    many = tuple(f"item_{number}" for number in range(ITEM_SLOTS + 40))
    vocabulary = Vocabulary.build(NAMES, many)
    counts = ItemCounts(vocabulary, 16)
    counts.set_categories(torch.arange(len(many)))
    prints = torch.tensor([[fingerprint("item", name) for name in vocabulary.items]])
    items, categories = (slots[0] for slots in counts.slots(prints))
    assert torch.equal(items, torch.arange(len(many)) % ITEM_SLOTS)
    assert torch.equal(categories, ITEM_SLOTS + torch.arange(len(many)) % CATEGORY_SLOTS)
    head = ItemCountsHead(len(many), 16)
    assert torch.equal(head.item_slot_K, items)


def test_weight_decay_leaves_the_half_lives_where_they_start() -> None:
    fade = Fade()
    optimiser = torch.optim.AdamW(fade.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(10):
        (0.0 * fade(torch.tensor([HOUR_MS])).sum()).backward()
        optimiser.step()
    expected = torch.tensor(HALF_LIVES_H, dtype=torch.float64) * HOUR_MS
    torch.testing.assert_close(fade.half_lives_ms(), expected)


def test_a_start_from_a_checkpoint_keeps_the_categories_of_the_data() -> None:
    data = training_set(6)
    recipe = Recipe(name="test", model=config(item_history=True), training=TrainingConfig(epochs=1))
    start = train(data, recipe)
    object.__setattr__(data, "categories", tuple(f"c{n}" for n in CATEGORIES.tolist()))
    trained = train_models(data, recipe, start=start)
    for model in (trained.pctr, trained.pcvr):
        assert model is not None
        assert torch.equal(model.item_head.category_K, CATEGORIES)
        assert torch.equal(model.encoder.item_counts.category_slot_K, ITEM_SLOTS + CATEGORIES)


def test_the_categories_of_a_data_set_reach_both_ends() -> None:
    data = training_set(4)
    named = tuple(f"category_{number}" for number in CATEGORIES.tolist())
    object.__setattr__(data, "categories", named)
    pair = models(item_history=True)
    prepare(*pair, data, measure(data), 0)
    for model in pair:
        assert torch.equal(model.item_head.counts_head.category_place_K, CATEGORIES)
        assert torch.equal(model.encoder.item_counts.category_slot_K, ITEM_SLOTS + CATEGORIES)


def test_training_moves_both_ends_of_the_counts() -> None:
    data = training_set(24)
    training = TrainingConfig(learning_rate=1e-2, batch_size=8, epochs=1)
    recipe = Recipe(name="test", model=config(item_history=True), training=training)
    untrained = models(item_history=True)
    trained = train_models(data, recipe)
    for model, before in zip((trained.pctr, trained.pcvr), untrained, strict=True):
        assert model is not None
        assert model.item_head.counts_head.output_U.any()
        values = model.encoder.item_counts.value.weight
        assert not torch.equal(values, before.encoder.item_counts.value.weight)
        half_lives = model.encoder.item_counts.fade.log_change_L
        assert not torch.equal(half_lives, before.encoder.item_counts.fade.log_change_L)

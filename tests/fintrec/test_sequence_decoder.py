"""The sequence decoder sees no later item, ignores padding, and learns a planted chain."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.errors import ConfigurationError
from fintrec.public import sequence_training
from fintrec.public.cooccurrence import item_vectors
from fintrec.public.full_ranking import metrics, ranks
from fintrec.public.item_sequences import IntArray, ItemSequences, from_lists
from fintrec.public.sequence_decoder import DecoderShape, SequenceDecoder
from fintrec.public.sequence_training import (
    DecoderRecipe,
    Epoch,
    TrainingDiverged,
    batches,
    full_softmax,
    inputs_and_labels,
    sampled_softmax,
    train,
    windows,
)

SHAPE = DecoderShape(
    d_model=16, num_layers=2, num_heads=2, d_feed_forward=32, dropout=0.1, input_dropout=0.1
)
RECIPE = DecoderRecipe(
    shape=SHAPE, epochs=6, learning_rate=0.01, warmup_steps=5, negatives=8, tokens=400
)


def planted_chain(seed: int, users: int = 120, items: int = 20) -> ItemSequences:
    """Each item is followed by one fixed other item, nine times of ten."""
    rng = np.random.default_rng(seed)
    successor = np.roll(np.arange(1, items + 1), -1)
    sequences = []
    for _ in range(users):
        sequence = [int(rng.integers(1, items + 1))]
        for _ in range(int(rng.integers(3, 9))):
            follows = rng.random() < 0.9
            sequence.append(int(successor[sequence[-1] - 1] if follows else rng.integers(1, 21)))
        sequences.append(sequence)
    return from_lists([*sequences, list(range(1, items + 1))])


@pytest.mark.parametrize("order", ["absolute", "relative", "none"])
def test_no_hidden_state_depends_on_a_later_item(order: str) -> None:
    torch.manual_seed(0)
    model = SequenceDecoder(9, replace(SHAPE, order=order)).eval()
    embedded: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    model.table.register_forward_hook(keep)
    hidden_TD = model(torch.tensor([[3, 1, 4, 1, 5, 9]]), 6)[0]
    for place in range(6):
        (gradient_BTD,) = torch.autograd.grad(
            hidden_TD[place].square().sum(), embedded[0], retain_graph=True
        )
        touched = gradient_BTD[0].abs().sum(dim=1) > 0
        assert touched.tolist() == [other <= place for other in range(6)]


def test_padding_changes_nothing() -> None:
    model = SequenceDecoder(9, SHAPE).eval()
    alone = model.score(np.array([[2, 7, 5]]))
    beside = model.score(np.array([[0, 0, 2, 7, 5], [1, 2, 3, 4, 5]]))
    np.testing.assert_allclose(beside[0], alone[0], rtol=1e-5, atol=1e-6)
    assert alone.shape == (1, 9)


def test_windows_hold_every_label_once_with_its_predecessor() -> None:
    sequence = np.arange(1, 131)
    found = windows([sequence, np.array([5]), np.array([6, 7])])
    assert max(len(window) for window in found) == 51
    pairs = [pair for window in found for pair in zip(window[:-1], window[1:], strict=True)]
    assert sorted(pairs) == sorted([*zip(sequence[:-1], sequence[1:], strict=True), (6, 7)])


def test_batches_hold_each_window_once_within_their_size() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 51, 500)
    found = batches(lengths, 200, rng)
    assert sorted(np.concatenate(found).tolist()) == list(range(500))
    sizes = [len(batch) * lengths[batch].max() for batch in found]
    assert max(sizes) <= 200
    padded_share = 1 - lengths.sum() / sum(sizes)
    assert padded_share < 0.1
    assert [len(batch) for batch in batches(np.array([50, 50]), 10, rng)] == [1, 1]


def test_labels_are_the_next_items_and_padding_has_none() -> None:
    items, labels = inputs_and_labels([np.array([1, 2, 3, 4]), np.array([8, 9])])
    assert items.tolist() == [[1, 2, 3], [0, 0, 8]]
    assert labels.tolist() == [[2, 3, 4], [0, 0, 9]]


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_sampled_softmax_with_all_items_is_the_full_one(temperature: float) -> None:
    torch.manual_seed(1)
    model = SequenceDecoder(12, replace(SHAPE, temperature=temperature, item_bias=True))
    with torch.no_grad():
        model.bias.normal_()
    hidden_MD = torch.randn(5, 16)
    labels_M = torch.tensor([1, 12, 3, 3, 7])
    with torch.no_grad():
        logits_MN = model.logits(hidden_MD)
        sampled = sampled_softmax(model, hidden_MD, labels_M, torch.arange(1, 13))
        full = full_softmax(model, hidden_MD, labels_M)
        by_hand = -torch.log_softmax(logits_MN, dim=1)[range(5), labels_M - 1].mean()
    assert float(full) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(sampled) == pytest.approx(float(by_hand), rel=1e-5)


def test_sampled_negatives_stand_for_all_items_on_average() -> None:
    torch.manual_seed(2)
    model = SequenceDecoder(40, SHAPE)
    hidden_MD, labels_M = torch.randn(3, 16), torch.tensor([4, 40, 9])
    with torch.no_grad():
        full = float(full_softmax(model, hidden_MD, labels_M))
        draws = [
            float(sampled_softmax(model, hidden_MD, labels_M, torch.randperm(40)[:20] + 1))
            for _ in range(400)
        ]
    assert np.mean(draws) == pytest.approx(full, rel=0.05)
    assert np.std(draws) > 0


@pytest.mark.parametrize("from_cooccurrence", [False, True])
def test_learns_a_planted_chain(from_cooccurrence: bool) -> None:
    data = planted_chain(0)
    recipe = replace(RECIPE, epochs=15, start_from_cooccurrence=from_cooccurrence)
    found = train(data, recipe, seed=0)
    figures = metrics(ranks(data, "test", found.model.score))
    assert figures["hr@1"] > 0.6  # chance is one in twenty


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    data = planted_chain(1, users=30)
    recipe = replace(RECIPE, epochs=2)
    first, again, other = (train(data, recipe, seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["table.weight"], other["table.weight"])


def test_run_cut_after_an_epoch_goes_on_to_the_same_model(tmp_path: Path) -> None:
    data = planted_chain(2, users=30)
    state = tmp_path / "state.pt"

    class Cut(Exception):
        pass

    def cut_at_three(epoch: Epoch) -> None:
        if epoch.epoch == 3:
            raise Cut

    whole = train(data, RECIPE, seed=5)
    with pytest.raises(Cut):
        train(data, RECIPE, 5, report=cut_at_three, state_path=state)
    heard: list[int] = []
    resumed = train(
        data, RECIPE, 5, report=lambda epoch: heard.append(epoch.epoch), state_path=state
    )
    assert heard == [1, 2, 3, 4, 5, 6]
    assert [one.loss for one in resumed.history] == [one.loss for one in whole.history]
    wanted = whole.model.state_dict()
    assert all(torch.equal(wanted[k], v) for k, v in resumed.model.state_dict().items())


def test_kept_weights_are_those_of_the_best_validation() -> None:
    data = planted_chain(3, users=30)
    found = train(data, replace(RECIPE, evaluate_every=1), seed=0)
    best = found.history[found.best_epoch - 1].validation
    assert best is not None
    assert best["ndcg@10"] == max(one.validation["ndcg@10"] for one in found.history)  # type: ignore[index]
    assert metrics(ranks(data, "validation", found.model.score)) == best


def test_held_out_items_never_reach_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    data = planted_chain(4, users=20)
    seen: list[int] = []

    def recorded(chosen: list[IntArray]) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(sum(len(window) - 1 for window in chosen))
        return inputs_and_labels(chosen)

    monkeypatch.setattr(sequence_training, "inputs_and_labels", recorded)
    train(data, replace(RECIPE, epochs=1), seed=0)
    assert sum(seen) == len(data.items) - 3 * data.num_users


def test_small_budget_ends_early_with_an_evaluated_model() -> None:
    found = train(planted_chain(5, users=30), RECIPE, 0, budget_seconds=1e-6)
    assert len(found.history) == 1
    assert found.best_epoch == 1


def test_diverging_run_and_data_without_labels_are_refused() -> None:
    wild = replace(RECIPE, learning_rate=float("inf"))
    with pytest.raises(TrainingDiverged, match=r"epoch 1, step \d+ of \d+: loss is nan"):
        train(planted_chain(6, users=30), wild, seed=0)
    with pytest.raises(ValueError, match="no user has two training items"):
        train(from_lists([[1, 2, 3], [3, 2, 1]]), RECIPE, seed=0)


def test_items_that_occur_together_start_closer_than_others() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 11, 8) + 10 * int(rng.integers(2)) for _ in range(200)]
    vectors_ND = item_vectors(sequences, 21, 8, seed=0)
    close_NN = vectors_ND @ vectors_ND.T
    assert close_NN[:10, :10].mean() > close_NN[:10, 10:20].mean() + 0.3
    assert vectors_ND[20].tolist() == [0.0] * 8  # never seen
    assert torch.equal(vectors_ND, item_vectors(sequences, 21, 8, seed=0))
    wide = item_vectors(sequences, 21, 64, seed=0)
    assert wide.shape == (21, 64)


def test_unknown_setting_is_refused_with_the_known_ones() -> None:
    changed = DecoderRecipe().with_settings({"d_model": 32, "epochs": 3})
    assert (changed.shape.d_model, changed.epochs) == (32, 3)
    assert changed.to_dict()["d_model"] == 32
    with pytest.raises(ValueError, match=r"no setting 'depth', expected one of \['d_feed_forward'"):
        changed.with_settings({"depth": 3})


def test_state_of_another_run_is_refused(tmp_path: Path) -> None:
    data, state = planted_chain(7, users=30), tmp_path / "state.pt"
    train(data, replace(RECIPE, epochs=1), 0, state_path=state)
    with pytest.raises(ConfigurationError, match="other data, recipe or seed"):
        train(data, replace(RECIPE, epochs=1), 1, state_path=state)

"""What both models promise: causality by timestamp, invariance, exact splits."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from features.encoding import BUCKETS
from features.history import EMPTY, merged
from features.spec import NUM_STATIC
from features.vocabulary import fingerprint
from fintrec.models.config import paper, tiny_cpu
from fintrec.models.pctr import Pctr
from fintrec.models.served import Encode, Head
from tests.fintrec.tiny import ITEMS, history, history_inputs, models, request_inputs


def every_state(pctr: Pctr, inputs: Sequence[Tensor]) -> Tensor:
    """States (B, T, W) at all positions of a batch."""
    batch, size = inputs[1].shape
    window_L = torch.arange(batch).repeat_interleave(size)
    from_end_L = torch.arange(size, 0, -1).repeat(batch)
    return pctr.encode_at(*inputs, window_L, from_end_L).unflatten(0, (batch, size))


@pytest.mark.parametrize("item_history", [False, True])
@pytest.mark.parametrize("mask", ["before", "upto"])
def test_gradient_flows_only_from_visible_interactions(mask: str, item_history: bool) -> None:
    """A gradient probe: h_i depends on x_j exactly where the mask lets it."""
    pctr, _ = models(timestamp_mask=mask, item_history=item_history)
    tokens, times, dynamic = history_inputs([history(np.random.default_rng(4), 12)], 16)
    times_T = times[0].tolist()
    probe = dynamic.float().requires_grad_()
    hidden = every_state(pctr, (tokens, times, probe))[0]
    for i in range(4, 16):
        (gradient,) = torch.autograd.grad(hidden[i].square().sum(), probe, retain_graph=True)
        reached = gradient[0].abs().sum(1) > 0
        for j, t_j in enumerate(times_T):
            seen = t_j < times_T[i] if mask == "before" else j <= i
            assert bool(reached[j]) == (j == i or (t_j > 0 and seen)), (i, j)
    assert len(set(times_T)) < 12  # equal timestamps were among them


def test_tokens_of_one_page_do_not_see_each_other() -> None:
    rows = history(np.random.default_rng(0), 6)
    rows["time_ms"][-3:] = rows["time_ms"][-1]
    other = rows.copy()
    other["item"][-2] = 12345  # not the last row, but of the same page
    pctr, pcvr = models()
    one, two = history_inputs([rows], 16), history_inputs([other], 16)
    torch.testing.assert_close(pctr.encode(*one), pctr.encode(*two), atol=0, rtol=0)
    assert not torch.equal(pcvr.encode(*one), pcvr.encode(*two))


@pytest.mark.parametrize("changes", [{}, {"pooling": "last_two"}, {"item_history": True}])
@pytest.mark.parametrize("length", [0, 1, 2, 5, 16])
def test_padding_bucket_does_not_show_in_the_state(length: int, changes: dict[str, object]) -> None:
    rows = history(np.random.default_rng(length), length) if length else EMPTY
    pctr, pcvr = models(**changes)
    encode = Encode(pctr, pcvr)
    with torch.inference_mode():
        states = [encode(*history_inputs([rows], bucket)) for bucket in BUCKETS]
    for state in states[1:]:
        # float16 keeps 11 bits: one step of a value below 4 is 0.002.
        torch.testing.assert_close(state.float(), states[0].float(), atol=4e-3, rtol=0)


@pytest.mark.parametrize("item_history", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_user_without_history_has_a_finite_state(batch: int, item_history: bool) -> None:
    pctr, pcvr = models(item_history=item_history)
    inputs = history_inputs([EMPTY] * batch, 32)
    context, request = request_inputs(np.random.default_rng(0), batch)
    state = Encode(pctr, pcvr)(*inputs)
    assert torch.isfinite(state).all()
    for logits in Head(pctr, pcvr)(state, context, request):
        assert torch.isfinite(logits).all()
    assert (pcvr.encode(*inputs) == 0).all()


def test_arrival_order_does_not_show_in_the_state() -> None:
    rng = np.random.default_rng(7)
    rows = history(rng, 30)
    pctr, pcvr = models()
    encode = Encode(pctr, pcvr)
    expected = encode(*history_inputs([rows]))
    for _ in range(3):
        arrived = EMPTY
        for row in rng.permutation(len(rows)):
            arrived = merged(arrived, rows[row : row + 1])
        assert torch.equal(encode(*history_inputs([arrived])), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "last_two", "timestamp_mask": "upto"},
        {"num_layers": 1},
        {"item_history": True},
    ],
)
def test_the_stored_state_is_the_full_computation(changes: dict[str, object]) -> None:
    """`encode` runs the last layer where it is pooled; here every position is computed."""
    rng = np.random.default_rng(2)
    pctr, pcvr = models(**changes)
    inputs = history_inputs([history(rng, n) for n in (3, 9, 16)], 16)
    with torch.inference_mode():
        newest = every_state(pctr, inputs)[:, -1]
        torch.testing.assert_close(pctr.encoder.hidden(*inputs), newest, atol=1e-5, rtol=1e-5)
        embedded = pcvr.encoder.embedding(*inputs)
        visible = (inputs[1] > 0)[:, None, :].expand(-1, 16, -1)
        every = pcvr.encoder.blocks(embedded, visible | torch.eye(16, dtype=torch.bool), 16)
    pooled = []
    for row, length in enumerate((3, 9, 16)):
        last = 2 if pcvr.encoder.pool_last_two else length
        pooled.append(every[row, 16 - last :].mean(0))
    torch.testing.assert_close(
        pcvr.encoder.hidden(*inputs)[:, :16], torch.stack(pooled), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("item_history", [False, True])
def test_whole_model_equals_encode_then_head_to_the_bit(item_history: bool) -> None:
    rng = np.random.default_rng(5)
    pctr, pcvr = models(item_history=item_history)
    for batch, length in itertools.product((1, 4, 7), (0, 5, 40)):
        inputs = history_inputs([history(rng, length) for _ in range(batch)] or [EMPTY])
        context, request = request_inputs(rng, batch)
        with torch.inference_mode():
            split = Head(pctr, pcvr)(Encode(pctr, pcvr)(*inputs), context, request)
            whole = pctr(*inputs, context, request), pcvr(*inputs, context, request)
        for one, two in zip(split, whole, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"item_history": True},
        {"item_history": True, "elapsed": "half_lives", "item_vectors": "compared", "window": 5},
    ],
)
def test_logits_have_the_same_bytes_whatever_else_is_in_the_batch(
    changes: dict[str, object],
) -> None:
    """For batches of 4 and more, at the size that is served, on one thread (`conftest.py`)."""
    rng = np.random.default_rng(6)
    size = tiny_cpu().model
    pctr, pcvr = models(
        d_model=size.d_model,
        num_heads=size.num_heads,
        d_feed_forward=size.d_feed_forward,
        d_head=size.d_head,
        **changes,
    )
    for model in (pctr, pcvr):
        if "item_history" in changes:
            torch.nn.init.normal_(model.item_head.counts_head.output_KU)
    encode, head = Encode(pctr, pcvr), Head(pctr, pcvr)
    histories = [history(rng, 40) for _ in range(64)]
    inputs = history_inputs(histories, 64)
    context, request = request_inputs(rng, 64)

    def hidden(asked: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Before they are rounded to what is stored."""
        return pctr.encoder.hidden(*asked), pcvr.encoder.hidden(*asked)

    with torch.inference_mode():
        whole = hidden(inputs)
        logits = head(encode(*inputs), context, request)
        for batch in (4, 5, 6, 8, 13, 16, 31, 32, 63):
            rows = torch.from_numpy(rng.permutation(64)[:batch])
            chosen = [array[rows] for array in inputs]
            for one, two in zip(hidden(chosen), whole, strict=True):
                assert torch.equal(one, two[rows]), batch
            scored = head(encode(*chosen), context[rows], request[rows])
            for one, two in zip(scored, logits, strict=True):
                assert torch.equal(one, two[rows]), batch


def test_a_flagged_foundation_model_vector_is_ignored() -> None:
    pctr, _ = models()
    context, request = request_inputs(np.random.default_rng(0), 6)
    state = torch.randn(6, 16).half()
    other = context.clone()
    other[:, NUM_STATIC:-1] += 1
    same = (pctr.head(state, context, request) == pctr.head(state, other, request)).all(1)
    assert same.tolist() == (context[:, -1] == 1).tolist()
    other[:, NUM_STATIC:-1] = float("nan")
    assert torch.isfinite(pctr.head(state, other, request)).all(1).tolist() == same.tolist()


def test_without_the_foundation_model_its_vector_and_its_absence_change_nothing() -> None:
    pctr, pcvr = models(use_fm=False)
    context, request = request_inputs(np.random.default_rng(0), 6)
    state = torch.randn(6, 16).half()
    other = context.clone()
    other[:, NUM_STATIC:-1] = float("nan")
    other[:, -1] = 1 - other[:, -1]
    for model in (pctr, pcvr):
        assert torch.equal(model.head(state, context, request), model.head(state, other, request))
        assert not model.item_head.fuse_fm.weight.requires_grad
        assert not model.item_head.fuse_fm.weight.any()
    with_it, _ = models()
    assert not torch.equal(
        with_it.head(state, context, request), with_it.head(state, other.nan_to_num(), request)
    )


def test_a_shared_trunk_is_one_set_of_weights_below_the_last_block() -> None:
    pctr, pcvr = models(shared_trunk=True, num_layers=3)
    own = {id(weight): name for name, weight in pctr.named_parameters()}
    shared = {own[id(weight)] for weight in pcvr.parameters() if id(weight) in own}
    expected = {
        name
        for name in own.values()
        if name.startswith("encoder.embedding") and "order_time" not in name
    } | {
        name
        for name in own.values()
        if name.startswith("encoder.blocks.layers.") and ".2." not in name
    }
    assert shared == expected
    apart = models(num_layers=3)
    assert pcvr.state_dict().keys() == apart[1].state_dict().keys()
    assert not {id(w) for w in apart[0].parameters()} & {id(w) for w in apart[1].parameters()}


def test_window_cuts_the_context() -> None:
    rows = history(np.random.default_rng(8), 14)
    other = rows.copy()
    other["item"][:9] = 777
    pctr, pcvr = models(window=5)
    for model in (pctr, pcvr):
        assert torch.equal(
            model.encode(*history_inputs([rows])), model.encode(*history_inputs([other]))
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"dynamic_fusion": "concat"},
        {"time_encoding": "none"},
        {"time_encoding": "learned"},
    ],
)
def test_alternatives_run(changes: dict[str, object]) -> None:
    pctr, pcvr = models(**changes)
    inputs = history_inputs([history(np.random.default_rng(0), 6)])
    assert torch.isfinite(Encode(pctr, pcvr)(*inputs)).all()


def test_compared_items_start_as_the_history_s_and_count_for_little() -> None:
    pctr, pcvr = models(item_vectors="compared")
    plain = models()
    context, request = request_inputs(np.random.default_rng(0), 3)
    for model, other in zip((pctr, pcvr), plain, strict=True):
        vectors = model.item_head.compared.vectors.weight
        own = model.encoder.embedding.item
        prints = torch.tensor([fingerprint("item", name) for name in ITEMS])
        assert torch.equal(vectors, own(prints))  # before anything is loaded over them
        assert vectors.data_ptr() != own.table.weight.data_ptr()  # served apart
        state = torch.randn(3, 16)
        model.load_state_dict(other.state_dict(), strict=False)
        with torch.inference_mode():
            changed = model.head(state, context, request) - other.head(state, context, request)
            torch.testing.assert_close(changed, 0.1 * state @ vectors.T, atol=1e-5, rtol=1e-4)


def test_an_item_of_the_history_speaks_for_itself_once_it_is_weighted() -> None:
    _, pcvr = models(item_vectors="compared")
    rows = history(np.random.default_rng(1), 6)
    rows["item"] = fingerprint("item", ITEMS[3])
    context, request = request_inputs(np.random.default_rng(0), 1)
    with torch.inference_mode():
        before = pcvr(*history_inputs([rows]), context, request)
        pcvr.encoder.memory.weight.bias.fill_(1.0)
        after = pcvr(*history_inputs([rows]), context, request)
        assert (after - before).argmax().item() == 3
        states = [pcvr.encode(*history_inputs([rows], bucket)) for bucket in BUCKETS]
    for state in states[1:]:  # padding holds no item
        torch.testing.assert_close(state.float(), states[0].float(), atol=4e-3, rtol=0)


def test_time_switch_removes_the_calendar() -> None:
    rows = history(np.random.default_rng(0), 6)
    moved = rows.copy()
    moved["time_ms"] += 7 * 86_400_000 * 5  # whole weeks: F_d stays, week of month may not
    arrays, later = history_inputs([rows]), history_inputs([moved])
    assert torch.equal(arrays[2], later[2])
    off, _ = models(time_encoding="none")
    assert torch.equal(off.encode(*arrays), off.encode(*later))
    for encoding in ("product", "learned"):
        on, _ = models(time_encoding=encoding)
        assert not torch.equal(on.encode(*arrays), on.encode(*later))


def test_recipes_say_what_they_are() -> None:
    large = paper()
    assert (large.model.d_model, large.model.num_layers, large.model.num_heads) == (512, 10, 8)
    assert (large.model.d_feed_forward, large.model.window) == (256, 120)
    training = large.training
    assert (training.learning_rate, training.weight_decay) == (1e-4, 1e-5)
    assert (training.batch_size, training.epochs) == (64, 50)


def test_settings_are_typed_and_unknown_ones_fail() -> None:
    changed = tiny_cpu().with_settings(
        {"d_model": "32", "learning_rate": "0.01", "use_fm": "false", "pooling": "last_two"}
    )
    expected = replace(tiny_cpu().model, d_model=32, use_fm=False, pooling="last_two")
    assert changed.model == expected
    assert changed.training.learning_rate == 0.01
    assert type(changed).from_dict(changed.to_dict()) == changed
    for wrong in (
        {"d_modle": "32"},
        {"d_model": "wide"},
        {"d_model": "30"},
        {"use_fm": "1"},
        {"time_encoding": "cosine"},
        {"page_rate": "0"},
        {"learning_rate": "nan"},
        {"learning_rate": "0"},
        {"weight_decay": "-1"},
        {"gradient_norm": "inf"},
        {"seed": "-1"},
        {"pooling": "max"},
        {"window": "121"},
        {"dropout": "1.0"},
        {"epochs": "0"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            tiny_cpu().with_settings(wrong)

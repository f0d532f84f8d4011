"""Small vocabularies, histories and models that the model tests share."""

import numpy as np
import torch
from torch import Tensor

from features.encoding import CONTEXT_WIDTH, REQUEST_COLUMNS, encode_histories
from features.history import ROW, Rows, bounded, ordered
from features.spec import DAY_MS
from features.vocabulary import Vocabulary, fingerprint
from fintrec.models.config import ModelConfig
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr

START_MS = 1_750_000_000_000
ITEMS = tuple(f"item_{number}" for number in range(7))
NAMES = {
    "product": ("mobile_home", "pgc_marketing"),
    "page": ("home", "offers"),
    "placement": ("top", "side"),
    "layout": ("hero",),
}
VOCABULARY = Vocabulary.build(NAMES, ITEMS)


def config(**changes: object) -> ModelConfig:
    """A very small architecture."""
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_feed_forward": 24, "d_head": 12}
    return ModelConfig(**(sizes | changes))


def history(rng: np.random.Generator, length: int, spread_ms: int = 20 * DAY_MS) -> Rows:
    """A history of digital interactions, some of them with equal timestamps."""
    rows = np.zeros(length, ROW)
    times = START_MS + rng.integers(0, spread_ms, max(1, length * 2 // 3))
    rows["time_ms"] = rng.choice(times, length)
    rows["event"] = rng.integers(1, 1 << 62, length)
    known = [fingerprint("item", name) for name in (*ITEMS, "unheard_of", "")]
    rows["item"] = rng.choice(known, length)
    for field, names in NAMES.items():
        rows[field] = rng.choice([fingerprint(field, name) for name in names], length)
    rows["action"] = rng.integers(2, 8, length)
    rows["channel"] = rng.integers(2, 4, length)
    rows["device"] = rng.integers(2, 5, length)
    rows["position"] = rng.integers(0, 6, length)
    return bounded(ordered(rows))


def history_inputs(
    histories: list[Rows], bucket: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """tokens, times, dynamic of a batch."""
    arrays = encode_histories(histories, bucket).arrays
    return (
        torch.from_numpy(arrays.tokens_BTC),
        torch.from_numpy(arrays.times_BT),
        torch.from_numpy(arrays.dynamic_BTF),
    )


def request_inputs(rng: np.random.Generator, batch: int) -> tuple[Tensor, Tensor]:
    """context, request of a batch; every third user has no foundation-model vector."""
    context = rng.normal(size=(batch, CONTEXT_WIDTH)).astype(np.float16)
    context[:, -1] = np.arange(batch) % 3 == 0
    request = np.zeros((batch, len(REQUEST_COLUMNS)), np.int64)
    for column, field in enumerate(REQUEST_COLUMNS[:4]):
        prints = [fingerprint(field, name) for name in (*NAMES[field], "unheard_of")]
        request[:, column] = rng.choice(prints, batch)
    request[:, 4] = rng.integers(0, 5, batch)
    request[:, 5] = rng.integers(0, 5, batch)
    request[:, 6] = START_MS + 21 * DAY_MS + rng.integers(0, DAY_MS, batch)
    request[:, 7] = np.where(np.arange(batch) % 4 == 0, 0, START_MS + 20 * DAY_MS)
    return torch.from_numpy(context), torch.from_numpy(request)


def models(seed: int = 0, **changes: object) -> tuple[Pctr, Pcvr]:
    """Both models, untrained, in evaluation mode."""
    torch.manual_seed(seed)
    chosen = config(**changes)
    return Pctr(VOCABULARY, chosen).eval(), Pcvr(VOCABULARY, chosen).eval()

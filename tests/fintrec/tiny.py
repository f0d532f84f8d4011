"""Small vocabularies, histories and models that the model tests share."""

import numpy as np
import torch
from torch import Tensor

from features.encoding import CONTEXT_WIDTH, REQUEST_COLUMNS, encode_histories
from features.history import ROW, Rows, bounded, ordered
from features.spec import DAY_MS, NUM_STATIC
from features.vocabulary import Vocabulary, code, fingerprint
from fintrec.datasets import Decisions, TrainingSet
from fintrec.models.config import ModelConfig
from fintrec.models.pctr import Pctr
from fintrec.models.pcvr import Pcvr
from fintrec.models.trunk import build_models

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
    pctr, pcvr = build_models(VOCABULARY, config(**changes))
    return pctr.eval(), pcvr.eval()


def training_set(num_users: int = 24, seed: int = 0) -> TrainingSet:
    """A hand-made bank: every user clicks the items of one habit, and converts on what was clicked.

    Pages are shown every other day, three items each; the last fifth of the days is validation,
    then test. The page itself joins the log after it was decided.
    """
    rng = np.random.default_rng(seed)
    pages: list[dict[str, object]] = []
    logs = []
    for user in range(num_users):
        habit = {user % len(ITEMS), (user + 3) % len(ITEMS)}
        rows = np.zeros(0, ROW)
        for day in range(30):
            time_ms = START_MS + day * DAY_MS + int(rng.integers(0, DAY_MS // 2))
            shown = rng.choice(len(ITEMS), 3, replace=False)
            clicked = [int(item) in habit and rng.random() < 0.8 for item in shown]
            converted = [int(i) for i, c in zip(shown, clicked, strict=True) if c and i % 2]
            pages.append(
                {
                    "user": user,
                    "end": len(rows),
                    "time_ms": time_ms,
                    "day": day,
                    "shown": [*shown.tolist(), -1, -1],
                    "clicked": [*clicked, False, False],
                    "converted": converted,
                    "last": int(rows["time_ms"][-1]) if len(rows) else 0,
                }
            )
            rows = np.concatenate((rows, _page_rows(rng, time_ms, shown, clicked)))
        logs.append(ordered(rows))
    splits = [
        [page for page in pages if first <= page["day"] < last]  # type: ignore[operator]
        for first, last in ((0, 22), (22, 26), (26, 30))
    ]
    return TrainingSet(
        items=ITEMS,
        content_types=("marketing",) * 4 + ("servicing",) * 3,
        vocabulary=VOCABULARY,
        logs=logs,
        train=_decisions(splits[0]),
        validation=_decisions(splits[1]),
        test=_decisions(splits[2]),
        exclusions={"opted_out": 0},
        window_ms=np.full(len(ITEMS), DAY_MS),
    )


def _page_rows(
    rng: np.random.Generator, time_ms: int, shown: np.ndarray, clicked: list[bool]
) -> Rows:
    items = [*shown.tolist(), *(i for i, c in zip(shown.tolist(), clicked, strict=True) if c)]
    rows = np.zeros(len(items), ROW)
    rows["time_ms"] = time_ms
    rows["time_ms"][len(shown) :] += 5000 + np.arange(len(items) - len(shown)) * 1000
    rows["event"] = rng.integers(1, 1 << 62, len(items))
    rows["item"] = [fingerprint("item", ITEMS[item]) for item in items]
    rows["page"] = fingerprint("page", "home")
    rows["action"] = [code("action", "impression")] * len(shown) + [code("action", "click")] * (
        len(items) - len(shown)
    )
    rows["channel"] = code("channel", "web")
    return rows


def _decisions(pages: list[dict[str, object]]) -> Decisions:
    def column(name: str, dtype: str) -> np.ndarray:
        return np.array([page[name] for page in pages], dtype)

    request = np.zeros((len(pages), len(REQUEST_COLUMNS)), np.int64)
    request[:, 1] = fingerprint("page", "home")
    request[:, 6] = column("time_ms", "i8")
    request[:, 7] = column("last", "i8")
    converted = [page["converted"] for page in pages]
    static = np.zeros((len(pages), NUM_STATIC), np.float16)
    static[np.arange(len(pages)), column("user", "i8") % len(ITEMS)] = 1  # tells the habit
    return Decisions(
        user=column("user", "i4"),
        end=column("end", "i4"),
        time_ms=column("time_ms", "i8"),
        request=request,
        static=static,
        shown=column("shown", "i4").reshape(-1, 5),
        clicked=column("clicked", "?").reshape(-1, 5),
        converted_indptr=np.cumsum([0, *(len(c) for c in converted)]).astype(np.int64),  # type: ignore[arg-type]
        converted_items=np.array([i for c in converted for i in c], np.int32),  # type: ignore[union-attr]
    )

"""An exported version computes what its checkpoint computes: checked before anybody is served by it.

Both run on histories and pages drawn at random from the vocabulary, unknown names among them.

Shapes: B batch
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from features.encoding import REQUEST_COLUMNS, encode_histories
from features.errors import ConfigurationError
from features.history import ROW, WINDOW, Rows, bounded, ordered
from features.spec import CONTEXT_WIDTH, DAY_MS
from features.vocabulary import CLOSED_FIELDS, Vocabulary, fingerprint
from fintrec.checkpoint import Checkpoint
from fintrec.export import load_script, served_modules
from fintrec.models.served import Head

LENGTHS: Final = (0, 3, 40, WINDOW)  # of the histories of a batch
TOLERANCE: Final = 1e-5
_NOW_MS: Final = 1_795_900_000_000
_POSITIONS: Final = 6


def check_parity(checkpoint: Checkpoint, scripts: Mapping[str, Path]) -> float:
    """The largest difference of any output; ConfigurationError if it is above TOLERANCE.

    `scripts` is the TorchScript file of each served model.
    """
    rng = np.random.default_rng(0)
    largest = 0.0
    for name, module in served_modules(checkpoint).items():
        path = scripts[name]
        script = load_script(path)
        for _ in range(2):
            inputs = _inputs(name, checkpoint, rng)
            with torch.inference_mode():
                expected, found = (_outputs(run(*inputs)) for run in (module, script))
            for one, other in zip(expected, found, strict=True):
                if not (torch.isfinite(one).all() and torch.isfinite(other).all()):
                    raise ConfigurationError(
                        f"{path}: gives logits or states that are not finite, expected numbers"
                    )
                largest = max(largest, float((one.float() - other.float()).abs().max()))
        if not largest <= TOLERANCE:
            raise ConfigurationError(
                f"{path}: differs from its checkpoint by {largest:g}, expected at most "
                f"{TOLERANCE:g}: not the same models"
            )
    return largest


def _outputs(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _inputs(name: str, checkpoint: Checkpoint, rng: np.random.Generator) -> tuple[Tensor, ...]:
    vocabulary = checkpoint.vocabulary
    page = _page(rng, vocabulary)
    if name == "head":
        head = served_modules(checkpoint)["head"]
        assert isinstance(head, Head)
        state = torch.from_numpy(rng.normal(size=(len(LENGTHS), head.state_width)))
        return (state.half(), *page)
    arrays = encode_histories([_history(rng, vocabulary, n) for n in LENGTHS]).arrays
    history = (
        torch.from_numpy(arrays.tokens_BTC),
        torch.from_numpy(arrays.times_BT),
        torch.from_numpy(arrays.dynamic_BTF),
    )
    return history if name == "encode" else (*history, *page)


def _history(rng: np.random.Generator, vocabulary: Vocabulary, length: int) -> Rows:
    rows = np.zeros(length, ROW)
    rows["time_ms"] = _NOW_MS - rng.integers(0, 30 * DAY_MS, length)
    rows["event"] = rng.integers(1, 1 << 62, length)
    for field, names in _open_names(vocabulary).items():
        rows[field] = rng.choice([fingerprint(field, name) for name in names], length)
    for field, closed in CLOSED_FIELDS.items():
        rows[field] = rng.integers(0, len(closed), length)
    rows["position"] = rng.integers(0, _POSITIONS, length)
    return bounded(ordered(rows))


def _page(rng: np.random.Generator, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Context and request of a batch."""
    context = rng.normal(size=(len(LENGTHS), CONTEXT_WIDTH)).astype(np.float16)
    request = np.zeros((len(LENGTHS), len(REQUEST_COLUMNS)), np.int64)
    names = _open_names(vocabulary)
    for column, field in enumerate(REQUEST_COLUMNS):
        if field in names:
            prints = [fingerprint(field, name) for name in names[field]]
            request[:, column] = rng.choice(prints, len(LENGTHS))
        elif field in CLOSED_FIELDS:
            request[:, column] = rng.integers(0, len(CLOSED_FIELDS[field]), len(LENGTHS))
    request[:, REQUEST_COLUMNS.index("time_ms")] = _NOW_MS
    request[:, REQUEST_COLUMNS.index("last_event_ms")] = _NOW_MS - rng.integers(1, DAY_MS, 4)
    return torch.from_numpy(context), torch.from_numpy(request)


def _open_names(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    known = {field: tuple(names) for field, names in vocabulary.names.items()}
    return {
        field: (*names, "unheard of")
        for field, names in (known | {"item": vocabulary.items}).items()
        if field in (ROW.names or ())
    }

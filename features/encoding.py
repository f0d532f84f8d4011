"""The one encoder: user states and requests to the arrays that the models read.

Used unchanged by training, evaluation, explanation and both workers. Arrays are left padded to a
length bucket, so the newest interaction always stands last and Triton can batch equal shapes.
Nothing here depends on a model version: fitted constants and vocabularies live in the artefact.

Shapes: B batch, T bucket length.

    tokens_BTC   int32    TOKEN_COLUMNS; open names as fingerprints, closed names as codes; 0 padding
    times_BT     int64    event time in ms, 0 padding
    dynamic_BTF  float16  F_d(t) through `squash`, registry order; 0 padding
    visits_BT    int32    visit number within the user's window, -1 padding (explanation only)
    context_BX   float16  F_s (NUM_STATIC), F_fm (FM_WIDTH), 1 if F_fm is missing
    request_BR   int64    REQUEST_COLUMNS
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.dynamic import dynamic_features, visits
from features.history import ROW, WINDOW, Rows, concatenated
from features.records import SlateRequest
from features.spec import CONTEXT_WIDTH, ENROLLMENTS, FM_WIDTH, NUM_DYNAMIC, NUM_STATIC
from features.vocabulary import code, fingerprint

TOKEN_COLUMNS: Final = (
    "item",
    "product",
    "page",
    "placement",
    "layout",
    "action",
    "channel",
    "device",
    "position",
    "order",
)
REQUEST_COLUMNS: Final = (
    "product",
    "page",
    "placement",
    "layout",
    "channel",
    "device",
    "time_ms",
    "last_event_ms",
)
BUCKETS: Final = (16, 32, 64, WINDOW)

# Where the token columns stand in a ROW: open names as 32-bit words, closed names as bytes.
_OFFSETS: Final = {name: field[1] for name, field in (ROW.fields or {}).items()}
_OPEN, _OPEN_WORDS = slice(0, 5), slice(_OFFSETS["item"] // 4, _OFFSETS["layout"] // 4 + 1)
_CLOSED, _CLOSED_BYTES = slice(5, 9), slice(_OFFSETS["action"], _OFFSETS["position"] + 1)
_ROWS_AT_ONCE: Final = 1000  # about; so that what is worked on stays in a processor's cache
_HALF_SCALE: Final = np.float32(2.0**-112)


class HistoryArrays(NamedTuple):
    """Encoded histories of a batch; see the module for shapes."""

    tokens_BTC: npt.NDArray[np.int32]
    times_BT: npt.NDArray[np.int64]
    dynamic_BTF: npt.NDArray[np.float16]
    visits_BT: npt.NDArray[np.int32]


class EncodedHistories(NamedTuple):
    """Arrays of a batch and F_d as of each user's last row, (B, NUM_DYNAMIC) int64."""

    arrays: HistoryArrays
    latest_BF: npt.NDArray[np.int64]


def squash(features: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
    """Signed log: sign(x) * log(1 + |x|); every count, cent and millisecond fits a float16."""
    values = features.astype(np.float32)
    signs = (values.view(np.uint32) >> 16) & 0x8000
    np.log1p(np.abs(values, out=values), out=values)
    # To the nearest half by hand, several times as fast as `astype` where a processor has no
    # instruction for it: scaling by 2^-112 puts the exponent where a half has it, then 13 bits
    # are rounded away, ties to even.
    values *= _HALF_SCALE
    bits = values.view(np.uint32)
    bits += ((bits >> 13) & 1) + 0x0FFF
    bits >>= 13
    bits |= signs
    return bits.astype(np.uint16).view(np.float16)


def bucket_of(length: int) -> int:
    """Smallest bucket that holds `length` rows."""
    for size in BUCKETS:
        if length <= size:
            return size
    raise ValueError(f"history has {length} rows, a model's window has {WINDOW}")


def encode_histories(histories: Sequence[Rows], bucket: int | None = None) -> EncodedHistories:
    """Encode bounded histories (`features/history.py`), each user's newest WINDOW rows.

    `bucket` forces a length (it must hold the longest window); by default the smallest that fits.
    F_d is computed over the whole retained history, then cut to the window.
    """
    lengths = np.array([len(rows) for rows in histories], np.int64)
    longest = int(min(lengths.max(initial=0), WINDOW))
    size = bucket_of(longest) if bucket is None else bucket
    if size < longest:
        raise ValueError(f"bucket={size} is shorter than the longest window, {longest} rows")
    batch = len(histories)
    arrays = HistoryArrays(
        np.zeros((batch, size, len(TOKEN_COLUMNS)), np.int32),
        np.zeros((batch, size), np.int64),
        np.zeros((batch, size, NUM_DYNAMIC), np.float16),
        np.full((batch, size), -1, np.int32),
    )
    latest = np.zeros((batch, NUM_DYNAMIC), np.int64)
    borders = np.flatnonzero(np.diff(np.cumsum(lengths) // _ROWS_AT_ONCE)) + 1
    for start, end in pairwise((0, *borders.tolist(), batch)):
        part = slice(start, end)
        if lengths[part].any():
            views = HistoryArrays(
                arrays.tokens_BTC[part],
                arrays.times_BT[part],
                arrays.dynamic_BTF[part],
                arrays.visits_BT[part],
            )
            latest[part] = _encode_part(histories[part], lengths[part], views)
    return EncodedHistories(arrays, latest)


def _encode_part(
    histories: Sequence[Rows], lengths: npt.NDArray[np.int64], arrays: HistoryArrays
) -> npt.NDArray[np.int64]:
    """Fill the arrays of a few users; their latest F_d, (B, NUM_DYNAMIC)."""
    rows = concatenated(histories)
    found = visits(rows, lengths)
    window = np.minimum(lengths, WINDOW)
    ends = np.cumsum(window)
    present = np.flatnonzero(lengths)
    user = np.repeat(np.arange(len(lengths)), window)
    from_end = ends[user] - np.arange(len(user))  # 1 for the newest row
    kept = np.cumsum(lengths)[user] - from_end
    at = (user + 1) * arrays.times_BT.shape[1] - from_end

    words = rows.view(np.int32).reshape(len(rows), -1).take(kept, axis=0)
    tokens = np.empty((len(kept), len(TOKEN_COLUMNS)), np.int32)
    tokens[:, _OPEN] = words[:, _OPEN_WORDS]
    tokens[:, _CLOSED] = words.view(np.uint8)[:, _CLOSED_BYTES]
    tokens[:, -1] = found.order[kept]
    arrays.tokens_BTC.reshape(-1, len(TOKEN_COLUMNS))[at] = tokens
    arrays.times_BT.reshape(-1)[at] = rows["time_ms"][kept]
    dynamic = dynamic_features(rows, lengths, found, kept)
    arrays.dynamic_BTF.reshape(-1, NUM_DYNAMIC)[at] = squash(dynamic)
    visit = found.visit[kept]
    first_visit = np.zeros(len(lengths), np.int64)
    first_visit[present] = np.minimum.reduceat(visit, (ends - window)[present])
    arrays.visits_BT.reshape(-1)[at] = visit - first_visit[user]

    latest = np.zeros((len(lengths), NUM_DYNAMIC), np.int64)
    latest[present] = dynamic[ends[present] - 1]
    return latest


def encode_static(
    enrollments: Sequence[str], tenure_days: Sequence[int], tenure_bank_days: int
) -> npt.NDArray[np.float16]:
    """F_s of one user, (NUM_STATIC,): enrollments multi-hot, squashed tenures, 0 = not missing.

    `tenure_days` follows ENROLLMENTS. An enrollment outside ENROLLMENTS is ignored here; the
    border of the nightly batch reports it.
    """
    if len(tenure_days) != len(ENROLLMENTS):
        raise ValueError(f"tenure_days has {len(tenure_days)} entries, expected {len(ENROLLMENTS)}")
    owned = np.array([[name in enrollments for name in ENROLLMENTS]])
    tenures = np.array([[*tenure_days, tenure_bank_days]], np.int64)
    vector: npt.NDArray[np.float16] = encode_static_rows(owned, tenures)[0]
    return vector


def encode_static_rows(
    owned_BN: npt.NDArray[np.bool_], tenures_BN: npt.NDArray[np.int64]
) -> npt.NDArray[np.float16]:
    """F_s of many users, (B, NUM_STATIC): what is owned of ENROLLMENTS; tenures, the bank's last."""
    present = np.zeros((len(owned_BN), 1), np.float16)
    return np.concatenate((owned_BN.astype(np.float16), squash(tenures_BN), present), axis=1)


def missing_static() -> npt.NDArray[np.float16]:
    """F_s of a user without nightly features: zeros and the missing flag."""
    vector = np.zeros(NUM_STATIC, np.float16)
    vector[-1] = 1
    return vector


def encode_context(
    static_BS: npt.NDArray[np.float16], fm_BE: Sequence[npt.NDArray[np.float16] | None]
) -> npt.NDArray[np.float16]:
    """Context of a batch, (B, CONTEXT_WIDTH): F_s, F_fm (zeros where None), missing flag."""
    context = np.zeros((len(fm_BE), CONTEXT_WIDTH), np.float16)
    context[:, :NUM_STATIC] = static_BS
    for row, vector in enumerate(fm_BE):
        if vector is None:
            context[row, -1] = 1
        else:
            context[row, NUM_STATIC : NUM_STATIC + FM_WIDTH] = vector
    return context


@lru_cache(maxsize=65_536)
def _place(product: str, page: str, placement: str, layout: str) -> tuple[int, int, int, int]:
    return (
        fingerprint("product", product),
        fingerprint("page", page),
        fingerprint("placement", placement),
        fingerprint("layout", layout),
    )


def encode_request(request: SlateRequest, last_event_ms: int) -> tuple[int, ...]:
    """One row of request_BR: where and when the slate will be shown (REQUEST_COLUMNS).

    `last_event_ms` is the newest event that the hidden states have seen, 0 for none.
    """
    return (
        *_place(request.product, request.page, request.placement, request.layout),
        code("channel", request.channel),
        code("device", request.device),
        request.event_time_ms,
        last_event_ms,
    )

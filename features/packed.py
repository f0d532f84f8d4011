"""The packed user state: everything the hot path reads, as one value (serving path, section 10).

Little endian. Fixed 80-byte header, then sections whose lengths the header tells:

    0  magic u16           2  layout u16         4  model u32 (version of the hidden states, 0 none)
    8  version u64         events folded so far
   16  state_version u64   events the hidden states have seen
   24  last_event_ms i64   newest event time     32  state_event_ms i64  of the hidden states
   40  static_ms i64       cut-off of F_s, 0 none
   48  night_ms i64        night of F_fm, 0 none
   56  registry u32        of features/spec.py    60  rows u16  62 offsets u8  63 consents u8
   64  state_width u16     66  fm_width u16       68  enrollments u32 (bit i = ENROLLMENTS[i])
   72  tenure_days u32     76  spare

    hidden states  f16[state_width]     h_ctr | h_cvr
    F_s            f16[NUM_STATIC]
    F_fm           f16[fm_width]        absent while there is no foundation model
    consents       CONSENT[consents]
    offsets        OFFSET[offsets]      last applied offset per event topic
    history        ROW[rows]

The version stands inside the value, so that a writer that knows nothing of it (Feast's own) can
never leave the two apart; the store compares bytes 8..16 before it takes a write.
"""

import struct
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.encoding import missing_static
from features.errors import StateCorrupt
from features.history import EMPTY, ROW, Rows
from features.spec import NUM_STATIC, registry_fingerprint

MAGIC: Final = 0xF17
LAYOUT: Final = 1
REGISTRY: Final = int(registry_fingerprint()[:8], 16)
HEADER: Final = struct.Struct("<HHIQQqqqqIHBBHHII4x")
HEADER_BYTES: Final = HEADER.size
VERSION_OFFSET: Final = 8
_REGISTRY_PLACE: Final = 7  # among the fields behind magic and layout

CONSENT: Final = np.dtype(
    [
        ("effective_from_ms", "<i8"),
        ("event_time_ms", "<i8"),
        ("marketing", "u1"),
        ("spare", "u1", 7),
    ]
)
OFFSET: Final = np.dtype([("partition", "<i4"), ("topic", "<i4"), ("offset", "<i8")])
NO_CONSENT: Final = np.empty(0, CONSENT)
NO_OFFSETS: Final = np.empty(0, OFFSET)

Halfs = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class UserState:
    """A user's state as the workers hold it; immutable, each fold makes a new one."""

    version: int = 0
    state_version: int = 0
    model: int = 0
    last_event_ms: int = 0
    state_event_ms: int = 0
    static_ms: int = 0
    night_ms: int = 0
    enrollments: int = 0
    tenure_days: int = 0
    hidden: Halfs = field(default_factory=lambda: np.empty(0, np.float16))
    static: Halfs = field(default_factory=missing_static)
    fm: Halfs = field(default_factory=lambda: np.empty(0, np.float16))
    consents: npt.NDArray[np.void] = field(default_factory=lambda: NO_CONSENT)
    offsets: npt.NDArray[np.void] = field(default_factory=lambda: NO_OFFSETS)
    history: Rows = field(default_factory=lambda: EMPTY)

    def with_hidden(self, hidden: Halfs, model: int) -> "UserState":
        """The state with hidden states that have seen its whole history."""
        return replace(
            self,
            hidden=hidden,
            model=model,
            state_version=self.version,
            state_event_ms=self.last_event_ms,
        )


class Header(NamedTuple):
    """The head of a packed state, without its arrays."""

    model: int
    version: int
    state_version: int
    last_event_ms: int
    state_event_ms: int
    static_ms: int
    night_ms: int
    num_rows: int
    num_offsets: int
    num_consents: int
    state_width: int
    fm_width: int
    enrollments: int
    tenure_days: int

    @property
    def size(self) -> int:
        """Length of the whole value in bytes."""
        halfs = 2 * (self.state_width + NUM_STATIC + self.fm_width)
        tables = self.num_consents * CONSENT.itemsize + self.num_offsets * OFFSET.itemsize
        return HEADER_BYTES + halfs + tables + self.num_rows * ROW.itemsize


def read_header(packed: bytes) -> Header:
    """Header of a packed state; StateCorrupt when it is none of ours or of another registry."""
    if len(packed) < HEADER_BYTES:
        raise StateCorrupt(f"got {len(packed)} bytes, expected at least {HEADER_BYTES}")
    magic, layout, *head = HEADER.unpack_from(packed)
    if (magic, layout) != (MAGIC, LAYOUT):
        raise StateCorrupt(f"magic, layout = {magic:#x}, {layout}, expected {MAGIC:#x}, {LAYOUT}")
    registry = head.pop(_REGISTRY_PLACE)
    if registry != REGISTRY:
        raise StateCorrupt(f"state of feature registry {registry:#x}, expected {REGISTRY:#x}")
    header = Header._make(head)
    if len(packed) != header.size:
        raise StateCorrupt(f"got {len(packed)} bytes, its header tells {header.size}")
    return header


def pack(state: UserState) -> bytes:
    """Bytes of a state."""
    header = HEADER.pack(
        MAGIC,
        LAYOUT,
        state.model,
        state.version,
        state.state_version,
        state.last_event_ms,
        state.state_event_ms,
        state.static_ms,
        state.night_ms,
        REGISTRY,
        len(state.history),
        len(state.offsets),
        len(state.consents),
        len(state.hidden),
        len(state.fm),
        state.enrollments,
        state.tenure_days,
    )
    parts = (state.hidden, state.static, state.fm, state.consents, state.offsets, state.history)
    return b"".join((header, *(part.tobytes() for part in parts)))


def unpack(packed: bytes) -> UserState:
    """State of bytes; arrays are read-only views of them. StateCorrupt as `read_header`."""
    head = read_header(packed)
    fm_start = head.state_width + NUM_STATIC
    halfs = np.frombuffer(packed, np.float16, fm_start + head.fm_width, HEADER_BYTES)
    at = HEADER_BYTES + halfs.nbytes
    consents = np.frombuffer(packed, CONSENT, head.num_consents, at)
    at += consents.nbytes
    offsets = np.frombuffer(packed, OFFSET, head.num_offsets, at)
    history = np.frombuffer(packed, ROW, head.num_rows, at + offsets.nbytes)
    return UserState(
        version=head.version,
        state_version=head.state_version,
        model=head.model,
        last_event_ms=head.last_event_ms,
        state_event_ms=head.state_event_ms,
        static_ms=head.static_ms,
        night_ms=head.night_ms,
        enrollments=head.enrollments,
        tenure_days=head.tenure_days,
        hidden=halfs[: head.state_width],
        static=halfs[head.state_width : fm_start],
        fm=halfs[fm_start:],
        consents=consents,
        offsets=offsets,
        history=history,
    )

import struct
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.consent import with_consent
from features.errors import StateCorrupt
from features.packed import (
    HEADER_BYTES,
    NO_CONSENT,
    OFFSET,
    VERSION_OFFSET,
    UserState,
    pack,
    read_header,
    unpack,
)
from features.records import Consent
from features.spec import FM_WIDTH, NUM_STATIC
from tests.features.timelines import histories, minutes

u32, u64, instants = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 1 << 42)


def halfs(width: int) -> st.SearchStrategy[np.ndarray]:
    return st.integers(0, 1 << 32).map(
        lambda seed: np.random.default_rng(seed).normal(size=width).astype(np.float16)
    )


@st.composite
def states(draw: st.DrawFn) -> UserState:
    consents = NO_CONSENT
    for at in draw(st.lists(instants, max_size=4)):
        record = Consent(
            user_id="u", event_time_ms=at, marketing="granted", effective_from_ms=at // 2
        )
        consents = with_consent(consents, record)
    offsets = draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 4), instants), max_size=9))
    return UserState(
        version=draw(u64),
        state_version=draw(u64),
        model=draw(u32),
        last_event_ms=draw(instants),
        state_event_ms=draw(instants),
        static_ms=draw(instants),
        night_ms=draw(instants),
        enrollments=draw(u32),
        tenure_days=draw(u32),
        hidden=draw(st.sampled_from([0, 8, 128]).flatmap(halfs)),
        static=draw(halfs(NUM_STATIC)),
        fm=draw(st.sampled_from([0, FM_WIDTH]).flatmap(halfs)),
        consents=consents,
        offsets=np.array(offsets, OFFSET),
        history=draw(histories()),
    )


def assert_same(one: UserState, other: UserState) -> None:
    for field in fields(UserState):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            assert left.tobytes() == right.tobytes(), field.name
        else:
            assert (left, type(left)) == (right, type(right)), field.name


@settings(max_examples=60)
@given(states())
def test_a_state_comes_back_as_it_was_packed(state):
    packed = pack(state)
    assert_same(unpack(packed), state)
    assert pack(unpack(packed)) == packed
    assert read_header(packed).size == len(packed)


@settings(max_examples=30)
@given(states(), st.data())
def test_a_truncated_state_is_corrupt(state, data):
    packed = pack(state)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(StateCorrupt, match=f"got {cut} bytes"):
        unpack(packed[:cut])


def test_a_new_state_is_the_header_and_missing_static_features():
    packed = pack(UserState())
    assert len(packed) == HEADER_BYTES + 2 * NUM_STATIC
    assert_same(unpack(packed), UserState())


def test_a_state_with_something_behind_it_is_corrupt():
    packed = pack(UserState(history=minutes("c0")))
    with pytest.raises(StateCorrupt, match=f"got {len(packed) + 1} bytes, its header tells"):
        unpack(packed + b"\0")


@pytest.mark.parametrize(
    ("place", "message"),
    [(0, "magic, layout = 0xffff"), (2, "magic, layout = 0xf17, 65535"), (56, "feature registry")],
)
def test_a_state_of_another_making_is_corrupt_and_says_why(place, message):
    packed = bytearray(pack(UserState()))
    packed[place : place + 2] = b"\xff\xff"
    with pytest.raises(StateCorrupt, match=message):
        unpack(bytes(packed))


@pytest.mark.parametrize("place", [60, 62, 63, 64, 66])
def test_a_header_that_tells_another_length_is_corrupt(place):
    packed = bytearray(pack(UserState(version=3, history=minutes("c0 c1"))))
    packed[place] += 1
    with pytest.raises(StateCorrupt, match="its header tells"):
        unpack(bytes(packed))


def test_the_version_stands_where_the_store_compares_it():
    packed = pack(UserState(version=0x0102030405060708))
    assert struct.unpack_from("<Q", packed, VERSION_OFFSET) == (0x0102030405060708,)


def test_hidden_states_are_stamped_with_what_they_have_seen():
    state = UserState(version=7, last_event_ms=99, history=minutes("c0"))
    seen = state.with_hidden(np.ones(4, np.float16), model=3)
    assert (seen.state_version, seen.state_event_ms, seen.model) == (7, 99, 3)
    assert_same(
        replace(seen, hidden=state.hidden, state_version=0, state_event_ms=0, model=0), state
    )


def test_an_unpacked_state_cannot_be_changed_in_place():
    state = unpack(pack(UserState(history=minutes("c0"))))
    with pytest.raises(ValueError, match="read-only"):
        state.history["cents"] = 1

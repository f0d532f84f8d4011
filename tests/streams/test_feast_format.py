"""The hand-made encoders against Feast's own functions and messages."""

import math
import struct

import numpy as np
import pytest
from feast.infra.online_stores.helpers import _mmh3, _redis_key, _redis_key_prefix
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from features.errors import StateCorrupt
from streams import feast_format
from tests.feast_rows import to_value

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)


@given(st.text(), st.sampled_from(["user_id", "item_id"]), st.text("abc_1", min_size=1))
def test_entity_keys_are_feasts_and_can_be_read_back(
    value: str, join_key: str, project: str
) -> None:
    key = feast_format.entity_key(project, join_key, value)
    message = EntityKey(join_keys=[join_key], entity_values=[Value(string_val=value)])
    assert key == _redis_key(project, message, 3)
    assert key.startswith(_redis_key_prefix([join_key]))
    assert feast_format.entity_of(key, project, join_key) == value
    assert feast_format.entity_of(key, "my" + project, join_key) is None
    assert feast_format.entity_of(key, project, "other_id") is None


@given(st.text(), st.text())
def test_hash_fields_are_feasts(view: str, feature: str) -> None:
    assert feast_format.feature_field(view, feature) == _mmh3(f"{view}:{feature}")


@given(INT64 | st.integers(-2, 2000))
def test_int64_messages_are_feasts(number: int) -> None:
    message = feast_format.encode_int64(number)
    assert message == Value(int64_val=number).SerializeToString()
    assert feast_format.decode(message, "int64") == number


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_an_integer_that_does_not_fit_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        feast_format.encode_int64(number)


@given(st.binary(max_size=300))
def test_bytes_messages_are_feasts(value: bytes) -> None:
    message = feast_format.encode_bytes(value)
    assert message == Value(bytes_val=value).SerializeToString()
    assert feast_format.bytes_payload(message) == value
    assert feast_format.decode(message, "bytes") == value


@pytest.mark.parametrize("size", [127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_long_bytes_keep_their_prefix_apart(size: int) -> None:
    message = Value(bytes_val=bytes(size)).SerializeToString()
    assert feast_format.bytes_payload(message) == bytes(size)
    assert feast_format.encode_bytes(bytes(size)) == message


def test_only_a_bytes_message_has_a_bytes_payload() -> None:
    for message in (None, b"", Value(string_val="x").SerializeToString()):
        assert feast_format.bytes_payload(message) is None


@given(st.text())
def test_string_messages_are_feasts(value: str) -> None:
    message = feast_format.encode_string(value)
    assert message == Value(string_val=value).SerializeToString()
    assert feast_format.decode(message, "string") == value


@given(FLOAT32)
def test_floats_are_read_as_feast_wrote_them(value: float) -> None:
    found = feast_format.decode(to_value("float32", value).SerializeToString(), "float32")
    assert found == value
    assert isinstance(found, float)
    assert math.copysign(1, found) == math.copysign(1, value)


@given(st.lists(st.text(max_size=20), max_size=9))
def test_string_lists_are_read_as_feast_wrote_them(values: list[str]) -> None:
    message = to_value("string_list", values).SerializeToString()
    assert feast_format.decode(message, "string_list") == values


@given(st.lists(FLOAT32, max_size=70))
def test_float_lists_are_read_as_feast_wrote_them(values: list[float]) -> None:
    found = feast_format.decode(
        to_value("float32_list", values).SerializeToString(), "float32_list"
    )
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(values, np.float32))


@given(st.integers(0, 253_402_300_799_999))
def test_timestamps_are_protobufs(time_ms: int) -> None:
    message = feast_format.encode_timestamp(time_ms)
    expected = Timestamp()
    expected.FromMilliseconds(time_ms)
    assert message == expected.SerializeToString()
    assert feast_format.decode_timestamp(message) == time_ms


def test_a_timestamp_before_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 ms"):
        feast_format.encode_timestamp(-1)


def test_an_empty_message_is_an_absent_value() -> None:
    assert feast_format.decode(Value().SerializeToString(), "int64") is None


def test_damaged_messages_are_refused() -> None:
    for message, dtype in (
        (b"\x20\x80", "int64"),
        (b"\x12\x05abc", "string"),
        (b"\x12\x01\xff", "string"),
        (b"\x35\x00", "float32"),
        (b"\x62\x09\x0a\x01a", "string_list"),
        (b"\x82\x01\x06\x0a\x04" + struct.pack("<f", 1)[:2], "float32_list"),
        (Value(double_val=1.0).SerializeToString(), "int64"),
    ):
        with pytest.raises(StateCorrupt):
            feast_format.decode(message, dtype)
    for stamp in (b"\x08", b"\x08\xff", b"\x1a\x01"):
        with pytest.raises(StateCorrupt):
            feast_format.decode_timestamp(stamp)

"""Feast's online format for Redis, encoded and decoded by hand for the hot path.

One hash per entity: key = serialized entity key (version 3) + project; per feature a field
murmur3("view:feature") holding a `feast.types.Value` message; per view a field `_ts:view` holding
a `google.protobuf.Timestamp`. Source: Feast's online store format specification. Importing Feast
costs seconds, its message classes several microseconds a value; the tests hold both against it.
"""

import struct
from collections.abc import Callable
from typing import Final

import mmh3
import numpy as np

from features.errors import StateCorrupt
from features.spec import Dtype
from streams.ports import FeatureValue

_STRING_TYPE: Final = struct.pack("<I", 2)  # feast.types.ValueType.STRING
_MASK64: Final = (1 << 64) - 1

# Tags of feast.types.Value: field number << 3 | wire type.
_BYTES: Final = b"\x0a"
_STRING: Final = b"\x12"
_INT64: Final = b"\x20"
_FLOAT: Final = b"\x35"
_STRING_LIST: Final = b"\x62"
_FLOAT_LIST: Final = b"\x82\x01"
_REPEATED: Final = b"\x0a"  # the one field of every list message
_SECONDS: Final = 0x08
_NANOS: Final = 0x10


def entity_prefix(join_key: str) -> bytes:
    """The part of an entity's key before its value: every entity of that join key shares it."""
    name = join_key.encode()
    return struct.pack("<I", 1) + _STRING_TYPE + struct.pack("<I", len(name)) + name + _STRING_TYPE


def entity_key(project: str, join_key: str, value: str) -> bytes:
    """The Redis key of the entity whose string join key has this value."""
    text = value.encode()
    return entity_prefix(join_key) + struct.pack("<I", len(text)) + text + project.encode()


def entity_of(key: bytes, project: str, join_key: str) -> str | None:
    """The inverse of `entity_key`; `None` for a key of another project or join key."""
    prefix = entity_prefix(join_key)
    start = len(prefix) + 4
    if not key.startswith(prefix) or len(key) < start:
        return None
    end = start + int.from_bytes(key[len(prefix) : start], "little")
    return key[start:end].decode() if key[end:] == project.encode() else None


def feature_field(view: str, feature: str) -> bytes:
    """The hash field that holds one feature of one view."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def timestamp_field(view: str) -> bytes:
    """The hash field that holds a view's event timestamp."""
    return f"_ts:{view}".encode()


def varint(number: int) -> bytes:
    """Base-128 varint of a number in 0..2^64-1."""
    if number < 128:
        return bytes((number,))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(message: bytes, start: int) -> tuple[int, int]:
    """The number at `start` and the index after it; `IndexError` where the message ends early."""
    number = shift = 0
    while True:
        byte = message[start]
        number |= (byte & 127) << shift
        start += 1
        if byte < 128:
            return number, start
        shift += 7


def encode_bytes(value: bytes) -> bytes:
    """A `Value` with `bytes_val`."""
    return _BYTES + varint(len(value)) + value


def encode_string(value: str) -> bytes:
    """A `Value` with `string_val`."""
    text = value.encode()
    return _STRING + varint(len(text)) + text


# Most counters are small: their messages are made once.
_SMALL_INTS: Final = tuple(_INT64 + varint(number) for number in range(1024))
_MINUS_ONE: Final = _INT64 + varint(_MASK64)


def encode_int64(value: int) -> bytes:
    """A `Value` with `int64_val`; negative numbers in two's complement."""
    if 0 <= value < 1024:
        return _SMALL_INTS[value]
    if value == -1:  # "never", the usual recency
        return _MINUS_ONE
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"got {value}, expected a signed 64-bit integer")
    return _INT64 + varint(value & _MASK64)


def encode_timestamp(time_ms: int) -> bytes:
    """A `Timestamp` of an instant at or after the epoch."""
    if time_ms < 0:
        raise ValueError(f"got {time_ms} ms, expected an instant after 1970")
    seconds, millis = divmod(time_ms, 1000)
    message = b"\x08" + varint(seconds) if seconds else b""
    return message + b"\x10" + varint(millis * 1_000_000) if millis else message


def decode_timestamp(message: bytes) -> int:
    """Milliseconds since the epoch, rounded down; raises `StateCorrupt`."""
    parts = {_SECONDS: 0, _NANOS: 0}
    at = 0
    try:
        while at < len(message):
            tag = message[at]
            number, at = _read_varint(message, at + 1)
            if tag not in parts:
                raise StateCorrupt(f"timestamp {message!r} holds tag {tag}")
            parts[tag] = number
    except IndexError:
        raise StateCorrupt(f"timestamp {message!r} ends inside a number") from None
    return parts[_SECONDS] * 1000 + parts[_NANOS] // 1_000_000


def bytes_payload(message: bytes | None) -> bytes | None:
    """The bytes inside a `Value` with `bytes_val`; `None` for anything else."""
    if not message or message[0] != _BYTES[0]:
        return None
    start = 2
    while start <= len(message) and message[start - 1] > 127:
        start += 1
    return message[start:]


def _delimited(message: bytes, start: int) -> tuple[bytes, int]:
    length, start = _read_varint(message, start)
    if start + length > len(message):
        raise IndexError(start + length)
    return message[start : start + length], start + length


def _string(body: bytes) -> str:
    return _delimited(body, 0)[0].decode()


def _bytes(body: bytes) -> bytes:
    return _delimited(body, 0)[0]


def _int64(body: bytes) -> int:
    number = _read_varint(body, 0)[0]
    return number - (1 << 64) if number >> 63 else number


def _float32(body: bytes) -> float:
    return float(struct.unpack("<f", body)[0])


def _string_list(body: bytes) -> list[str]:
    content, _ = _delimited(body, 0)
    found = []
    at = 0
    while at < len(content):
        text, at = _delimited(content, at + 1)  # + 1: the tag of the repeated field
        found.append(text.decode())
    return found


def _float32_list(body: bytes) -> FeatureValue:
    content, _ = _delimited(body, 0)
    if not content:
        return np.empty(0, np.float32)
    if not content.startswith(_REPEATED):
        raise IndexError(0)
    return np.frombuffer(_delimited(content, 1)[0], "<f4").astype(np.float32)


_DECODERS: Final[dict[Dtype, tuple[bytes, Callable[[bytes], FeatureValue]]]] = {
    "int64": (_INT64, _int64),
    "float32": (_FLOAT, _float32),
    "bytes": (_BYTES, _bytes),
    "string": (_STRING, _string),
    "string_list": (_STRING_LIST, _string_list),
    "float32_list": (_FLOAT_LIST, _float32_list),
}


def decode(message: bytes, dtype: Dtype) -> FeatureValue:
    """The value inside a `Value` message of the registry's type; an empty message is `None`."""
    if not message:
        return None
    tag, decoder = _DECODERS[dtype]
    if not message.startswith(tag):
        raise StateCorrupt(f"value begins with {message[:2]!r}, a {dtype} begins with {tag!r}")
    try:
        return decoder(message[len(tag) :])
    except (IndexError, ValueError, struct.error) as error:
        raise StateCorrupt(f"{len(message)} bytes do not hold a {dtype}: {error}") from None

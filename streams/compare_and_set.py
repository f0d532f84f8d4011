"""The server-side script that replaces a user's state if its version is still the one that was read.

It runs atomically per user. The version is read out of the stored packed state, so no writer can
make version and value disagree; the event timestamps of the written views never go back.
"""

from collections.abc import Sequence
from typing import Final

from features.spec import USER_STATE, View
from streams.feast_format import feature_field, timestamp_field

# ARGV: expected version (8 bytes, zero = absent), event timestamp, packed state, then one value
# per feature of the further views. The version stands at byte 8 behind the Value's tag and length.
# Field names are literals: a command carries half the arguments, which is most of what it costs.
_TEMPLATE: Final = r"""
local byte = string.byte
local old = redis.call('HMGET', KEYS[1], {read})
local value, version = old[1], '\0\0\0\0\0\0\0\0'
if value then
  local at, tag, length = 2, byte(value, 1, 2)
  while length and length > 127 do
    at = at + 1
    length = byte(value, at)
  end
  if tag == 10 and #value >= at + 16 then version = string.sub(value, at + 9, at + 16) end
end
if version ~= ARGV[1] then return 0 end
-- A Timestamp in milliseconds. The usual one, of 1978 to 3058, has five bytes of seconds.
local function instant(message)
  local tag, a, b, c, d, e, mark, f, g, h, i, j = byte(message, 1, 12)
  if tag == 8 and e and a > 127 and b > 127 and c > 127 and d > 127 and e < 128
      and (mark == nil or mark == 16 and #message < 13) then
    local whole = a + 128 * (b + 128 * (c + 128 * (d + 128 * e))) - 270549120
    if not f then return whole * 1000 end
    local nanos = (h or 0) % 128 + 128 * ((i or 0) % 128 + 128 * (j or 0))
    return whole * 1000 + (f % 128 + 128 * ((g or 0) % 128 + 128 * nanos)) / 1000000
  end
  local whole, nanos, at = 0, 0, 1
  while at <= #message do
    local number, scale, digit = 0, 1, nil
    tag = byte(message, at)
    repeat
      at = at + 1
      digit = byte(message, at) or 0
      number = number + digit % 128 * scale
      scale = scale * 128
    until digit < 128
    at = at + 1
    if tag == 8 then whole = number elseif tag == 16 then nanos = number end
  end
  return whole * 1000 + nanos / 1000000
end
local given = instant(ARGV[2])
local function latest(stored)
  return stored and instant(stored) > given and stored or ARGV[2]
end
redis.call('HSET', KEYS[1], {written})
return 1
"""


def compare_and_set_script(further: Sequence[View]) -> str:
    """The script that writes the packed state and, with it, all features of the further views."""
    stamps = [timestamp_field(view.name) for view in (USER_STATE, *further)]
    packed = _literal(feature_field(USER_STATE.name, "packed"))
    fields = [feature_field(view.name, name) for view in further for name in view.feature_names]
    read = [packed, *map(_literal, stamps)]
    written = [packed, "ARGV[3]"]
    for place, stamp in enumerate(stamps, 2):
        written += [_literal(stamp), f"latest(old[{place}])"]
    for place, field in enumerate(fields, 4):
        written += [_literal(field), f"ARGV[{place}]"]
    text = _TEMPLATE.replace("{read}", ", ".join(read))
    return text.replace("{written}", ", ".join(written))


def _literal(field: bytes) -> str:
    """Bytes as a Lua string."""
    return "'" + "".join(f"\\{byte:03d}" for byte in field) + "'"

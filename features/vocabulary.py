"""Tokens of interactions: stable fingerprints of open names, codes of closed ones.

- an open name (item, product, page, placement, layout, merchant category) is stored as the
  31-bit CRC of `field:name`, so a state never depends on any model's vocabulary
- a closed name (action, channel, device) is stored as its place in an append-only list
- a model owns a `Vocabulary`: for each open field the fingerprints it has embeddings for; the
  look-up fingerprint -> embedding row runs inside the TorchScript artefact

Embedding rows 0 and 1 of every field are `NONE` (padding, not given) and `UNKNOWN`.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

NONE: Final = 0
UNKNOWN: Final = 1
FIRST_KNOWN: Final = 2

# Append only: the position of a name is stored in user states and in model weights.
ACTIONS: Final = (
    "",
    "other",
    "impression",
    "click",
    "dismiss",
    "page_view",
    "login",
    "logout",
    "call",
    "branch",
    "atm",
    "fraud_report",
    "complaint",
    "purchase",
    "payment",
    "transfer",
    "fee",
    "statement",
    "conversion",
)
CHANNELS: Final = (
    "",
    "other",
    "web",
    "mobile_app",
    "email",
    "sms",
    "call_center",
    "branch",
    "atm",
    "card",
    "external",
)
DEVICES: Final = (
    "",
    "other",
    "desktop",
    "ios",
    "android",
    "tablet",
    "phone",
    "terminal",
)
DIGITAL_CHANNELS: Final = ("web", "mobile_app")

OPEN_FIELDS: Final = ("item", "product", "page", "placement", "layout")
CLOSED_FIELDS: Final = {"action": ACTIONS, "channel": CHANNELS, "device": DEVICES}

_CODES: Final = {
    field: {name: code for code, name in enumerate(names)} for field, names in CLOSED_FIELDS.items()
}


def fingerprint(field: str, name: str) -> int:
    """31-bit stable fingerprint of an open name; 0 (`NONE`) for the empty name."""
    if not name:
        return NONE
    return (zlib.crc32(f"{field}:{name}".encode()) & 0x7FFFFFFF) or 1


def code(field: str, name: str) -> int:
    """Code of a closed name; 0 for the empty name, 1 (`UNKNOWN`) for one not in the list."""
    return _CODES[field].get(name, UNKNOWN)


def category_token(category: str) -> int:
    """Fingerprint under which a transaction's merchant category stands in the item column."""
    return fingerprint("item", f"category/{category}") if category else NONE


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The open names that one model version has embeddings for, and the items it scores.

    `names[field]` lists names in embedding order: row of `names[field][i]` is `FIRST_KNOWN + i`.
    `items` lists the K scored items in output order; every one of them is in `names["item"]`.
    """

    names: Mapping[str, tuple[str, ...]]
    items: tuple[str, ...]

    def __post_init__(self) -> None:
        if set(self.names) != set(OPEN_FIELDS):
            raise ValueError(f"names has fields {sorted(self.names)}, expected {OPEN_FIELDS}")
        missing = set(self.items) - set(self.names["item"])
        if missing:
            raise ValueError(f"scored items without a token: {sorted(missing)[:5]}")
        for field, names in self.names.items():
            prints = self.fingerprints(field)
            if len(set(prints)) != len(names):
                raise ValueError(f"two names of field {field!r} share a fingerprint: rename one")

    def fingerprints(self, field: str) -> tuple[int, ...]:
        """Fingerprints of a field's names in embedding order."""
        return tuple(fingerprint(field, name) for name in self.names[field])

    def extended(self, names: Mapping[str, Iterable[str]], items: Iterable[str]) -> "Vocabulary":
        """The same vocabulary with new names (and scored items) appended; old rows keep theirs."""
        grown = {
            field: tuple(dict.fromkeys((*old, *(name for name in names.get(field, ()) if name))))
            for field, old in self.names.items()
        }
        return Vocabulary(grown, tuple(dict.fromkeys((*self.items, *items))))

    @classmethod
    def build(cls, names: Mapping[str, Iterable[str]], items: Iterable[str]) -> "Vocabulary":
        """A first vocabulary out of names in any order; sorted, so that it is reproducible."""
        scored = tuple(sorted(set(items)))
        every = {field: set(names.get(field, ())) - {""} for field in OPEN_FIELDS}
        every["item"] |= set(scored)
        return cls({field: tuple(sorted(found)) for field, found in every.items()}, scored)

    def to_dict(self) -> dict[str, object]:
        """JSON form, as manifests and checkpoints keep it."""
        return {"names": {f: list(n) for f, n in self.names.items()}, "items": list(self.items)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Vocabulary":
        """Inverse of `to_dict`; raises ValueError when the parts do not fit."""
        names, items = data.get("names"), data.get("items")
        if not isinstance(names, Mapping) or not isinstance(items, list):
            raise ValueError(f"vocabulary needs 'names' and 'items', got {sorted(data)}")
        return cls({f: tuple(n) for f, n in names.items()}, tuple(items))

"""Whether what a model card says still holds: its files, this code, and on request its data.

`read_card` refuses a card whose weights are not those beside it. The rest is told, not refused: a
checkpoint of other code may be served, and its data may lie elsewhere.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.spec import registry_fingerprint
from fintrec.card_files import SUMS, TEXT
from fintrec.card_text import card_text
from fintrec.code_version import code_version
from fintrec.manifest import file_sha256

SAME = "as the card says"


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that a card names; `holds` is None where nobody looked."""

    what: str
    holds: bool | None
    told: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def check(directory: Path, card: Mapping[str, Any], data_hash: str | None = None) -> list[Checked]:
    """What was looked at, of a card that `read_card` gave.

    `data_hash` is that of a training set that was built anew.
    """
    hashes = card["hashes"]
    return [
        Checked("weights and checkpoint.json", True, SAME),
        _file(directory / SUMS, hashes["judged"], "`compare` and the gate rest on it"),
        _text(directory, card),
        _same(
            "feature registry",
            hashes["feature_registry"],
            registry_fingerprint(),
            "this code has {}: it cannot load or serve the checkpoint",
        ),
        _same(
            "code",
            hashes["code"],
            code_version(),
            "this is {}: the same command need not give the same weights",
        ),
        Checked("data", None, "not looked at: name them with --data")
        if data_hash is None
        else _same("data", card["data"]["hash"], data_hash, "these are {}: others"),
    ]


def _file(path: Path, expected: str, why: str) -> Checked:
    if not path.is_file():
        return Checked(path.name, False, f"missing; {why}")
    return _same(path.name, expected, file_sha256(path), f"the file is {{}}; {why}")


def _text(directory: Path, card: Mapping[str, Any]) -> Checked:
    path = directory / TEXT
    if path.is_file() and path.read_text() == card_text(card):
        return Checked(TEXT, True, SAME)
    told = "differs from card.json" if path.is_file() else "missing"
    return Checked(TEXT, False, f"{told}; card.json counts")


def _same(what: str, of_card: str, found: str, otherwise: str) -> Checked:
    if of_card == found:
        return Checked(what, True, SAME)
    short = found if what == "code" else found[:12]
    named = of_card if what == "code" else of_card[:12]
    return Checked(what, False, f"the card says {named}, {otherwise.format(short)}")

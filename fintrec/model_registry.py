"""Checkpoints and their cards: found, and compared two by two. No torch here.

A comparison is in pairs, user by user, where both models were judged on the same test pages. Else
the users of each are drawn alone, and the reader is warned: the difference is then one of pages, too.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from features.errors import ConfigurationError
from features.spec import registry_fingerprint
from fintrec.card_files import CHECKPOINT, Sums, checkpoint_sha256, read_card
from fintrec.intervals import Interval, bootstrap_sums, unpaired_difference

METRICS: Final = (
    "pctr_log_loss",
    "pctr_auroc",
    "pctr_calibration_error",
    "pctr_next_item_log_loss",
    "pctr_recall_at_1",
    "pctr_recall_at_5",
    "pcvr_log_loss",
    "pcvr_auroc",
    "pcvr_calibration_error",
)
GATED: Final = ("pctr_log_loss", "pcvr_log_loss")
BETTER, WORSE, ALIKE, UNKNOWN = "better", "worse", "no clear difference", ""


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint's folder, its hash, and its card or why there is none."""

    directory: Path
    sha256: str
    card: Mapping[str, Any] | None
    problem: str


def find(folder: Path) -> list[Found]:
    """Checkpoints in and below a folder, the newest card first; ConfigurationError if it is none."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such directory, expected one with checkpoints")
    found = [_found(path.parent) for path in sorted(_checkpoints(folder))]
    return sorted(found, key=lambda one: one.card["made_at"] if one.card else "", reverse=True)


def _checkpoints(folder: Path) -> Iterator[Path]:
    for path in folder.rglob(CHECKPOINT):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _found(directory: Path) -> Found:
    sha256 = checkpoint_sha256(directory)
    try:
        card = read_card(directory)
    except ConfigurationError as refused:
        return Found(directory, sha256, None, str(refused).removeprefix(f"{directory}/"))
    problem = ""
    if card["hashes"]["feature_registry"] != registry_fingerprint():
        problem = "of another feature registry"
    elif len(card["models"]) < 2:
        problem = f"{', '.join(card['models'])} alone"
    return Found(directory, sha256, card, problem)


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of two cards; `difference` is second minus first, None where no sums are at hand.

    `verdict` is the second's: BETTER or WORSE where the difference's interval does not hold 0.
    """

    name: str
    first: Mapping[str, Any] | None
    second: Mapping[str, Any] | None
    difference: Interval | None
    is_paired: bool
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "metric": self.name,
            "first": self.first,
            "second": self.second,
            "difference": self.difference and self.difference.to_dict(),
            "paired": self.is_paired,
            "second_is": self.verdict,
        }


def is_same_test(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two cards were judged on the same test pages, by their hash."""
    one, other = (card["judged"]["test"]["pages_sha256"] for card in (first, second))
    return bool(one == other)


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    first_sums: Sums | None,
    second_sums: Sums | None,
) -> list[Compared]:
    """The test metrics that at least one of two cards has."""
    of_first, of_second = first["metrics"]["test"], second["metrics"]["test"]
    found = []
    for name in METRICS:
        if of_first.get(name) or of_second.get(name):
            difference, is_paired = None, False
            if first_sums is not None and second_sums is not None:
                difference, is_paired = _difference(name, first_sums, second_sums)
            found.append(
                Compared(
                    name,
                    of_first.get(name),
                    of_second.get(name),
                    difference,
                    is_paired,
                    _verdict(name, difference),
                )
            )
    return found


def _difference(name: str, first: Sums, second: Sums) -> tuple[Interval | None, bool]:
    """Second minus first, and whether it is in pairs."""
    if f"{name}_user" not in first or f"{name}_user" not in second:
        return None, False
    (one_users, one), (other_users, other) = (
        (sums[f"{name}_user"], np.column_stack((sums[f"{name}_sum"], sums[f"{name}_rows"])))
        for sums in (first, second)
    )
    if min(len(one), len(other)) < 2:
        return None, False
    same = np.array_equal(one_users, other_users) and np.array_equal(one[:, 1], other[:, 1])
    if not same:
        return unpaired_difference(other, one), False
    both = np.column_stack((other[:, 0] - one[:, 0], one[:, 1]))
    return bootstrap_sums(both, lambda total: total[:, 0] / total[:, 1]), True


def _verdict(name: str, difference: Interval | None) -> str:
    if difference is None:
        return UNKNOWN
    if difference.holds(0.0):
        return ALIKE
    is_loss = name.endswith(("_loss", "_error"))
    return BETTER if (difference.value < 0) == is_loss else WORSE


def worse_beyond_chance(compared: list[Compared]) -> list[Compared]:
    """The gated losses in which the second is worse."""
    return [one for one in compared if one.name in GATED and one.verdict == WORSE]


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What differs in recipe, data, vocabulary and code: name -> [first, second]."""
    found: dict[str, list[Any]] = {}
    for section in ("model", "training"):
        one, other = first["recipe"][section], second["recipe"][section]
        for name in sorted({*one, *other}):
            if one.get(name) != other.get(name):
                found[name] = [one.get(name), other.get(name)]
    for name, read in _FACTS.items():
        one, other = read(first), read(second)
        if one != other:
            found[name] = [one, other]
    return found


_FACTS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "recipe": lambda card: card["recipe"]["name"],
    "data": lambda card: card["data"]["hash"],
    "data source": lambda card: card["data"]["name"],
    "newest training page": lambda card: card["data"]["periods"]["train"]["last_ms"],
    "items": lambda card: card["data"]["items"],
    "vocabulary": lambda card: card["hashes"]["vocabulary"][:12],
    "feature registry": lambda card: card["hashes"]["feature_registry"][:12],
    "calibration": lambda card: card["calibration"]["kind"],
    "code": lambda card: card["hashes"]["code"],
}

"""Promotion of a checkpoint to the served version, and its undoing, on a running Triton.

Workers follow the newest version that is ready (`streams/model_versions.py`). So a promotion exports
the next version, checks it, has Triton load it beside the old one and waits; until then, and if any
of it fails, the old one is served. A rollback does the same with the artefacts of the version
before: a new number, since a number that came back would mix states of two models (ADR 0017).
"""

import getpass
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from features.errors import ConfigurationError, ModelUnavailable
from fintrec import promotions
from fintrec.card_files import CARD, SUMS, Sums, parsed_card, read_card, read_sums
from fintrec.checkpoint import Checkpoint, code_version, load
from fintrec.export import export, kind_of, next_version, republish, withdraw
from fintrec.export_parity import check_parity
from fintrec.manifest import SERVED, load_manifest, verify, versions
from fintrec.model_registry import compare, is_same_test, worse_beyond_chance
from fintrec.promotions import Entry, PromotionRefused
from fintrec.served_config import Kind
from streams.model_loading import load_version
from streams.settings import Settings

logger = logging.getLogger(__name__)
Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Target:
    """A repository and, unless `is_offline`, the Triton that serves it."""

    settings: Settings
    repository: Path
    is_offline: bool
    now_ms: Clock

    def served(self) -> int | None:
        """The version that workers use now; None without any. Raises ModelUnavailable."""
        known = versions(self.repository)
        if self.is_offline:
            return known[-1] if known else None
        from streams.triton import TritonModels

        ready = TritonModels(self.settings).ready_versions()
        return max((version for version in ready if version in known), default=None)

    def load(self, version: int) -> None:
        """Have Triton load the newest versions and wait for this one."""
        if not self.is_offline:
            load_version(self.settings, version)


def promote(
    target: Target,
    checkpoint_dir: Path,
    kind: Kind | None = None,
    is_gated: bool = False,
    is_forced: bool = False,
) -> Entry:
    """Make a checkpoint the served version and return the ledger's entry.

    ConfigurationError or PromotionRefused if it must not be served, ModelUnavailable if Triton does
    not load it; then, as after Ctrl-C, the version that was served still is.
    """
    repository = target.repository
    with promotions.exclusive(repository):
        recover(target)
        checkpoint = load(checkpoint_dir)
        card = read_card(checkpoint_dir)
        if len(card["models"]) < 2:
            raise ConfigurationError(
                f"{checkpoint_dir} holds {' and '.join(card['models'])}, serving needs pctr and pcvr"
            )
        served = target.served()
        note = ""
        if is_gated and served is not None:
            note = _gate(checkpoint_dir, repository, served, is_forced)
        runs_on = kind or kind_of(repository)
        entry = _entry(target, promotions.PROMOTE, served, card["hashes"]["checkpoint"], note)
        entry = replace(entry, checkpoint=str(checkpoint_dir.resolve()))

        def publish() -> None:
            made = export(checkpoint_dir, repository, runs_on, above=entry.version - 1)
            _check(checkpoint, repository, made)

        return _change(target, entry, runs_on, publish)


def rollback(target: Target) -> Entry:
    """Serve the models that were promoted before the served ones; returns the ledger's entry.

    PromotionRefused where nothing was before, ConfigurationError if its artefacts are gone or
    changed, ModelUnavailable as `promote`.
    """
    repository = target.repository
    with promotions.exclusive(repository):
        recover(target)
        served = target.served()
        entries = promotions.read_ledger(repository)
        earlier = promotions.before(entries, served)
        runs_on = kind_of(repository)
        sha256 = earlier.checkpoint_sha256 or load_manifest(repository, earlier.version).checkpoint
        entry = _entry(target, promotions.ROLLBACK, served, sha256, "")
        entry = replace(entry, checkpoint=earlier.checkpoint, restores=earlier.version)

        def publish() -> None:
            republish(repository, earlier.version, runs_on, above=entry.version - 1)

        return _change(target, entry, runs_on, publish)


def recover(target: Target) -> Entry | None:
    """End what a killed promotion or rollback left: done if it is served, else withdrawn."""
    begun = promotions.unfinished(promotions.read_ledger(target.repository))
    if begun is None:
        return None
    if target.served() == begun.version:
        done = replace(begun, action=begun.intent, intent="", note="was cut off when it was served")
        return promotions.append(target.repository, done)
    return _withdraw(target, begun, kind_of(target.repository), "was cut off")


def _change(target: Target, entry: Entry, kind: Kind, publish: Callable[[], None]) -> Entry:
    """Publish, load and record a version; if that fails, take it back and load what was."""
    begun = replace(entry, action=promotions.BEGIN, intent=entry.action)
    promotions.append(target.repository, begun)
    try:
        publish()
        target.load(entry.version)
    except BaseException as failed:
        _withdraw(target, begun, kind, str(failed) or type(failed).__name__)
        raise
    return promotions.append(target.repository, replace(entry, at_ms=target.now_ms()))


def _withdraw(target: Target, begun: Entry, kind: Kind, reason: str) -> Entry:
    withdraw(target.repository, begun.version, kind)
    left = versions(target.repository)
    if left:
        try:
            target.load(left[-1])
        except ModelUnavailable as silent:
            # It may be why we are here; Triton finds the repository as it was when it is back.
            logger.warning("version %d not loaded again reason=%s", left[-1], silent)
    told = replace(begun, action=promotions.WITHDRAW, at_ms=target.now_ms(), note=reason)
    return promotions.append(target.repository, told)


def _entry(
    target: Target, action: str, served: int | None, checkpoint_sha256: str, note: str
) -> Entry:
    entries = promotions.read_ledger(target.repository)
    return Entry(
        at_ms=target.now_ms(),
        by=_user(),
        action=action,
        version=next_version(target.repository, promotions.highest(entries)),
        version_before=served,
        checkpoint_sha256=checkpoint_sha256,
        code=code_version(),
        note=note,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _check(checkpoint: Checkpoint, repository: Path, version: int) -> None:
    verify(load_manifest(repository, version), repository)
    check_parity(checkpoint, repository, version)


def _gate(checkpoint_dir: Path, repository: Path, served: int, is_forced: bool) -> str:
    """A note for the ledger; PromotionRefused if the checkpoint is worse beyond chance."""
    card, sums = read_card(checkpoint_dir), read_sums(checkpoint_dir)
    folder = repository / SERVED[0] / str(served)
    if not (folder / CARD).is_file():
        raise PromotionRefused(
            f"version {served} is served without a card, so nothing tells whether the checkpoint "
            "is worse: promote without --gate"
        )
    before = parsed_card(folder / CARD)
    of_served: Sums | None = read_sums(folder) if (folder / SUMS).is_file() else None
    compared = compare(before, card, of_served, sums)
    pages = "the same" if is_same_test(before, card) else "other"
    worse = [
        f"{one.name} by {one.difference.value:.4f} "
        f"({one.difference.low:.4f} to {one.difference.high:.4f})"
        for one in worse_beyond_chance(compared)
        if one.difference is not None
    ]
    if worse and not is_forced:
        raise PromotionRefused(
            f"{checkpoint_dir} is worse than the served version {served} on {pages} test pages: "
            f"{', '.join(worse)}: promote with --force if it shall be served"
        )
    verdict = f"forced, worse in {', '.join(worse)}" if worse else "passed"
    return f"gate against version {served} on {pages} test pages: {verdict}"

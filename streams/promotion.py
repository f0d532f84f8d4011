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
from fintrec.checkpoint import code_version, load
from fintrec.export import export, kind_of, next_version, republish, withdraw
from fintrec.export_parity import check_parity
from fintrec.manifest import SERVED, load_manifest, versions
from fintrec.model_registry import compare, is_same_test, worse_beyond_chance
from fintrec.promotions import Entry, PromotionRefused
from fintrec.served_config import Kind
from streams.model_loading import load_version, served_version
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
        if self.is_offline:
            return max(versions(self.repository), default=None)
        return served_version(self.settings, self.repository)

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
        card = read_card(checkpoint_dir)
        load(checkpoint_dir)  # what cannot be loaded is refused before anything begins
        if len(card["models"]) < 2:
            raise ConfigurationError(
                f"{checkpoint_dir} holds {' and '.join(card['models'])}, serving needs pctr and pcvr"
            )
        served = target.served()
        sha256, note = card["hashes"]["checkpoint"], ""
        runs_on = kind or kind_of(repository)
        if served is not None:
            _refuse_twice(checkpoint_dir, sha256, repository, served, runs_on)
            if is_gated:
                note = _gate(checkpoint_dir, repository, served, is_forced)
        entry = _entry(target, promotions.PROMOTE, served, sha256, note)
        entry = replace(entry, checkpoint=str(checkpoint_dir.resolve()))

        def publish() -> None:
            above = entry.version - 1
            export(checkpoint_dir, repository, runs_on, above=above, check=check_parity)

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


def what_follows(target: Target, entry: Entry) -> str:
    """What the workers do with a version from now on, for who made it the served one."""
    if target.is_offline:
        return (
            "Triton serves it from its next start, or once it is asked to load encode, head, pctr "
            "and pcvr (POST v2/repository/models/NAME/load)"
        )
    rate = target.settings.refresh_per_s
    swept = f"stored states are encoded again, {rate} a second (refresh_per_s)"
    if not rate:
        swept = "stored states are encoded again as their users come (refresh_per_s is 0)"
    meanwhile = "on their static context"
    before = entry.version_before
    if before is not None and _width(target, before) == _width(target, entry.version):
        meanwhile = f"by version {before}, which stays loaded"
    return (
        f"workers take it up within a second; {swept}, until then scored {meanwhile}; nightly "
        "features stay as they are"
    )


def _width(target: Target, version: int) -> int | None:
    """Width of a version's stored states; None where this code cannot read it."""
    try:
        return load_manifest(target.repository, version).state_width
    except ConfigurationError:
        return None


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
    """Publish, load and record a version; if that fails, take it back, and load what was if Triton
    may have begun with the new one.
    """
    begun = replace(entry, action=promotions.BEGIN, intent=entry.action)
    promotions.append(target.repository, begun)
    is_asked = False
    try:
        publish()
        is_asked = True
        target.load(entry.version)
    except BaseException as failed:
        _withdraw(target, begun, kind, str(failed) or type(failed).__name__, loads=is_asked)
        raise
    return promotions.append(target.repository, replace(entry, at_ms=target.now_ms()))


def _withdraw(target: Target, begun: Entry, kind: Kind, reason: str, loads: bool = True) -> Entry:
    """Take a version out of the repository; with `loads` Triton, too, is to know only the others."""
    withdraw(target.repository, begun.version, kind)
    left = versions(target.repository)
    if left and loads:
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


def _refuse_twice(
    checkpoint_dir: Path, sha256: str, repository: Path, served: int, kind: Kind
) -> None:
    """A second version of the served models would make the next rollback go nowhere."""
    try:
        manifest = load_manifest(repository, served)
    except ConfigurationError:
        return  # of another feature registry, so of another checkpoint
    made = (manifest.checkpoint, manifest.code, kind_of(repository))
    if made == (sha256, code_version(), kind):
        raise PromotionRefused(
            f"{checkpoint_dir} is served already, as version {served}: nothing was done"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


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

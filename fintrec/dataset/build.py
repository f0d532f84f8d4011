"""A log into a training set, in memory or on disk, by one code path (FinTRec sections 3.1 and 4.1).

Read every file once into its users' shards, make the plan from what was seen, build the shards.
`docs/data_layout.md` says what a training set holds and lists every exclusion.
"""

import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from features.history import Rows
from features.records import Item
from features.spec import registry_fingerprint
from features.vocabulary import Vocabulary
from features.windows import forest_fingerprint
from fintrec import logs
from fintrec.dataset import files
from fintrec.dataset.config import DatasetConfig
from fintrec.dataset.counts import added
from fintrec.dataset.local import MAX_SHARDS, LocalEngine, Step
from fintrec.dataset.plan import Plan, make_plan, shards_for, vocabulary_of
from fintrec.dataset.shard import build_shard
from fintrec.dataset.spill import Facts, read_log, tables_of
from fintrec.dataset.training_set import PERIODS, Decisions, TrainingSet, joined

ENGINES: Final = ("local", "spark")
Part = tuple[tuple[str, ...], list[Rows], tuple[Decisions, ...]]


class Engine(Protocol):
    """Who runs `spilled` on every file and `build_shard` on every shard."""

    def spill(self, files: list[tuple[str, Path]], num_shards: int, step: Step) -> Facts:
        """Read the log's files into shards."""

    def build(self, plan: Plan, dataset_dir: Path, step: Step) -> list[dict[str, Any]]:
        """Write the shards' tables; their counts in the order of the shards."""


def no_step(what: str, done: int, total: int) -> None:
    """Report to nobody."""


def build_training_set(log_dir: Path, config: DatasetConfig) -> TrainingSet:
    """Read a LOG_DIR and build its training set in memory; raises LogError or ValueError."""
    items = logs.read_items(log_dir)
    rows, facts = read_log(log_dir)
    plan = _planned(log_dir, items, facts, config)
    shard = build_shard(rows, plan)
    return _assembled(
        [(item.item_id, item.content_type, item.category) for item in items],
        plan.window_ms,
        vocabulary_of(plan, facts),
        [(shard.users, shard.logs, shard.periods)],
        _exclusions(facts, dict(shard.exclusions)),
    )


def load_training_set(dataset_dir: Path) -> TrainingSet:
    """The training set of a DATASET_DIR, equal to `build_training_set` of its log.

    Raises DatasetError where the folder is not whole, or was built with other features.
    """
    manifest = files.read_manifest(dataset_dir)
    if manifest["registry_fingerprint"] != registry_fingerprint():
        raise files.DatasetError(
            f"{dataset_dir}: built with feature registry {manifest['registry_fingerprint'][:12]}, "
            f"this code has {registry_fingerprint()[:12]}: build it again"
        )
    files.check_shards(dataset_dir, manifest["num_shards"])
    items, window_ms = files.read_items(dataset_dir)
    until_ms = [manifest["periods"][name]["observed_until_ms"] for name in PERIODS]
    return _assembled(
        [(item["item_id"], item["content_type"], item["category"]) for item in items],
        window_ms.tolist(),
        files.read_vocabulary(dataset_dir),
        files.read_shards(dataset_dir, manifest["num_shards"], until_ms),
        manifest["counts"]["exclusions"],
    )


def build_dataset(
    log_dir: Path,
    dataset_dir: Path,
    config: DatasetConfig,
    engine: str = "local",
    step: Step = no_step,
) -> dict[str, Any]:
    """Write the training set of a LOG_DIR to a new or empty DATASET_DIR; returns its manifest.

    The folder appears when everything in it is whole. Raises LogError or ValueError.
    """
    logs.check_replaceable_folder(dataset_dir)
    if files.is_dataset(log_dir):
        raise logs.LogError(f"{log_dir} is a data set, expected a LOG_DIR")
    found = tables_of(log_dir)
    items = logs.read_items(log_dir)
    num_shards = shards_for(found, config, MAX_SHARDS if engine == "local" else None)
    unfinished = dataset_dir.with_name(f".{dataset_dir.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)  # of a build that was killed
    spill_dir = unfinished / "spill"
    spill_dir.mkdir(parents=True)
    try:
        with _engine(engine, spill_dir) as runs:
            facts = runs.spill(found, num_shards, step)
            plan = _planned(log_dir, items, facts, config)
            counts = runs.build(plan, unfinished, step)
        shutil.rmtree(spill_dir)
        manifest = _manifest(log_dir, plan, facts, config, counts)
        files.write_items(unfinished, items, plan.window_ms)
        files.write_json(unfinished / files.VOCABULARY, vocabulary_of(plan, facts).to_dict())
        _copy_demographics(log_dir, unfinished)
        files.write_json(unfinished / files.MANIFEST, manifest)
        if dataset_dir.exists():
            dataset_dir.rmdir()
        unfinished.rename(dataset_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def _copy_demographics(log_dir: Path, dataset_dir: Path) -> None:
    """Take the protected attributes along, unread, for those who judge the models."""
    if (log_dir / logs.DEMOGRAPHICS).is_dir():
        shutil.copytree(log_dir / logs.DEMOGRAPHICS, dataset_dir / logs.DEMOGRAPHICS)


def _planned(log_dir: Path, items: tuple[Item, ...], facts: Facts, config: DatasetConfig) -> Plan:
    if not facts.num_events:
        raise logs.LogError(f"{log_dir}: no events of users in {', '.join(logs.EVENT_TABLES[:3])}")
    if not facts.counts[f"rows_{logs.CLICKSTREAM}"] - facts.counts["anonymous_events"]:
        raise logs.LogError(
            f"{log_dir / logs.CLICKSTREAM}: no events of users, expected impressions: decisions "
            "are made of them"
        )
    if not items:
        raise logs.LogError(f"{log_dir}: no items in {logs.ITEMS}, expected a catalogue")
    manifest = logs.read_manifest(log_dir)
    _check_period(log_dir / logs.MANIFEST, manifest, facts)
    return make_plan(manifest, items, facts, config)


def _check_period(path: Path, manifest: dict[str, Any], facts: Facts) -> None:
    """Raise LogError where a manifest's period is not that of the events."""
    start_ms, end_ms = manifest.get("start_ms"), manifest.get("end_ms")
    first, last = (logs.instant(ms) for ms in (facts.first_ms, facts.last_ms))
    if start_ms is not None and start_ms > facts.last_ms:
        raise logs.LogError(
            f"{path}: start_ms is {logs.instant(start_ms)}, after the last event ({last}), "
            "expected the start of the log"
        )
    if end_ms is None:
        return
    later = facts.events_from(end_ms)
    if 2 * later > facts.num_events:
        raise logs.LogError(
            f"{path}: end_ms is {logs.instant(end_ms)}, but {later:,} of {facts.num_events:,} "
            f"events are of later days (first {first}, last {last}), expected the end of the log"
        )


def _exclusions(facts: Facts, of_shards: dict[str, int]) -> dict[str, int]:
    mine = {"anonymous_events": facts.counts["anonymous_events"]}
    return dict(sorted({**of_shards, **mine}.items()))


def _manifest(
    log_dir: Path, plan: Plan, facts: Facts, config: DatasetConfig, counts: list[dict[str, Any]]
) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in counts:
        whole = added(whole, part)
    whole["exclusions"] = _exclusions(facts, whole["exclusions"])
    return {
        "dataset_format": files.FORMAT,
        "made_by": "fintrec dataset build",
        "config": config.to_dict(),
        "log": logs.read_manifest(log_dir),
        "log_rows": {
            name.removeprefix("rows_"): rows
            for name, rows in sorted(facts.counts.items())
            if name.startswith("rows_")
        },
        "num_shards": len(counts),
        "registry_fingerprint": registry_fingerprint(),
        "forest_fingerprint": forest_fingerprint(),
        "periods": {
            period.name: {
                "start_ms": period.start_ms,
                "end_ms": period.end_ms,
                "observed_until_ms": period.observed_until_ms,
            }
            for period in plan.periods
        },
        "counts": whole,
    }


def _assembled(
    items: list[tuple[str, str, str]],
    window_ms: Iterable[int],
    vocabulary: Vocabulary,
    parts: Iterable[Part],
    exclusions: dict[str, int],
) -> TrainingSet:
    """The training set of shards, whatever their number and order."""
    shards = list(parts)
    everyone = np.array([user for users, _, _ in shards for user in users], object)
    order = np.argsort(everyone, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    found = [rows for _, mine, _ in shards for rows in mine]
    first = np.cumsum([0, *(len(users) for users, _, _ in shards)])
    periods = []
    for at in range(len(PERIODS)):
        decisions = joined([of_shard[at] for _, _, of_shard in shards])
        owner = np.concatenate(
            [place[of_shard[at].user + first[n]] for n, (_, _, of_shard) in enumerate(shards)]
        )
        decisions = decisions.of_users(owner)
        # Pages of one user and instant stay in the order that their shard gave them.
        periods.append(decisions.taken(np.lexsort((owner, decisions.time_ms))))
    return TrainingSet(
        items=tuple(item for item, _, _ in items),
        content_types=tuple(kind for _, kind, _ in items),
        vocabulary=vocabulary,
        logs=[found[at] for at in order.tolist()],
        train=periods[0],
        validation=periods[1],
        test=periods[2],
        exclusions=exclusions,
        window_ms=np.array(list(window_ms), np.int64),
        users=tuple(everyone[order].tolist()),
        categories=tuple(category for _, _, category in items),
    )


def _engine(name: str, spill_dir: Path) -> AbstractContextManager[Engine]:
    """A context of an Engine."""
    if name == "local":
        return nullcontext(LocalEngine(spill_dir))
    if name != "spark":
        raise ValueError(f"engine={name!r}, expected one of {ENGINES}")
    from fintrec.dataset.spark import spark_engine

    return spark_engine()

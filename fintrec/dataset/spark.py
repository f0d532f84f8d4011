"""The Spark engine: the local engine's two functions, run where the users' shards are.

`mapInArrow` turns files of the log into records, `applyInArrow` builds and writes a shard. The
files are named, not shipped, so the log and the data set lie on storage that every executor mounts
under the same path, and every executor has this package.
"""

import json
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from fintrec.dataset.files import write_shard
from fintrec.dataset.java_gateway import java_gateway
from fintrec.dataset.local import Step
from fintrec.dataset.plan import Plan
from fintrec.dataset.shard import build_shard
from fintrec.dataset.spill import SPILL, Facts, gathered, spilled
from fintrec.logs import LogError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MASTER: Final = "SPARK_MASTER"
_FACTS, _REFUSED = 100, 101  # kinds of records that are about a file, not of a user
_RECORD: Final = "shard int, kind tinyint, user_id string, rows binary"
_COUNTS: Final = "shard int, counts string"


class SparkEngine:
    """Runs on a session that the caller ends."""

    def __init__(self, session: "SparkSession") -> None:
        self._session = session
        self._records: DataFrame | None = None
        self._num_shards = 0

    def spill(self, files: Sequence[tuple[str, Path]], num_shards: int, step: Step) -> Facts:
        """Read every file of the log into records of its users; raises LogError."""
        from pyspark import StorageLevel

        self._num_shards = num_shards
        step("reading the log", 0, len(files))
        named = [(number, name, str(path.resolve())) for number, (name, path) in enumerate(files)]
        tasks = min(len(named), 4 * self._session.sparkContext.defaultParallelism)
        frame = self._session.createDataFrame(named, "number int, name string, path string")
        read = frame.repartition(tasks, "number").mapInArrow(_reader(num_shards), _RECORD)
        self._records = read.persist(StorageLevel.DISK_ONLY)  # read once, used twice
        told = self._records.filter(f"kind >= {_FACTS}").collect()
        refused = sorted((row.shard, bytes(row.rows)) for row in told if row.kind == _REFUSED)
        if refused:
            raise LogError(refused[0][1].decode())
        facts = Facts()
        for row in sorted(told, key=lambda row: row.shard):
            facts.add(Facts.from_dict(json.loads(bytes(row.rows))))
        step("reading the log", len(files), len(files))
        return facts

    def build(self, plan: Plan, dataset_dir: Path, step: Step) -> list[dict[str, Any]]:
        """Write every shard's tables and return their counts, in the order of the shards."""
        assert self._records is not None
        step("building shards", 0, self._num_shards)
        grouped = (
            self._records.filter(f"kind < {_FACTS}")
            .repartition(self._num_shards, "shard")
            .groupBy("shard")
        )
        folder = dataset_dir.resolve()
        built = grouped.applyInArrow(_builder(plan, folder), _COUNTS).collect()
        self._records.unpersist()
        found = {row.shard: json.loads(row.counts) for row in built}
        for shard in set(range(self._num_shards)) - set(found):  # no user fell into it
            found[shard] = _write(SPILL.empty_table(), shard, plan, folder)
        step("building shards", self._num_shards, self._num_shards)
        return [found[shard] for shard in range(self._num_shards)]


def _reader(num_shards: int) -> Any:
    """What `mapInArrow` runs: names of files to their records and facts."""

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for file in batch.to_pylist():
                try:
                    records, facts = spilled(file["name"], Path(file["path"]), num_shards)
                except LogError as refused:
                    # As a record: an exception would come back as a page of Java.
                    yield _about(file["number"], _REFUSED, str(refused))
                    continue
                yield _about(file["number"], _FACTS, json.dumps(facts.to_dict()))
                yield from records.to_batches()

    return read


def _about(number: int, kind: int, text: str) -> pa.RecordBatch:
    row = {"shard": number, "kind": kind, "user_id": "", "rows": text.encode()}
    return pa.RecordBatch.from_pylist([row], SPILL)


def _builder(plan: Plan, dataset_dir: Path) -> Any:
    """What `applyInArrow` runs: the records of a shard to its files."""

    def build(records: pa.Table) -> pa.Table:
        shard = int(np.asarray(records["shard"])[0])
        counts = json.dumps(_write(records, shard, plan, dataset_dir))
        return pa.table({"shard": pa.array([shard], pa.int32()), "counts": [counts]})

    return build


def _write(records: pa.Table, shard: int, plan: Plan, dataset_dir: Path) -> dict[str, Any]:
    return write_shard(dataset_dir, shard, build_shard(gathered(records), plan), plan)


@contextmanager
def spark_engine() -> Iterator[SparkEngine]:
    """An engine on the session that is active, or on one of its own, ended with it."""
    with spark_session() as session:
        yield SparkEngine(session)


@contextmanager
def spark_session() -> Iterator["SparkSession"]:
    """The active session, or a new one: on SPARK_MASTER, or on this machine.

    Where neither JAVA_HOME nor a running gateway says otherwise, its Java is the packaged one.
    """
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError as absent:
        from features.errors import ConfigurationError

        raise ConfigurationError(
            f"--engine spark needs the package {absent.name}, which is not installed: "
            "pip install 'fintrec[spark]'"
        ) from absent
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    with tempfile.TemporaryDirectory(prefix="fintrec-spark-") as name:
        if "JAVA_HOME" in os.environ or "PYSPARK_GATEWAY_PORT" in os.environ:
            with _started(Path(name)) as session:
                yield session
            return
        with java_gateway(Path(name)), _forgotten(), _started(Path(name)) as session:
            yield session


@contextmanager
def _started(folder: Path) -> Iterator["SparkSession"]:
    from pyspark.sql import SparkSession

    master = os.environ.get(MASTER, "local[*]")
    builder = (
        SparkSession.builder.appName("fintrec dataset")
        .master(master)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.warehouse.dir", str(folder / "warehouse"))
    )
    if master.startswith("local"):
        builder = (
            builder.config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.local.dir", str(folder / "local"))
        )
    with _plain_interrupts():
        session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    with quiet_interrupts():
        try:
            yield session
        finally:
            session.stop()


@contextmanager
def _plain_interrupts() -> Iterator[None]:
    """Take back the interrupt's handler that PySpark sets.

    It asks Java to cancel in the middle of another call, which fails with two tracebacks; the
    session is stopped in any case.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """An interrupt, and what the bridge to Java says when it ends a call, are no errors to log.

    The bridge logs what it raises as well, so nothing is hidden that nobody hears of.
    """
    root, bridge = logging.getLogger(), logging.getLogger("py4j")
    level = bridge.level
    root.addFilter(_is_no_interrupt)
    bridge.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        bridge.setLevel(level)
        root.removeFilter(_is_no_interrupt)


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    raised = record.exc_info[0] if record.exc_info else None
    return raised is None or not issubclass(raised, KeyboardInterrupt)


@contextmanager
def _forgotten() -> Iterator[None]:
    """PySpark keeps its gateway for the process; the next session must not meet a dead one."""
    from pyspark import SparkContext

    try:
        yield
    finally:
        if SparkContext._gateway is not None:
            SparkContext._gateway.shutdown()
        SparkContext._gateway = None
        SparkContext._jvm = None

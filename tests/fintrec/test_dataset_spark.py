"""The Spark engine on a real local Spark: the same bytes as the local engine."""

import logging
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from fintrec import logs
from fintrec.dataset.spark import quiet_interrupts, spark_session
from fintrec.datasets import DatasetConfig, build_dataset

pytestmark = pytest.mark.integration
CONFIG = DatasetConfig(validation_days=3, test_days=4, label_days=5, num_shards=5)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def few_users(bank_log, out):
    """The log with four users left, so that some shards have none."""
    shutil.copytree(bank_log, out)
    for path in out.rglob("part-*.parquet"):
        if path.parent.name.startswith("day="):
            table = logs.pq.read_table(path, partitioning=None)
            kept = logs.pc.is_in(table["user_id"], value_set=logs.pa.array(USERS))
            logs.pq.write_table(table.filter(kept), path)


USERS = ["u000001", "u000002", "u000003", "u000004"]


def test_both_engines_write_the_same_bytes_and_spark_leaves_nothing_behind(bank_log, tmp_path):
    few_users(bank_log, tmp_path / "few")
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "few", broken)
    part = next(iter(sorted((broken / logs.TRANSACTIONS).rglob("part-*.parquet"))))
    part.write_bytes(part.read_bytes()[:-30])
    before = set(psutil.Process().children(recursive=True))
    handler = signal.getsignal(signal.SIGINT)
    with spark_session():
        for name, log_dir in (("all", bank_log), ("few", tmp_path / "few")):
            build_dataset(log_dir, tmp_path / f"{name}-spark", CONFIG, "spark")
        with pytest.raises(logs.LogError, match="not a readable Parquet file") as refused:
            build_dataset(broken, tmp_path / "broken-spark", CONFIG, "spark")
        assert signal.getsignal(signal.SIGINT) is handler
    assert str(part) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "broken-spark").exists()
    for name, log_dir in (("all", bank_log), ("few", tmp_path / "few")):
        build_dataset(log_dir, tmp_path / f"{name}-local", CONFIG)
        found = contents(tmp_path / f"{name}-spark")
        assert len(found) == 4 + 4 * 5
        assert found == contents(tmp_path / f"{name}-local")
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, 10)
    assert alive == []
    assert "PYSPARK_GATEWAY_PORT" not in os.environ
    assert not list(Path(tmp_path).glob(".*unfinished"))


def test_an_interrupt_is_no_error_of_spark(caplog):
    spark, java = logging.getLogger("py4j.clientserver"), logging.getLogger()
    with quiet_interrupts():
        for logger in (spark, java):
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                logger.error("while a command was sent", exc_info=True)
        java.error("anything else")
    spark.error("afterwards")
    assert [record.message for record in caplog.records] == ["anything else", "afterwards"]

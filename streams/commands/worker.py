"""`fintrec worker ingest|score|lake`: run a worker in the foreground, any number of times."""

import logging
import os
import sys
import uuid
from pathlib import Path

import click

from streams.commands.options import dir_option


@click.group()
def worker() -> None:
    """Run an ingest, a scoring or a lake worker; at most one of each kind a partition is busy."""


@worker.command()
@dir_option
@click.option("--log-level", default="info", show_default=True)
def ingest(stack_dir: Path | None, log_level: str) -> None:
    """Events into user states."""
    _run("streams.ingest_worker", stack_dir, log_level)


@worker.command()
@dir_option
@click.option("--log-level", default="info", show_default=True)
def score(stack_dir: Path | None, log_level: str) -> None:
    """Slate requests into slates."""
    _run("streams.score_worker", stack_dir, log_level)


@worker.command()
@dir_option
@click.option("--log-level", default="info", show_default=True)
@click.option("--compact-once", is_flag=True, help="Only merge small files, then end.")
def lake(stack_dir: Path | None, log_level: str, compact_once: bool) -> None:
    """Topics into Parquet by event day, under LAKE_DIR (setting lake_dir)."""
    if not compact_once:
        _run("streams.lake_worker", stack_dir, log_level)
        return
    from streams.lake_compaction import Limits, compact_all
    from streams.settings import load_settings

    settings = load_settings(stack_dir)
    limits = Limits(settings.lake_max_parts, 0, settings.lake_keep_s)
    writer = f"compact-once-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    merged = compact_all(settings.lake_dir, limits, writer)
    click.echo(f"{merged:,} parts merged under {settings.lake_dir}")


def _run(module: str, stack_dir: Path | None, log_level: str) -> None:
    """Become `faust -A module worker`, so that both ways start the very same process."""
    if stack_dir is not None:
        os.environ["FINTREC_DIR"] = str(stack_dir.resolve())
    # One BLAS thread: the arrays are small, and the cores belong to Kafka and Triton as well.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    logging.captureWarnings(True)
    from faust.cli.faust import cli

    sys.argv = ["faust", "-A", module, "worker", "--without-web", "--loglevel", log_level]
    cli()

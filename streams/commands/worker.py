"""`fintrec worker ingest|score`: run a worker in the foreground, any number of times."""

import logging
import os
import sys
from pathlib import Path

import click

from streams.commands.options import dir_option


@click.group()
def worker() -> None:
    """Run an ingest or a scoring worker; start as many of each as there are partitions."""


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

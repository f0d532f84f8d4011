"""The three Faust apps, built from settings: everything real is connected here and nowhere else."""

import logging

import faust

from features.clock import SystemClock
from streams.answered import AnsweredRequests
from streams.clients import feast_connection_string
from streams.feed import create_app, feed_group
from streams.ingest import Ingest
from streams.lake import Lake
from streams.metrics import serve
from streams.model_versions import ModelVersions
from streams.producer import Producer
from streams.redis_client import connect
from streams.reference import ReferenceData
from streams.refresh import RefreshSweep
from streams.scoring import Scoring
from streams.settings import Settings
from streams.state_store import RedisStateStore
from streams.triton import TritonModels

FEAST_PROJECT = "fintrec"  # as feature_repo/feature_store.yaml has it


def state_store(settings: Settings, timeout_ms: int) -> RedisStateStore:
    """The hot path into the online store, every reply within `timeout_ms`."""
    address = feast_connection_string(settings)
    return RedisStateStore(lambda: connect(address, timeout_ms), FEAST_PROJECT)


def ingest_app(settings: Settings) -> faust.App:
    """The app of an ingest worker."""
    triton = TritonModels(settings)
    models = ModelVersions(triton, settings.model_repository)
    # An event may wait for a slow store; a request may not.
    store = state_store(settings, max(settings.store_timeout_ms, settings.encode_timeout_ms))
    producer = Producer(settings)
    sweep = RefreshSweep(settings, store, models, producer)
    work = Ingest(settings, SystemClock(), store, triton, models, producer, sweep)
    return create_app(work, settings)


def score_app(settings: Settings) -> faust.App:
    """The app of a scoring worker."""
    triton = TritonModels(settings)
    work = Scoring(
        settings,
        SystemClock(),
        state_store(settings, settings.store_timeout_ms),
        triton,
        ModelVersions(triton, settings.model_repository),
        Producer(settings),
        ReferenceData(settings),
        AnsweredRequests(settings, feed_group(Scoring.name)),
    )
    return create_app(work, settings)


def lake_app(settings: Settings) -> faust.App:
    """The app of a lake worker."""
    return create_app(Lake(settings), settings)


def prepare_process(settings: Settings) -> None:
    """What a worker's process needs once: quiet client libraries, and the metrics port if wanted."""
    for name in ("aiokafka", "kafka"):
        # They format their records even when nobody listens; the feed says what matters itself.
        logging.getLogger(name).setLevel(logging.ERROR)
    serve(settings)

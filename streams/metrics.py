"""Prometheus metrics of the workers: what is counted, and the port, opened only when asked for."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from streams.settings import Settings

_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.25, 0.5, 1, 5)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

EVENTS: Final = Counter("fintrec_events", "Records read", ["topic"])
DEAD_LETTERS: Final = Counter("fintrec_dead_letters", "Records refused", ["topic", "reason"])
SLATES: Final = Counter("fintrec_slates", "Slates emitted", ["tier"])
LOST_WRITES: Final = Counter("fintrec_compare_and_set_lost", "State writes that came too late")
REDELIVERED: Final = Counter("fintrec_redelivered", "Events that a state had applied before")
ENCODE_FAILURES: Final = Counter("fintrec_encode_failures", "Batches folded without hidden states")
HOP_FAILURES: Final = Counter("fintrec_hop_failures", "Calls that were late or failed", ["hop"])
REFRESHED: Final = Counter("fintrec_states_refreshed", "States asked to be built anew")
REPAIRED: Final = Counter("fintrec_states_repaired", "Hidden states recomputed while scoring")
LAKE_ROWS: Final = Counter("fintrec_lake_rows", "Rows written to the lake", ["topic"])
LAKE_SKIPPED: Final = Counter(
    "fintrec_lake_skipped", "Records that are no row of the lake", ["topic", "reason"]
)
LAKE_MISSING: Final = Counter(
    "fintrec_lake_missing", "Offsets that Kafka had dropped before the lake read them", ["topic"]
)
LAKE_OVERTAKEN: Final = Counter(
    "fintrec_lake_overtaken", "Batches of a partition that another writer had taken over"
)
LAKE_MERGED: Final = Counter("fintrec_lake_merged", "Small parts merged into larger ones")
LAG: Final = Gauge("fintrec_consumer_lag", "Records not yet read", ["topic", "partition"])
LAST_COMMIT: Final = Gauge("fintrec_last_commit_timestamp_seconds", "When offsets were committed")
MODEL_VERSION: Final = Gauge("fintrec_model_version", "Active model version")
POLICY_VERSION: Final = Gauge("fintrec_policy_version", "Newest policy version", ["scope"])
HOP_SECONDS: Final = Histogram(
    "fintrec_hop_seconds", "Time of a batch in a hop", ["worker", "hop"], buckets=_SECONDS
)
BATCH_SIZE: Final = Histogram("fintrec_batch_size", "Records a batch", ["worker"], buckets=_ROWS)
EVENT_TO_STATE: Final = Histogram(
    "fintrec_event_to_state_seconds", "From an event's record to its state", buckets=_SECONDS
)


def serve(settings: Settings) -> None:
    """Open the metrics port if the settings name one."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)

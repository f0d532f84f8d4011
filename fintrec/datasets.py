"""Training sets, point in time: the door to `fintrec/dataset/`, which builds them out of logs.

build_training_set(LOG_DIR, config)       in memory
build_dataset(LOG_DIR, DATASET_DIR, ...)  on disk, a shard at a time, locally or on Spark
load_training_set(DATASET_DIR)            what was built, equal to the first
"""

from fintrec.dataset.build import (
    ENGINES,
    build_dataset,
    build_training_set,
    load_training_set,
)
from fintrec.dataset.config import DatasetConfig, demo, paper, read_config
from fintrec.dataset.files import is_dataset, read_manifest
from fintrec.dataset.training_set import (
    EVER_MS,
    PERIODS,
    SLOTS,
    Decisions,
    TrainingSet,
    converted,
    histories,
    label_known,
)

__all__ = [
    "ENGINES",
    "EVER_MS",
    "PERIODS",
    "SLOTS",
    "DatasetConfig",
    "Decisions",
    "TrainingSet",
    "build_dataset",
    "build_training_set",
    "converted",
    "demo",
    "histories",
    "is_dataset",
    "label_known",
    "load_training_set",
    "paper",
    "read_config",
    "read_manifest",
]

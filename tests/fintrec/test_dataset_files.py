"""DATASET_DIR: what is written is what is built, whatever the shards."""

import numpy as np
import pytest

from fintrec import datasets
from fintrec.datasets import DatasetConfig, build_dataset, build_training_set, load_training_set

CONFIG = DatasetConfig(validation_days=3, test_days=4, label_days=5)


def assert_equal(one, other):
    """Two training sets hold the same, to the byte."""
    for name in ("items", "content_types", "categories", "users", "exclusions"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.vocabulary.to_dict() == other.vocabulary.to_dict()
    assert one.window_ms.tolist() == other.window_ms.tolist()
    for mine, theirs in zip(one.logs, other.logs, strict=True):
        assert mine.tobytes() == theirs.tobytes()
    for period in datasets.PERIODS:
        mine, theirs = getattr(one, period), getattr(other, period)
        for field in mine.__dataclass_fields__:
            left, right = getattr(mine, field), getattr(theirs, field)
            if isinstance(left, np.ndarray):
                assert left.dtype == right.dtype, field
                assert left.tobytes() == right.tobytes(), field
            else:
                assert left == right, field


@pytest.mark.parametrize("num_shards", [1, 7, 100])
def test_a_data_set_on_disk_equals_the_one_in_memory_whatever_the_shards(
    bank_log, tmp_path, num_shards
):
    config = DatasetConfig(validation_days=3, test_days=4, label_days=5, num_shards=num_shards)
    build_dataset(bank_log, tmp_path / "set", config)
    loaded = load_training_set(tmp_path / "set")
    assert len(loaded.train) > 300
    assert_equal(loaded, build_training_set(bank_log, CONFIG))

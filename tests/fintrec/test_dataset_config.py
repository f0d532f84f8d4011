import dataclasses
import tomllib
from pathlib import Path

import pytest

from features.errors import ConfigurationError
from features.records import Item
from fintrec.dataset.config import DatasetConfig, paper, read_config, window_days
from fintrec.datasets import build_training_set
from fintrec.logs import read_items


def written(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_a_file_changes_the_fields_that_it_names(tmp_path):
    path = written(
        tmp_path,
        """
        test_days = 3.5
        label_days = 20
        negatives_rate = 1
        num_shards = 4
        [category_window_days]
        travel = 15
        [content_type_window_days]
        third_party = 30
        """,
    )
    assert read_config(path, paper()) == DatasetConfig(
        train_days=90,
        test_days=3.5,
        label_days=20,
        negatives_rate=1,
        num_shards=4,
        category_window_days={"travel": 15},
        content_type_window_days={"third_party": 30},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("test_day = 3", r"key 'test_day' is unknown, expected one of .*test_days"),
        ("test_days = '3'", "test_days is '3', expected a number"),
        ("test_days = true", "test_days is True, expected a number"),
        ("test_days = nan", "test_days=nan must be positive"),
        ("num_shards = 1.5", "num_shards is 1.5, expected a whole number"),
        (
            "num_shards = 100000",
            "num_shards=100000 must be at most 512: a build keeps a file open for each shard",
        ),
        ("item_window_days = 3", "item_window_days is 3, expected a table of days"),
        ("[item_window_days]\na = 'x'", "item_window_days.a is 'x', expected days"),
        ("[item_window_days]\na = 0", r"item_window_days.a=0 must be in \(0, 365\]"),
        ("[content_type_window_days]\nx = 1", "content_type_window_days has 'x', not of"),
        ("negatives_rate = 0", r"negatives_rate=0 must be in \(0, 1\]"),
        ("notice_days = -1", "notice_days=-1 must not be negative"),
        ("test_days =", "not TOML"),
    ],
)
def test_a_wrong_file_says_its_name_and_what_was_expected(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=said) as refused:
        read_config(path, paper())
    assert str(refused.value).startswith(f"{path}: ")


def test_a_window_is_the_items_own_unless_named_closer_and_never_above_the_cap():
    items = tuple(
        Item(
            item_id=name,
            version=1,
            content_type=kind,
            category=category,
            attribution_window_days=60,
        )
        for name, kind, category in (
            ("a", "marketing", "travel"),
            ("b", "marketing", "travel"),
            ("c", "marketing", "cards"),
            ("d", "servicing", "cards"),
        )
    )
    config = DatasetConfig(
        label_days=40,
        item_window_days={"a": 5},
        category_window_days={"travel": 15},
        content_type_window_days={"marketing": 30},
    )
    assert window_days(items, config) == [5, 15, 30, 40]
    with pytest.raises(ValueError, match="item_window_days names 'z'"):
        window_days(items, DatasetConfig(item_window_days={"z": 5}))


def test_the_example_of_the_documentation_is_good_and_shows_every_field(bank_log, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "data_layout.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    config = read_config(written(tmp_path, example), DatasetConfig())
    assert {f.name for f in dataclasses.fields(config)} == set(tomllib.loads(example))
    assert {15, 60} <= set(window_days(read_items(bank_log), config))


def test_label_only_days_give_no_decisions_but_complete_the_labels_before(bank_log):
    config = {"validation_days": 3, "test_days": 4, "label_days": 5}
    plain = build_training_set(bank_log, DatasetConfig(**config))
    later = build_training_set(bank_log, DatasetConfig(**config, label_only_days=5))
    assert later.exclusions["in_label_only_days"] > 50
    assert plain.test.time_ms.max() >= later.test.observed_until_ms - 5 * 86_400_000
    assert (later.test.time_ms + later.window_ms.max() <= later.test.observed_until_ms).all()

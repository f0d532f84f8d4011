"""Age bands of the simulated bank: they follow from users, decide nothing, and train nothing."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fintrec import demographics, logs
from fintrec.bank import simulate as banks
from fintrec.bank.chunk import _STAGES, stage_rng
from fintrec.bank.demographics import age_bands
from fintrec.bank.population import build_population
from fintrec.bank.simulate import SIZES, BankSize, simulate
from fintrec.datasets import DatasetConfig, build_dataset, build_training_set, load_training_set

END_MS = 1_795_900_000_123
CONFIG = DatasetConfig(validation_days=2, test_days=2, label_days=2)


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aged") / "log"
    simulate(BankSize("test", 40, 20), 5, END_MS, folder)
    return folder


def others(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but those of the table."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and logs.DEMOGRAPHICS not in path.parts
    }


def test_every_user_has_a_band_and_the_same_seed_gives_the_same(log_dir, tmp_path):
    users = [f"u{number:06d}" for number in range(40)]
    found = demographics.read_age_bands(log_dir, users)
    assert list(found) == users
    assert set(found.values()) <= set(demographics.AGE_BANDS)
    simulate(BankSize("test", 40, 20), 5, END_MS, tmp_path / "again")
    assert demographics.read_age_bands(tmp_path / "again", users) == found


def test_no_other_byte_of_a_log_depends_on_the_ages(log_dir, tmp_path, monkeypatch):
    def other_ages(rng, people, start_ms):
        return rng.integers(0, 5, (100, people.num_users))[-1]

    monkeypatch.setattr(banks, "age_bands", other_ages)
    simulate(BankSize("test", 40, 20), 5, END_MS, tmp_path / "log")
    assert others(tmp_path / "log") == others(log_dir)
    assert others(tmp_path / "log.truth") == others(log_dir.with_name("log.truth"))
    users = [f"u{number:06d}" for number in range(40)]
    read = demographics.read_age_bands
    assert read(tmp_path / "log", users) != read(log_dir, users)


def test_the_draw_has_a_generator_of_its_own_behind_those_of_the_log():
    assert _STAGES[-1] == "demographics"
    children = np.random.SeedSequence(5, spawn_key=(1, 0)).spawn(10)
    for place, stage in enumerate(_STAGES[:10]):
        assert stage_rng(5, 0, stage).random() == np.random.default_rng(children[place]).random()


def test_ages_differ_by_what_users_are_and_no_band_is_empty():
    size = SIZES["small"]
    span = size.span(END_MS)
    rng = np.random.default_rng(1)
    people = build_population(rng, 4_000, span.history_start_ms, span.start_ms, span.end_ms)
    band = age_bands(rng, people, span.start_ms)
    shares = np.bincount(band, minlength=5) / len(band)
    assert shares.min() > 0.05
    tenure = np.where(people.owned_since_UE < span.start_ms, people.owned_since_UE, span.start_ms)
    oldest = tenure.min(axis=1)
    assert oldest[band == 4].mean() < oldest[band == 0].mean()


def test_a_log_without_the_table_has_no_bands(tmp_path):
    assert demographics.read_age_bands(tmp_path, ["u000001"]) is None


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"user_id": ["u1"], "age_band": ["17"]}, "age_band is '17', expected one of 18-24"),
        ({"user_id": ["u1"]}, "expected Parquet with columns user_id, age_band"),
    ],
)
def test_another_table_is_refused_with_its_file(tmp_path, table, says):
    (tmp_path / logs.DEMOGRAPHICS).mkdir()
    pq.write_table(pa.table(table), tmp_path / logs.DEMOGRAPHICS / "part-0.parquet")
    with pytest.raises(logs.LogError, match=says):
        demographics.read_age_bands(tmp_path, ["u1"])


# An audit hook stays for good, so it must cost nothing while no test listens.
_OPENED: list[str] | None = None


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if _OPENED is not None and event in ("open", "os.listdir", "os.scandir"):
        _OPENED.append(str(arguments[0]))


sys.addaudithook(_heard)


def test_no_data_set_reads_them_though_it_takes_them_along(log_dir, tmp_path):
    """Parquet is opened by Arrow, which no hook hears: so the files are made unreadable as well."""
    global _OPENED
    broken = tmp_path / "log"
    shutil.copytree(log_dir, broken)
    (broken / logs.DEMOGRAPHICS / "part-0.parquet").write_bytes(b"not Parquet")
    build_dataset(log_dir, tmp_path / "set", CONFIG)
    _OPENED = []
    try:
        build_training_set(broken, CONFIG)
        opened = _OPENED
    finally:
        _OPENED = None
    assert opened
    assert not [p for p in opened if f"{logs.DEMOGRAPHICS}/" in p and p.endswith(".parquet")]
    build_dataset(broken, tmp_path / "broken", CONFIG)
    assert others(tmp_path / "set") == others(tmp_path / "broken")
    copied = tmp_path / "broken" / logs.DEMOGRAPHICS / "part-0.parquet"
    assert copied.read_bytes() == b"not Parquet"
    users = load_training_set(tmp_path / "set").users
    assert set(demographics.read_age_bands(tmp_path / "set", users)) == set(users)

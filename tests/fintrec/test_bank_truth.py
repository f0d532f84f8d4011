import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from features.spec import ENROLLMENTS
from fintrec import logs
from fintrec.bank import needs, truth
from fintrec.bank.chunk import catalogue_of, simulate_chunk
from fintrec.bank.population import Population
from fintrec.bank.simulate import BankSize, simulate
from fintrec.commands.train import train
from fintrec.datasets import DatasetConfig, build_training_set

pytestmark = pytest.mark.usefixtures("without_pictures")

END_MS = 1_795_900_000_123
SIZE = BankSize("test", 60, 24)  # the log of `bank_log`
SEED = 7
CONFIG = DatasetConfig(validation_days=3, test_days=4, label_days=5)


@pytest.fixture(scope="module")
def chunk():
    return simulate_chunk(SEED, 0, 0, 60, SIZE.span(END_MS))


def rows_of(table):
    return {row["event_id"]: row for row in table.to_pylist()}


def test_every_impression_of_the_log_has_its_truth(bank_log):
    told = rows_of(truth.read_days(bank_log, truth.IMPRESSIONS))
    clicks = set()
    shown = {}
    for row in logs.read_table(bank_log, logs.CLICKSTREAM).to_pylist():
        if row["action"] == "impression":
            shown[row["event_id"]] = row
        elif row["action"] == "click":
            clicks.add((row["slate_id"], row["item_id"]))
    assert told.keys() == shown.keys()
    for event_id, row in shown.items():
        found = told[event_id]
        for name in ("user_id", "item_id", "slate_id", "position", "event_time_ms", "propensity"):
            assert found[name] == row[name]
        assert 0 < found["propensity"] <= 1
        assert 0 < found["click_probability"] < 1
        chances = [found[f"conversion_probability_if_{name}"] for name in ("clicked", "not")]
        assert 0 < chances[1] < chances[0] <= 1
        assert found["clicked"] == ((row["slate_id"], row["item_id"]) in clicks)


def test_every_page_with_items_has_its_needs(bank_log, chunk):
    told = {row["slate_id"]: row for row in truth.read_days(bank_log, truth.PAGES).to_pylist()}
    slates = {
        row["slate_id"]
        for row in logs.read_table(bank_log, logs.CLICKSTREAM).to_pylist()
        if row["action"] == "impression"
    }
    assert slates <= told.keys()
    name = chunk.name("sla")
    for page in range(0, len(chunk.pages.user), 37):
        row = told[f"{name}{page}"]
        for place, need in enumerate(needs.NEEDS):
            assert row[f"slow_{need}"] == chunk.pages.slow_PN[page, place]
            assert row[f"fast_{need}"] == chunk.pages.fast_PN[page, place]


def test_every_conversion_has_its_cause_and_a_caused_one_its_slate(bank_log):
    told = rows_of(truth.read_days(bank_log, truth.CONVERSIONS))
    found = rows_of(logs.read_table(bank_log, logs.CONVERSIONS))
    assert told.keys() == found.keys()
    shown, clicked = set(), set()
    for row in truth.read_days(bank_log, truth.IMPRESSIONS).to_pylist():
        (clicked if row["clicked"] else shown).add((row["slate_id"], row["item_id"]))
    for event_id, row in told.items():
        assert (row["item_id"], row["event_time_ms"]) == (
            found[event_id]["item_id"],
            found[event_id]["event_time_ms"],
        )
        place = (row["slate_id"], row["item_id"])
        expected = {"click": clicked, "exposure": shown}.get(row["cause"], {("", row["item_id"])})
        assert place in expected


def test_users_and_catalogue_come_back_as_they_were_simulated(bank_log, chunk):
    ids, people = truth.read_users(bank_log)
    assert ids == tuple(f"u{number:06d}" for number in range(60))
    for field in Population.__dataclass_fields__:
        assert np.array_equal(getattr(people, field), getattr(chunk.people, field)), field
    _, later = truth.read_users(bank_log, as_of_end=True)
    assert np.array_equal(later.owned_since_UE, chunk.owned_since_UE)
    assert (later.owned_since_UE <= people.owned_since_UE).all()
    assert later.owned_since_UE.shape == (60, len(ENROLLMENTS))
    found, made = truth.read_catalogue(bank_log), catalogue_of(SEED, SIZE.span(END_MS))
    assert found.items == made.items
    assert found.offers == made.offers
    for name in ("need", "requires", "enrolls", "lag_days", "goal_rate", "quality", "prior"):
        assert np.array_equal(getattr(found, name), getattr(made, name))


def test_a_log_without_truth_is_an_error_that_says_where_it_was_looked_for(tmp_path):
    log_dir = tmp_path / "log"
    for read in (truth.read_users, truth.read_catalogue):
        with pytest.raises(logs.LogError, match=r"log\.truth"):
            read(log_dir)
    with pytest.raises(logs.LogError, match=r"log\.truth"):
        truth.read_days(log_dir, truth.PAGES)


def changed(path, change):
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def test_a_truth_of_another_bank_is_refused_with_what_was_expected(bank_log, tmp_path):
    log_dir, hidden = tmp_path / "log", tmp_path / "log.truth"
    log_dir.symlink_to(bank_log)
    shutil.copytree(truth.truth_dir(bank_log), hidden)
    changed(hidden / "users" / "part-0.parquet", lambda table: table.slice(1))
    with pytest.raises(logs.LogError, match=r"users: 59 users, expected 60 as in .*manifest.json"):
        truth.read_users(log_dir)
    changed(hidden / "users" / "part-0.parquet", lambda table: table.drop_columns(["device"]))
    with pytest.raises(logs.LogError, match=r"part-0.parquet: column 'device' is missing"):
        truth.read_users(log_dir)
    path = hidden / truth.ITEMS
    of_another = pa.array(["of_another_bank"])
    changed(
        path,
        lambda table: table.set_column(
            0, "item_id", pa.chunked_array([of_another, table["item_id"].combine_chunks()[1:]])
        ),
    )
    with pytest.raises(logs.LogError, match=r"item 'of_another_bank' is not in .*items.v1"):
        truth.read_catalogue(log_dir)
    changed(path, lambda table: table.drop_columns(["quality"]))
    with pytest.raises(logs.LogError, match=r"items.parquet: column 'quality' is missing"):
        truth.read_catalogue(log_dir)


class Watch:
    """Paths that Python opens or lists while it is on; an audit hook cannot be taken off again."""

    def __init__(self):
        self.paths = None
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if self.paths is not None and event in ("open", "os.scandir", "os.listdir"):
            self.paths.append(str(arguments[0]))


@pytest.fixture(scope="module")
def watch():
    return Watch()


def trained(log_dir, out):
    argv = [str(log_dir), "--out", str(out), "--epochs", "1", "--set", "d_model=16"]
    argv += ["--set", "num_layers=1", "--set", "evaluation_rows=64"]
    result = CliRunner().invoke(train, argv, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {path.name: path.read_bytes() for path in out.glob("*.safetensors")}


def test_training_neither_opens_the_truth_nor_depends_on_it(tmp_path, watch):
    log_dir = tmp_path / "log"
    simulate(BankSize("test", 30, 24), 1, END_MS, log_dir)
    watch.paths = []
    before = build_training_set(log_dir, CONFIG)
    weights = trained(log_dir, tmp_path / "with")
    paths, watch.paths = watch.paths, None
    assert any("clickstream.v1" in path for path in paths)
    assert not [path for path in paths if ".truth" in path]
    # Parquet files are opened outside of Python: without the truth everything comes out the same.
    shutil.rmtree(truth.truth_dir(log_dir))
    after = build_training_set(log_dir, CONFIG)
    assert trained(log_dir, tmp_path / "without") == weights != {}
    for period in ("train", "validation", "test"):
        for name in ("time_ms", "request", "static", "shown", "clicked", "converted_items"):
            one, other = (getattr(getattr(ts, period), name) for ts in (before, after))
            assert one.tobytes() == other.tobytes()

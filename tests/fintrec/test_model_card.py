"""A trained checkpoint's card: what it says is what was trained, and it is of no other checkpoint."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from features.errors import ConfigurationError
from fintrec import checkpoint as checkpoints
from fintrec import datasets, logs, model_card
from fintrec.bank.simulate import BankSize, simulate
from fintrec.card_check import check
from fintrec.card_data import rebuilt_hash
from fintrec.card_files import CHECKPOINT, read_card, read_sums
from fintrec.card_judge import judge
from fintrec.card_text import card_text, constant_log_loss, date_of
from fintrec.commands.train import train
from fintrec.metrics import log_loss
from fintrec.model_registry import is_same_test
from fintrec.models.config import TrainingConfig
from tests.fintrec.carded import write_carded
from tests.fintrec.tiny import training_set

pytestmark = pytest.mark.usefixtures("without_pictures")

END_MS = 1_795_900_000_123
AS_BEFORE = ["--set", "evaluation_rows=300", "--seed", "5"]
SMALL = ["--epochs", "1", "--set", "d_model=16", "--set", "num_layers=1"]


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("carded") / "bank"
    simulate(BankSize("test", 60, 24), 7, END_MS, folder)
    return folder


def trained(source: Path, out: Path, *more: str) -> Path:
    arguments = [str(source), "--out", str(out), *SMALL, *more]
    result = CliRunner().invoke(train, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def directory(log_dir, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "a"
    return trained(log_dir, out, *AS_BEFORE)


@pytest.fixture(scope="module")
def card(directory):
    return read_card(directory)


def test_training_leaves_a_card_beside_the_weights(directory, card) -> None:
    names = {path.name for path in directory.iterdir()}
    assert {"checkpoint.json", "card.json", "MODEL_CARD.md", "judged.npz"} <= names
    assert not [name for name in names if name.startswith(".")]
    assert CHECKPOINT == checkpoints.METADATA
    assert (directory / "MODEL_CARD.md").read_text() == card_text(card)


def test_on_the_same_pages_its_metrics_are_those_of_training(
    log_dir, directory, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(model_card, "PAGES_SEED", 5)  # the recipe's
    shutil.copytree(directory, tmp_path / "same")
    data = datasets.build_training_set(log_dir, datasets.demo())
    card = model_card.write(tmp_path / "same", checkpoints.load(directory), data, log_dir)
    told = checkpoints.load(directory).metrics
    for period in ("validation", "test"):
        for name, found in card["metrics"][period].items():
            assert found["value"] == pytest.approx(told[period][name], abs=1e-6), name
            assert found["low"] < found["high"], name
        for name in ("pages", "clicks", "conversions"):
            assert card["judged"][period][name] == told[period][name]
    assert card["judged"]["test"]["pages"] == 300 < card["judged"]["test"]["of_pages"]


def test_checkpoints_of_other_seeds_are_judged_on_the_same_pages(tmp_path) -> None:
    for seed in (1, 2):
        training = TrainingConfig(seed=seed, evaluation_rows=50)
        write_carded(tmp_path / str(seed), seed=seed, training=training)
    first, second = (read_card(tmp_path / str(seed)) for seed in (1, 2))
    assert first["judged"]["test"]["pages"] == 50 < first["judged"]["test"]["of_pages"]
    assert first["metrics"] != second["metrics"]
    assert is_same_test(first, second)


def test_its_data_window_is_that_of_the_decisions(log_dir, card) -> None:
    data = datasets.build_training_set(log_dir, datasets.demo())
    for name in ("train", "validation", "test"):
        part, told = getattr(data, name), card["data"]["periods"][name]
        assert told["first_ms"] == part.time_ms.min()
        assert told["last_ms"] == part.time_ms.max()
        assert told["pages"] == len(part)
        assert told["clicks"] == part.clicked.sum()
    assert card["data"]["log"]["seed"] == 7
    assert (card["data"]["kind"], card["data"]["name"]) == ("log", "bank")


def test_sizes_and_hashes_are_those_of_the_files(directory, card) -> None:
    found = checkpoints.load(directory)
    assert found.pctr is not None
    count = sum(values.numel() for values in found.pctr.parameters())
    assert card["models"]["pctr"]["parameters"] == count
    assert card["hashes"]["code"] == checkpoints.code_version()
    assert card["hashes"]["vocabulary"] == model_card.vocabulary_sha256(found)


def test_slices_are_by_age_channel_and_content_type(card) -> None:
    assert card["fairness"]["missing"] == []
    for rows in card["fairness"]["slices"].values():
        assert {row["attribute"] for row in rows} == {"age band", "channel", "content type"}
        by_channel = [row for row in rows if row["attribute"] == "channel"]
        assert {row["group"] for row in by_channel} == {"web", "mobile_app"}
    clicks = card["fairness"]["slices"]["pctr"]
    for attribute in ("age band", "channel", "content type"):
        mine = [row for row in clicks if row["attribute"] == attribute]
        assert sum(row["rows"] for row in mine) == card["judged"]["test"]["impressions"]
        assert sum(row["positives"] for row in mine) == card["judged"]["test"]["clicks"]


def test_a_data_set_has_the_ages_of_its_log_and_a_log_without_them_says_so(
    log_dir, card, tmp_path
) -> None:
    datasets.build_dataset(log_dir, tmp_path / "set", datasets.demo())
    of_set = read_card(trained(tmp_path / "set", tmp_path / "b", *AS_BEFORE))
    assert of_set["fairness"] == card["fairness"]
    assert of_set["data"]["kind"] == "data set"
    for name in ("hash", "periods", "log"):
        assert of_set["data"][name] == card["data"][name]
    ageless = tmp_path / "ageless"
    shutil.copytree(log_dir, ageless)
    shutil.rmtree(ageless / logs.DEMOGRAPHICS)
    out = trained(ageless, tmp_path / "c", *AS_BEFORE)
    assert read_card(out)["fairness"]["missing"] == ["age band"]
    assert "Slices by age band: not available" in (out / "MODEL_CARD.md").read_text()
    one, other = (checkpoints.load(folder) for folder in (tmp_path / "b", out))
    assert one.metrics["test"] == other.metrics["test"], "age decides nothing"


def test_sums_by_user_add_up_to_the_losses(directory, card) -> None:
    sums = read_sums(directory)
    assert sums is not None
    means = ("pctr_log_loss", "pcvr_log_loss", "pctr_next_item_log_loss", "pctr_recall_at_5")
    for name in means:
        mean = sums[f"{name}_sum"].sum() / sums[f"{name}_rows"].sum()
        assert mean == pytest.approx(card["metrics"]["test"][name]["value"])
        assert len(np.unique(sums[f"{name}_user"])) == card["metrics"]["test"][name]["users"]


def test_a_card_of_another_checkpoint_is_refused(directory, tmp_path) -> None:
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    data = json.loads((other / "checkpoint.json").read_text())
    (other / "checkpoint.json").write_text(json.dumps(data | {"metrics": {}}))
    with pytest.raises(ConfigurationError, match=r"checkpoint\.json is not the one .* judged"):
        read_card(other)
    with (other / "pcvr.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigurationError, match=r"pcvr\.safetensors has SHA-256 \w+, the card"):
        read_card(other)
    (other / "card.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not JSON"):
        read_card(other)
    (other / "card.json").unlink()
    with pytest.raises(ConfigurationError, match=r"no card\.json"):
        read_card(other)


def test_the_text_is_made_of_the_json_alone(card) -> None:
    assert card_text(json.loads(json.dumps(card))) == card_text(card)
    text = card_text(card)
    assert "simulated bank" in text
    assert date_of(card["data"]["periods"]["test"]["last_ms"]) in text
    bare = card | {"data": card["data"] | {"log": {}}}
    assert "simulated bank" not in card_text(bare)


def test_empty_periods_and_hand_made_data_have_a_card(tmp_path) -> None:
    from fintrec.models.config import tiny_cpu
    from fintrec.training import train as run

    data = training_set(12)
    recipe = tiny_cpu().with_settings({"d_model": "16", "num_layers": "1", "epochs": "1"})
    found = run(data, recipe)
    checkpoints.save(found, tmp_path)
    nothing = data.test.taken(np.zeros(0, np.int64))
    card = model_card.write(tmp_path, found, replace(data, test=nothing))
    assert card["metrics"]["test"] == {}
    assert card["judged"]["test"]["pages"] == 0
    assert card["fairness"]["slices"] == {}
    assert "pCVR is not judged" in (tmp_path / "MODEL_CARD.md").read_text()
    assert read_card(tmp_path) == json.loads(json.dumps(card))


def test_the_constant_rate_has_the_log_loss_of_its_labels() -> None:
    label = np.arange(50) < 7
    assert constant_log_loss(7, 50) == pytest.approx(log_loss(np.full(50, 0.14), label))
    assert constant_log_loss(0, 50) is None


def test_the_hidden_truth_is_added_to_a_finished_card(log_dir, directory, card, tmp_path) -> None:
    judged = tmp_path / "judged"
    shutil.copytree(directory, judged)
    judge(judged, log_dir)
    found = read_card(judged)
    truth = found.pop("hidden_truth")
    assert found == card, "nothing else of the card changes"
    # The same pages as the card's own metrics.
    assert truth["pages"] == card["judged"]["test"]["pages"]
    for name, told in (("pctr", truth["clicks"]), ("pcvr", truth["conversions"]["all_any_cause"])):
        metric = card["metrics"]["test"][f"{name}_log_loss"]["value"]
        assert told["log_loss"] == pytest.approx(metric, abs=2e-6)
    assert truth["clicks"]["entropy"] < truth["clicks"]["expected_log_loss"]
    text = (judged / "MODEL_CARD.md").read_text()
    assert "## Calibration against the hidden truth" in text
    assert f"{truth['clicks']['mean_true']:.4f}" in text
    assert "hidden truth" not in (directory / "MODEL_CARD.md").read_text()
    assert {one.what: one.holds for one in check(judged, read_card(judged))}["MODEL_CARD.md"]


def test_only_the_log_of_the_card_with_its_truth_can_judge_it(directory, log_dir, tmp_path) -> None:
    other = tmp_path / "other"
    simulate(BankSize("test", 20, 24), 8, END_MS, other)
    with pytest.raises(ConfigurationError, match="its training set has the hash .* the card is of"):
        judge(directory, other)
    datasets.build_dataset(other, tmp_path / "set", datasets.demo())
    with pytest.raises(ConfigurationError, match="expected one log"):
        judge(directory, log_dir, tmp_path / "set")
    shutil.copytree(log_dir, tmp_path / "alone")  # without the truth beside it
    with pytest.raises(logs.LogError, match="expected a log of `fintrec simulate`"):
        judge(directory, tmp_path / "alone")
    assert read_card(directory)["hashes"]["checkpoint"]


def test_what_does_not_hold_any_more_is_said_and_what_is_not_looked_at_too(
    directory, log_dir, card, tmp_path, monkeypatch
) -> None:
    rebuilt = rebuilt_hash(card, log_dir)
    assert all(one.holds for one in check(directory, card, rebuilt))
    changed = tmp_path / "changed"
    shutil.copytree(directory, changed)
    (changed / "MODEL_CARD.md").write_text("perfect in every way\n")
    with (changed / "judged.npz").open("ab") as file:
        file.write(b"x")
    monkeypatch.setattr("fintrec.card_check.code_version", lambda: "9.9+other")
    monkeypatch.setattr("fintrec.card_check.registry_fingerprint", lambda: "f" * 64)
    told = {one.what: one for one in check(changed, card, "0" * 64)}
    assert [one.what for one in told.values() if one.holds] == ["weights and checkpoint.json"]
    assert "this is 9.9+other" in told["code"].told
    assert "cannot load or serve" in told["feature registry"].told
    assert told["data"].told.startswith(f"the card says {card['data']['hash']}, these are 0")
    assert check(changed, card)[-1].holds is None
    (changed / "judged.npz").unlink()
    assert check(changed, card)[1].told.startswith("missing")

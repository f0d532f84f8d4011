"""`fintrec evaluate sequence`: one JSON object, files that survive a cut, clear refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from features.errors import ConfigurationError
from fintrec.commands.evaluate import evaluate
from fintrec.public import sequences
from fintrec.public.full_ranking import CUTOFFS
from fintrec.public.item_sequences import SequenceFileError
from fintrec.public.sequence_page import section
from fintrec.public.sequence_training import DecoderRecipe
from fintrec.result_files import ResultFolder

SMALL = ("d_model=8", "num_heads=1", "d_feed_forward=8", "epochs=2", "negatives=4")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "shop.txt"
    path.write_text(
        "".join(
            f"{user} {' '.join(map(str, rng.integers(1, 25, rng.integers(3, 9))))}\n"
            for user in range(1, 41)
        )
    )
    return path


def evaluated(file: Path, *arguments: str) -> Result:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    return CliRunner().invoke(
        evaluate, ["sequence", "--data", str(file), *settings, *arguments], catch_exceptions=False
    )


def test_json_holds_every_model_part_and_cutoff_and_nothing_else_is_printed(file: Path) -> None:
    found = json.loads(evaluated(file, "--json").stdout)
    assert (found["users"], found["items"]) == (40, 24)
    assert list(found["models"]) == ["popularity_all", "popularity", "knn", "decoder"]
    for figures in found["models"].values():
        for part in ("validation", "test"):
            assert set(figures[part]) == {f"{n}@{k}" for n in ("hr", "ndcg") for k in CUTOFFS}
            assert 0 <= figures[part]["ndcg@10"] <= figures[part]["hr@10"] <= 1
    assert [goal["goal"] for goal in found["goals"]] == [None, None]  # those of Amazon Beauty


def test_table_shows_both_parts(file: Path) -> None:
    printed = evaluated(file).stdout
    assert "24 items, validation" in printed
    assert "24 items, test" in printed
    assert "popularity_all" in printed


def test_finished_cells_are_kept_and_the_weights_with_them(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = json.loads(evaluated(file, "--json", "--out", str(out)).stdout)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = json.loads(evaluated(file, "--json", "--out", str(out)).stdout)
    assert again == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert load_file(out / "sequence-shop-decoder_seed0.safetensors")["table.weight"].shape == (
        25,
        8,
    )
    epochs = (out / "sequence-shop-decoder_seed0.epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in epochs] == [1, 2]
    with pytest.raises(ConfigurationError, match="take another folder"):
        evaluated(file, "--json", "--out", str(out), "--set", "epochs=1")


def test_run_that_was_cut_goes_on_and_gives_the_same_figures(file: Path, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(what: str, share: float, text: str) -> None:
        raise Cut

    recipe = DecoderRecipe(epochs=3).with_settings({"d_model": 8, "num_heads": 1})
    out = tmp_path / "out"
    with pytest.raises(Cut):
        sequences.evaluate(file, ResultFolder(out, ""), (0,), say=cut, recipe=recipe)
    assert (out / "sequence-shop-knn.json").is_file()
    whole = sequences.evaluate(file, ResultFolder(None, ""), (0,), recipe=recipe)
    resumed = sequences.evaluate(file, ResultFolder(out, ""), (0,), recipe=recipe)
    for part in ("validation", "test"):
        assert resumed["models"]["decoder"][part] == whole["models"]["decoder"][part]


def test_bad_file_and_unknown_setting_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("1 2 3 4\n2 5 zero 7\n")
    with pytest.raises(SequenceFileError, match=r"bad\.txt, line 2: item 2 of user 2 is 'zero'"):
        evaluated(tmp_path / "bad.txt")
    refused = evaluated(file, "--set", "depth=3")
    assert refused.exit_code == 2
    assert "no setting 'depth'" in refused.stderr


def test_goals_are_those_of_the_file_they_were_set_for(file: Path) -> None:
    result = sequences.evaluate(
        file, ResultFolder(None, ""), (0, 1), recipe=DecoderRecipe(epochs=1)
    )
    result["file"] = "Beauty.txt"
    hr, ndcg = sequences.lines(result)
    assert (hr.goal, ndcg.goal) == (0.0801, 0.0473)
    assert len(hr.values) == 2
    assert hr.beside["eSASRec (2025)"] == 0.0928
    assert ndcg.beside["eSASRec (2025)"] == 0.0523


def test_page_gets_the_mean_of_the_seeds_that_the_folder_holds(file: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page.md"
    page.write_text(
        "before\n<!-- results:sequence -->\nstale figures\n<!-- /results:sequence -->\nafter\n"
    )
    runs = [
        json.loads(evaluated(file, "--json", "--out", str(out), "--seed", str(seed)).stdout)
        for seed in (0, 1)
    ]
    assert evaluated(file, "--out", str(out), "--markdown", str(page)).exit_code == 0
    text = page.read_text()
    hr, ndcg = (
        np.mean([run["models"]["decoder"]["test"][f"{name}@10"] for run in runs])
        for name in ("hr", "ndcg")
    )
    (row,) = [line for line in text.splitlines() if line.startswith("| decoder, 2 seeds")][:1]
    assert f"{hr:.4f} / {ndcg:.4f}" in row
    assert "stale figures" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "published" not in text
    assert evaluated(file, "--markdown", str(page)).exit_code == 2


def test_page_of_unfinished_or_unlike_runs_is_refused(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigurationError, match="no finished cell sequence-shop-popularity_all"):
        section(file, out)
    evaluated(file, "--out", str(out), "--seed", "0")
    evaluated(file, "--out", str(out), "--seed", "1", "--set", "epochs=1")
    with pytest.raises(ConfigurationError, match="different settings"):
        section(file, out)

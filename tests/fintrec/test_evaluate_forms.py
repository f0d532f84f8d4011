"""`fintrec evaluate` on files of strangers: judged by the same protocol, or refused in clear words."""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from features.errors import FintrecError
from fintrec.commands.evaluate import evaluate
from fintrec.public import events, offer_training, sessions
from fintrec.public.kind_models import KindSettings
from fintrec.public.leaks import LeakSuspected
from fintrec.public.offer_encoder import OfferSettings
from tests.fintrec.offer_logs import offer_log

SMALL = KindSettings(d_model=8, num_layers=1, num_heads=2, d_feed_forward=8, epochs=1)
MARKS = "# Mine\n<!-- results:public -->\n<!-- /results:public -->\nend\n"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that take a moment; the protocol is the real one."""
    settings = OfferSettings(kinds=SMALL, d_head=4, epochs=20, members=2, learning_rate=0.02)
    for module in (events, offer_training):
        monkeypatch.setattr(module, "OfferSettings", lambda: settings)
    monkeypatch.setattr(events.next_event, "SETTINGS", SMALL)
    monkeypatch.setattr(sessions, "SETTINGS", SMALL)


def judged(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [str(word) for word in arguments])


def session_file(path: Path, newest: str = "1 3 3") -> Path:
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, rng.integers(1, 3, rng.integers(2, 6)))) for _ in range(40)]
    path.write_text("\n".join(["home news shop", *lines, newest]) + "\n")
    return path


def test_a_page_that_training_never_saw_is_judged(tmp_path: Path) -> None:
    result = judged("sessions", "--data", session_file(tmp_path / "mine.seq"), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["pages"], found["test_sessions"]) == (3, 4)
    assert [goal["goal"] for goal in found["goals"]] == [None, None]  # those of msnbc
    assert np.isfinite(found["next_page"]["decoder"]["0"]["test"]["nll"])


def test_a_folder_keeps_its_cells_and_the_page_gets_every_seed(tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page.md"
    page.write_text(MARKS)
    words = ("--data", session_file(tmp_path / "mine.seq"), "--form", "sessions", "--out", out)
    assert judged(*words, "--seeds", 2, "--markdown", page).exit_code == 0
    text = page.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("end\n")
    assert "`sessions-mine-decoder-seed0.json`, `1`" in text
    assert "decoder, seeds 0, 1" in text
    assert text.count("\n| `sessions-mine-") == 3  # where each figure comes from
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert judged(*words, "--seeds", 2).exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_finished_seeds_make_a_page_while_others_are_missing(tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page.md"
    page.write_text(MARKS)
    words = ("--data", session_file(tmp_path / "mine.seq"), "--form", "sessions", "--out", out)
    none = judged(*words, "--finished")
    assert isinstance(none.exception, FintrecError)
    assert "no trained model of mine.seq" in str(none.exception)
    assert judged(*words, "--seeds", 2).exit_code == 0
    (out / "sessions-mine-decoder-seed0.json").unlink()
    assert judged(*words, "--finished", "--markdown", page).exit_code == 0
    assert "decoder, seed 1" in page.read_text()
    assert not (out / "sessions-mine-decoder-seed0.json").exists()


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    data = session_file(tmp_path / "mine.seq")
    result = judged("--data", data, "--form", "sessions", "--out", tmp_path, "--markdown", page)
    assert isinstance(result.exception, FintrecError)
    assert "expected <!-- results:public -->" in str(result.exception)


def test_offers_of_a_strangers_log_are_judged_by_both_variants(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(MARKS)
    data, out = offer_log(tmp_path / "bank.parquet"), tmp_path / "out"
    result = judged(
        "--data", data, "--form", "events", "--out", out, "--seeds", 1, "--markdown", page, "--json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    measures = [goal["measure"] for goal in found["goals"]]
    for model in ("encoder", "encoder and forest"):
        assert f"offer conversion, purged, {model}, log loss" in measures
    assert all(goal["goal"] is None for goal in found["goals"])  # those of BPI Challenge 2012
    assert found["offers"]["purged"]["train_offers"] < found["offers"]["published"]["train_offers"]
    text = page.read_text()
    assert "no figure is below the bound of a leak" in text
    assert "\n| encoder and forest, mean of both log odds, seed 0 | " in text
    both = found["offers"]["encoder"]["0"]["published"]["with_forest"]
    assert f"{both['log_loss']:.4f} / {both['auroc']:.3f}" in text
    assert f"| encoder and forest | {both['minus_forest']['value']:+.4f} (" in text


def test_a_log_that_tells_the_outcome_ends_in_an_error_with_its_figures_kept(
    tmp_path: Path,
) -> None:
    data, out = offer_log(tmp_path / "told.parquet", tell=True), tmp_path / "out"
    result = judged("events", "--data", data, "--out", out, "--json")
    assert isinstance(result.exception, LeakSuspected)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    for model in ("encoder", "encoder and forest"):
        assert any(f", {model}, seed 0: log loss" in text for text in found["suspect"])
    assert (out / "events-told-offers_encoder-seed0.json").is_file()


def test_a_log_without_offers_says_so(tmp_path: Path) -> None:
    data = offer_log(tmp_path / "few.parquet", cases=12)
    result = judged("events", "--data", data)
    assert result.exit_code == 0, result.output
    assert (
        "offers: none judged: 12 offers with a full follow-up, expected at least 50"
        in result.stdout
    )


def one_case(path: Path) -> None:
    table = pq.read_table(offer_log(path, cases=3))
    pq.write_table(table.filter(pc.equal(table["case"], "c0")), path)


def single(text: str) -> object:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("form", "make", "message"),
    [
        ("events", single(""), "not a readable Parquet file"),
        ("events", one_case, "1 cases, expected at least 3"),
        ("events", lambda path: path.write_bytes(b"\xe9\xff"), "not a readable Parquet file"),
        ("sessions", single(""), "no sessions, expected one a line"),
        ("sessions", single("1 2 3\n"), "1 sessions of 2 to 500 pages, expected at least 9"),
        ("sessions", lambda path: path.write_bytes(b"1 2\n\xe9 1\n"), "not a text file"),
        ("sequence", single(""), "no users, expected lines"),
        ("sequence", single("1 5 6 7\n"), "no user has more than 3 items"),
        ("sequence", lambda path: path.write_bytes(b"1 2 3 4\n\xe9 1 2 3\n"), "not a text file"),
    ],
)
def test_a_file_that_cannot_be_judged_is_named(
    tmp_path: Path, form: str, make: object, message: str
) -> None:
    path = tmp_path / "theirs.data"
    assert callable(make)
    make(path)
    result = judged("--data", path, "--form", form, "--out", tmp_path / "out")
    assert isinstance(result.exception, FintrecError)
    assert str(path) in str(result.exception)
    assert message in str(result.exception)


def test_a_folder_without_the_public_data_names_the_missing_file(tmp_path: Path) -> None:
    result = judged("--suite", "public", "--data-dir", tmp_path)
    assert isinstance(result.exception, FintrecError)
    assert "bpic2012.parquet: no such file" in str(result.exception)

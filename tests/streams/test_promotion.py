"""Promotion and rollback against a Triton that is played: what is served when something fails."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from features.errors import ConfigurationError, FintrecError, ModelUnavailable
from fintrec import promotions
from fintrec.card_files import checkpoint_sha256
from fintrec.checkpoint import load, save
from fintrec.export import export, load_script
from fintrec.manifest import SERVED, load_manifest, verify, versions
from fintrec.promotions import PromotionRefused, read_ledger
from streams import promotion
from streams.commands.export import export as export_verb
from streams.commands.models import models
from streams.promotion import Target, promote, rollback
from streams.settings import load_settings
from tests.fintrec.carded import write_carded

CLOCK_MS = 1_795_900_000_000


class Played(Target):
    """A Triton that loads the newest two versions, or fails as it is told to."""

    def __init__(self, repository: Path) -> None:
        super().__init__(load_settings(environ={}), repository, False, lambda: CLOCK_MS)
        object.__setattr__(self, "ready", set())
        object.__setattr__(self, "fails", None)

    def served(self) -> int | None:
        return max(self.ready, default=None)  # type: ignore[attr-defined]

    def load(self, version: int) -> None:
        failure: Callable[[int], None] | None = self.fails  # type: ignore[attr-defined]
        if failure is not None:
            failure(version)
        object.__setattr__(self, "ready", set(versions(self.repository)[-2:]))

    def failing(self, failure: Callable[[int], None] | None) -> "Played":
        object.__setattr__(self, "fails", failure)
        return self


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """Checkpoints `a`, `b`, `c`, and `bad`, whose pCTR is far too high."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate("abc"):
        write_carded(folder / name, seed=seed, num_layers=1)
    write_carded(folder / "bad", b=4.0, num_layers=1)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Played:
    return Played(tmp_path / "models")


@pytest.fixture(scope="module")
def with_a(checkpoints, tmp_path_factory) -> Path:
    """A folder with a repository whose version 1 is the promoted checkpoint `a`, and its ledger."""
    repository = tmp_path_factory.mktemp("with_a") / "models"
    assert promote(Played(repository), checkpoints / "a").version == 1
    return repository.parent


@pytest.fixture
def serving(with_a, tmp_path: Path) -> Played:
    """A Triton that serves a copy of it."""
    shutil.copytree(with_a, tmp_path, dirs_exist_ok=True)
    found = Played(tmp_path / "models")
    found.load(1)
    return found


def sha_of(target: Target, version: int) -> str:
    return load_manifest(target.repository, version).model_sha256("encode")


def told(target: Target) -> list[tuple[str, int, int | None]]:
    entries = read_ledger(target.repository)
    return [(e.action, e.version, e.version_before) for e in entries if e.action != "begin"]


def test_rollback_serves_the_earlier_artefacts_under_a_new_number(target, checkpoints) -> None:
    assert promote(target, checkpoints / "a").version == 1
    assert promote(target, checkpoints / "b").version == 2
    entry = rollback(target)
    assert (entry.version, entry.restores, entry.version_before) == (3, 1, 2)
    assert target.served() == 3
    assert sha_of(target, 3) == sha_of(target, 1) != sha_of(target, 2)
    manifest = load_manifest(target.repository, 3)
    verify(manifest, target.repository)
    assert manifest.restores == 1
    assert manifest.checkpoint == load_manifest(target.repository, 1).checkpoint
    assert (target.repository / "encode/3/card.json").is_file()
    assert told(target) == [("promote", 1, None), ("promote", 2, 1), ("rollback", 3, 2)]


def test_rollbacks_repeat_and_a_promotion_undoes_them(target, checkpoints) -> None:
    for name in "abc":
        promote(target, checkpoints / name)
    assert rollback(target).restores == 2
    again = rollback(target)
    assert (again.version, again.restores) == (5, 1)
    assert sha_of(target, 5) == sha_of(target, 1)
    with pytest.raises(PromotionRefused, match="nothing to go back to"):
        rollback(target)
    assert promote(target, checkpoints / "c").version == 6
    assert sha_of(target, 6) == sha_of(target, 3)
    assert rollback(target).restores == 5
    assert load_manifest(target.repository, 7).restores == 1, "what it restores, at its root"


def test_a_version_of_the_verb_export_can_be_returned_to(target, checkpoints) -> None:
    export(checkpoints / "a", target.repository)
    target.load(1)
    promote(target, checkpoints / "b")
    entry = rollback(target)
    assert entry.restores == 1
    assert entry.checkpoint_sha256 == load_manifest(target.repository, 1).checkpoint


@pytest.mark.parametrize("failure", [ModelUnavailable("not ready"), KeyboardInterrupt()])
def test_what_is_not_loaded_is_taken_back_and_its_number_is_not_used_again(
    serving, checkpoints, failure
) -> None:
    asked = []

    def fail(version: int) -> None:
        asked.append(version)
        if version == 2:
            raise failure

    with pytest.raises(type(failure)):
        promote(serving.failing(fail), checkpoints / "b")
    assert asked == [2, 1], "Triton is told to forget it"
    assert versions(serving.repository) == [1]
    assert serving.served() == 1
    assert not [path for path in serving.repository.rglob("*") if path.name.startswith(".")]
    assert not (serving.repository / "head" / "2").exists()
    assert promote(serving.failing(None), checkpoints / "b").version == 3
    assert told(serving) == [("promote", 1, None), ("withdraw", 2, 1), ("promote", 3, 1)]
    assert rollback(serving).restores == 1


def test_a_killed_promotion_is_taken_back_by_the_next(serving, checkpoints, monkeypatch) -> None:
    killed_while_loading(serving, checkpoints / "b", monkeypatch)
    assert versions(serving.repository) == [1, 2]
    assert serving.served() == 1
    assert promote(serving.failing(None), checkpoints / "c").version == 3
    assert versions(serving.repository) == [1, 3]
    assert told(serving)[1] == ("withdraw", 2, 1)


def test_what_a_killed_export_left_is_gone_after_the_next_promotion(
    serving, checkpoints, monkeypatch
) -> None:
    killed_while_loading(serving, checkpoints / "b", monkeypatch)
    for name in ("encode", "head"):  # as when it died between moving two folders to their places
        (serving.repository / name / "2").rename(serving.repository / name / ".2.partial")
    assert versions(serving.repository) == [1]
    assert promote(serving.failing(None), checkpoints / "c").version == 3
    left = {path.name for name in SERVED for path in (serving.repository / name).iterdir()}
    assert left == {"1", "3", "config.pbtxt"}


def test_a_promotion_killed_after_it_was_served_is_recorded_as_done(
    serving, checkpoints, monkeypatch
) -> None:
    killed_while_loading(serving, checkpoints / "b", monkeypatch)
    serving.failing(None).load(2)  # Triton had gone on with it
    assert rollback(serving).restores == 1
    assert told(serving) == [("promote", 1, None), ("promote", 2, 1), ("rollback", 3, 2)]


def killed_while_loading(target: Played, checkpoint: Path, monkeypatch) -> None:
    """As after kill -9: nothing that follows the load is done."""

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(promotion, "_withdraw", killed)
        with pytest.raises(SystemExit):
            promote(target.failing(killed), checkpoint)


def test_an_export_that_differs_from_its_checkpoint_is_never_loaded(
    serving, checkpoints, monkeypatch
) -> None:
    foreign = serving.repository / "encode/1/model.pt"

    def other_models(path: Path):
        return load_script(foreign if path.parent.parent.name == "encode" else path)

    monkeypatch.setattr("fintrec.export_parity.load_script", other_models)
    asked: list[int] = []
    with pytest.raises(ConfigurationError, match="differs from its checkpoint by"):
        promote(serving.failing(asked.append), checkpoints / "b")
    assert not asked, "nor is what is served loaded anew"
    assert (versions(serving.repository), serving.served()) == ([1], 1)


def test_the_gate_refuses_what_is_worse_beyond_chance_unless_forced(target, checkpoints) -> None:
    promote(target, checkpoints / "a", is_gated=True)
    with pytest.raises(PromotionRefused, match="worse than the served version 1 on the same test"):
        promote(target, checkpoints / "bad", is_gated=True)
    assert told(target) == [("promote", 1, None)]
    entry = promote(target, checkpoints / "bad", is_gated=True, is_forced=True)
    assert "forced, worse in pctr_log_loss by" in entry.note
    entry = promote(target, checkpoints / "a", is_gated=True)
    assert entry.note == "gate against version 2 on the same test pages: passed"


def test_a_served_version_without_a_card_cannot_be_a_gate(serving, checkpoints) -> None:
    (serving.repository / "encode/1/card.json").unlink()
    with pytest.raises(PromotionRefused, match="served without a card"):
        promote(serving, checkpoints / "b", is_gated=True)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "card.json").unlink(), r"no card\.json"),
        (lambda folder: (folder / "pcvr.safetensors").unlink(), r"pcvr\.safetensors is missing"),
        (lambda folder: change(folder, metrics={}), r"checkpoint\.json is not the one"),
        (lambda folder: cut(folder / "pctr.safetensors"), r"pctr\.safetensors has SHA-256"),
        (lambda folder: foreign(folder), "trained on feature registry 0000"),
        (lambda folder: change(folder, format=1), r"checkpoint\.json is not the one"),
    ],
)
def test_a_checkpoint_that_must_not_be_served_is_refused(
    serving, checkpoints, tmp_path, spoil, says
) -> None:
    shutil.copytree(checkpoints / "b", tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    with pytest.raises(FintrecError, match=says):
        promote(serving, tmp_path / "spoilt")
    assert (versions(serving.repository), serving.served()) == ([1], 1)
    assert told(serving) == [("promote", 1, None)]


def change(folder: Path, **changes: object) -> None:
    data = json.loads((folder / "checkpoint.json").read_text()) | changes
    (folder / "checkpoint.json").write_text(json.dumps(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def foreign(folder: Path) -> None:
    """A checkpoint of other features, with the card that was made of it."""
    change(folder, registry="0" * 64)
    bind_card(folder)


def bind_card(folder: Path) -> None:
    """Give the card the hash of what lies beside it now."""
    card = json.loads((folder / "card.json").read_text())
    card["hashes"]["checkpoint"] = checkpoint_sha256(folder)
    (folder / "card.json").write_text(json.dumps(card))


def test_models_whose_outputs_are_no_numbers_are_never_served(
    serving, checkpoints, tmp_path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoints / "b", broken)
    found = load(broken)
    assert found.pctr is not None
    with torch.no_grad():
        found.pctr.item_head.output.weight[0, 0] = torch.nan
    save(found, broken)
    bind_card(broken)
    with pytest.raises(ConfigurationError, match="not finite, expected numbers"):
        promote(serving, broken)
    assert (versions(serving.repository), serving.served()) == ([1], 1)
    assert not [path for path in serving.repository.rglob("*") if path.name.startswith(".")]


def test_the_served_checkpoint_is_not_promoted_a_second_time(serving, checkpoints) -> None:
    with pytest.raises(PromotionRefused, match="is served already, as version 1"):
        promote(serving, checkpoints / "a")
    assert promote(serving, checkpoints / "a", kind="gpu").version == 2, "for another machine"
    assert promote(serving, checkpoints / "b").version == 3
    assert rollback(serving).restores == 2
    with pytest.raises(PromotionRefused, match="is served already, as version 4"):
        promote(serving, checkpoints / "a")


def test_artefacts_that_are_gone_cannot_be_restored(serving, checkpoints) -> None:
    promote(serving, checkpoints / "b")
    with (serving.repository / "head/1/model.pt").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigurationError, match="SHA-256 differs"):
        rollback(serving)
    assert (versions(serving.repository), serving.served()) == ([1, 2], 2)


def called(*arguments: str) -> str:
    result = CliRunner().invoke(models, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_verbs_print_one_json_object_each(checkpoints, tmp_path) -> None:
    where = ("--repository", str(tmp_path / "models"))
    first = json.loads(called("promote", str(checkpoints / "a"), "--no-load", "--json", *where))
    assert (first["version"], first["action"]) == (1, "promote")
    called("promote", str(checkpoints / "b"), "--no-load", *where)
    back = json.loads(called("rollback", "--no-load", "--json", *where))
    assert (back["version"], back["restores"]) == (3, 1)
    listed = json.loads(called("list", "--in", str(checkpoints), "--json", *where))
    status = {Path(row["checkpoint"]).name: row["status"] for row in listed}
    assert status["a"] == "version 3 (the models of version 1)"  # no Triton says what is served
    assert (status["b"], status["c"], status["bad"]) == ("version 2", "", "")
    shown = json.loads(called("show", str(checkpoints / "a"), "--json"))
    assert shown["recipe"]["name"] == "test"
    assert {one["what"]: one["holds"] for one in shown["checked"]} == {
        "weights and checkpoint.json": True,
        "judged.npz": True,
        "MODEL_CARD.md": True,
        "feature registry": True,
        "code": True,
        "data": None,
    }
    compared = json.loads(
        called("compare", str(checkpoints / "a"), str(checkpoints / "bad"), "--json")
    )
    assert compared["same_test_pages"]
    by_name = {row["metric"]: row["second_is"] for row in compared["metrics"]}
    assert by_name["pctr_log_loss"] == "worse"
    entries = json.loads(called("history", "--json", *where))
    assert [e["action"] for e in entries if e["action"] != "begin"] == [
        "promote",
        "promote",
        "rollback",
    ]


def test_the_verbs_print_tables_for_people(checkpoints, tmp_path) -> None:
    where = ("--repository", str(tmp_path / "models"))
    assert "version 1 is written" in called("promote", str(checkpoints / "a"), "--no-load", *where)
    assert "version 1" in called("list", "--in", str(checkpoints), *where)
    assert called("show", str(checkpoints / "a")).startswith("# Model card: test")
    shown = called("compare", str(checkpoints / "a"), str(checkpoints / "bad"))
    assert "in pairs" in shown
    assert "promote" in called("history", *where)


def test_the_verb_export_does_not_take_a_withdrawn_number_nor_run_beside_a_promotion(
    target, checkpoints
) -> None:
    def fail(version: int) -> None:
        raise ModelUnavailable("not ready")

    with pytest.raises(ModelUnavailable):
        promote(target.failing(fail), checkpoints / "a")
    assert list(target.repository.iterdir()) == [], "no folder that Triton would take for a model"
    arguments = [str(checkpoints / "a"), "--repository", str(target.repository), "--no-load"]
    exported = CliRunner().invoke(export_verb, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(exported.stdout)["version"] == 2
    with promotions.exclusive(target.repository):
        refused = CliRunner().invoke(export_verb, arguments)
    assert isinstance(refused.exception, PromotionRefused)


def test_without_triton_a_promotion_says_what_to_do(checkpoints, tmp_path, monkeypatch) -> None:
    for name in ("FINTREC_TRITON_GRPC", "FINTREC_DIR"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["promote", str(checkpoints / "a"), "--dir", str(tmp_path / "none")]
    refused = CliRunner().invoke(models, arguments)
    assert isinstance(refused.exception, ConfigurationError)
    assert "fintrec stack up" in str(refused.exception)

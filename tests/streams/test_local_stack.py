"""The life of a local stack on the real servers: start, crash, restart, end, leave nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from features.errors import FintrecError
from streams.clients import kafka_python_config
from streams.local_stack import stack as local_stack
from streams.local_stack.stack import LocalStack, StackAlreadyRunning
from streams.local_stack.state import SERVERS, running_state
from streams.settings import load_settings

pytestmark = pytest.mark.integration

FINTREC = [sys.executable, "-m", "streams"]


def fintrec(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FINTREC, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def all_gone(processes: list[psutil.Process]) -> bool:
    return wait_until(
        lambda: not any(p.is_running() and p.status() != "zombie" for p in living(processes))
    )


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running()]


def write_tiny_model(repository: Path) -> None:
    """A model, so that Triton has a model process of its own that could be left behind."""
    import torch

    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    (repository / "double" / "1").mkdir(parents=True)
    torch.jit.script(Double()).save(str(repository / "double" / "1" / "model.pt"))
    (repository / "double" / "config.pbtxt").write_text(
        'name: "double"\nbackend: "pytorch"\nmax_batch_size: 4\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [2] }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [2] }\n'
        "instance_group { count: 1 kind: KIND_CPU }\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A stack's folder; whatever a failing test left running there is ended."""
    yield tmp_path
    local_stack.stop(tmp_path)


def test_up_status_and_down_on_the_command_line(folder: Path) -> None:
    up = fintrec("stack", "up", "--dir", folder, "--json")
    assert up.returncode == 0, up.stderr
    told = json.loads(up.stdout)
    status = fintrec("stack", "status", "--dir", folder, "--json")
    assert status.returncode == 0
    found = json.loads(status.stdout)
    assert found == told
    for address in ("kafka", "redis", "triton_grpc", "triton_http"):
        assert found[address].startswith("127.0.0.1:")
    processes = family(found["supervisor_pid"])
    for server in SERVERS:
        assert found["servers"][server]["ready"] is True
        assert found["servers"][server]["pid"] in {p.pid for p in processes}
        assert Path(found["servers"][server]["log"]).exists()
    listening = {
        c.laddr.ip
        for process in processes
        for c in process.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}

    again = fintrec("stack", "up", "--dir", folder, "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == found
    assert "already running" in again.stderr

    assert "started" in fintrec("stack", "logs", "kafka", "--dir", folder).stdout
    assert fintrec("stack", "down", "--dir", folder).returncode == 0
    assert all_gone(processes)
    ended = fintrec("stack", "status", "--dir", folder, "--json")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "no stack is running" in ended.stderr
    assert fintrec("stack", "down", "--dir", folder).returncode == 0


def test_nothing_outlives_the_program_that_started_it_not_even_after_kill_9(folder: Path) -> None:
    write_tiny_model(folder / "triton_models")
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from streams.local_stack.stack import LocalStack\n"
        "with LocalStack(Path(sys.argv[1])):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        state = running_state(folder)
        assert state is not None
        processes = family(state.supervisor.pid)
        assert any("stub" in process.name() for process in processes)
        parent.kill()
    assert all_gone(processes)
    assert not leftover_shared_memory(folder)


def test_nothing_outlives_a_supervisor_that_was_killed(folder: Path) -> None:
    write_tiny_model(folder / "triton_models")
    with LocalStack(folder) as stack:
        state = running_state(folder)
        assert state is not None
        processes = family(state.supervisor.pid)
        os.kill(state.supervisor.pid, signal.SIGKILL)
        assert all_gone(processes)
        with pytest.raises(FintrecError, match="no stack is running"):
            stack.pid("kafka")
    # Its state file is still there, and believed by nobody.
    assert (folder / "stack.json").exists()
    assert load_settings(folder, environ={}).kafka_bootstrap == ""
    with LocalStack(folder) as stack:
        assert stack.pid("kafka") not in {process.pid for process in processes}
    assert not leftover_shared_memory(folder)


def leftover_shared_memory(folder: Path) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{local_stack._shm_prefix(folder.resolve())}*"))


# The verb with servers that never answer, so that no machine is quick enough to end the start
# before Ctrl-C comes; and that hears it also where the tests run in a shell's background, whose
# processes begin with SIGINT ignored.
STARTING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from streams.local_stack import stack
stack.is_ready = lambda *_: False
from streams.__main__ import main
main()
"""


def test_ctrl_c_while_the_stack_starts_leaves_nothing(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTING, "stack", "up", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as up:
        assert wait_until(lambda: has_started(folder, "redis"))
        state = running_state(folder)
        assert state is not None
        processes = family(state.supervisor.pid)
        up.send_signal(signal.SIGINT)
    assert up.returncode == 1
    assert all_gone(processes)
    assert running_state(folder) is None


def has_started(folder: Path, server: str) -> bool:
    state = running_state(folder)
    return state is not None and server in state.servers


@pytest.fixture(scope="module")
def small_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One for the tests that leave it running as they found it."""
    with LocalStack(tmp_path_factory.mktemp("small_stack")) as stack:
        yield stack


def test_a_crash_is_reported_with_the_log_and_a_restart_keeps_port_and_data(
    small_stack: LocalStack,
) -> None:
    settings = load_settings(small_stack.dir, environ={})
    config = kafka_python_config(settings)
    admin = KafkaAdminClient(**config)
    admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
    admin.close()
    produce(config, b"before the crash")
    before = small_stack.pid("kafka")

    small_stack.kill("kafka")
    crashed = fintrec("stack", "status", "--dir", small_stack.dir, "--json")
    assert crashed.returncode == 1
    found = json.loads(crashed.stdout)["servers"]
    assert found["kafka"]["ready"] is False
    assert found["kafka"]["pid"] is None
    assert found["kafka"]["exit_code"] == -9
    assert "kafka" in found["kafka"]["log_tail"].lower()
    assert found["redis"]["ready"] is True
    with pytest.raises(FintrecError, match="kafka was ended by signal 9"):
        small_stack.pid("kafka")

    small_stack.restart("kafka")
    assert small_stack.pid("kafka") != before
    assert load_settings(small_stack.dir, environ={}) == settings
    produce(config, b"after the crash")
    consumer = KafkaConsumer(auto_offset_reset="earliest", consumer_timeout_ms=10_000, **config)
    consumer.assign([TopicPartition("kept", 0)])
    values = [next(consumer).value for _ in range(2)]
    consumer.close()
    assert values == [b"before the crash", b"after the crash"]


def produce(config: dict[str, Any], value: bytes) -> None:
    producer = KafkaProducer(**config)
    producer.send("kept", value).get(timeout=30)
    producer.close()


def test_a_frozen_server_is_restarted_too(small_stack: LocalStack) -> None:
    os.kill(small_stack.pid("redis"), signal.SIGSTOP)
    small_stack.restart("redis")
    assert psutil.Process(small_stack.pid("redis")).status() != "stopped"


def test_data_survives_down_and_up_although_the_ports_change(folder: Path) -> None:
    with LocalStack(folder):
        config = kafka_python_config(load_settings(folder, environ={}))
        admin = KafkaAdminClient(**config)
        admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
        admin.close()
        produce(config, b"kept")
    with LocalStack(folder):
        config = kafka_python_config(load_settings(folder, environ={}))
        consumer = KafkaConsumer(auto_offset_reset="earliest", consumer_timeout_ms=10_000, **config)
        consumer.assign([TopicPartition("kept", 0)])
        assert next(consumer).value == b"kept"
        consumer.close()


def test_a_second_stack_in_the_same_folder_is_refused(small_stack: LocalStack) -> None:
    with pytest.raises(StackAlreadyRunning):
        LocalStack(small_stack.dir).start()
    assert small_stack.pid("kafka")


def test_a_server_that_cannot_start_is_reported_with_its_log_and_the_rest_ends(
    folder: Path,
) -> None:
    (folder / "triton_models" / "nameless" / "1").mkdir(parents=True)
    (folder / "triton_models" / "nameless" / "config.pbtxt").write_text("this is no configuration")
    with pytest.raises(FintrecError, match=r"(?s)triton ended .*nameless.*failed to load"):
        LocalStack(folder).start()
    assert running_state(folder) is None

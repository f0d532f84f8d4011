"""The workers as processes: the ports they open, the metrics they serve, both ways to start one."""

import re
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import WORKER_ENVIRONMENT, System, members
from tests.integration.wire import until

pytestmark = pytest.mark.integration

# docs/operations.md
BOTH = {"fintrec_events_total", "fintrec_consumer_lag", "fintrec_last_commit_timestamp_seconds"}
BOTH |= {"fintrec_batch_size_bucket", "fintrec_hop_seconds_bucket", "fintrec_model_version"}
BOTH |= {"fintrec_dead_letters_total", "fintrec_hop_failures_total"}
NAMES = {
    "ingest-1": BOTH
    | {"fintrec_event_to_state_seconds_bucket", "fintrec_redelivered_total"}
    | {"fintrec_compare_and_set_lost_total", "fintrec_encode_failures_total"}
    | {"fintrec_states_refreshed_total"},
    "score-1": BOTH
    | {"fintrec_slates_total", "fintrec_states_repaired_total", "fintrec_policy_version"},
}


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses that a process and its children listen on."""
    process = psutil.Process(pid)
    return {
        (connection.laddr.ip, connection.laddr.port)
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize("name", ["ingest-1", "score-1"])
def test_the_metrics_port_is_the_only_one_and_serves_every_name(system: System, name: str) -> None:
    port = system.metrics_ports[name]
    assert listening(system.process(name).pid) == {("127.0.0.1", port)}

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def lacking() -> set[str]:
        served = set(re.findall(r"^(\w+)(?:\{| )", scrape(), re.MULTILINE))
        declared = set(re.findall(r"^# TYPE (\w+) ", scrape(), re.MULTILINE))
        return NAMES[name] - served - declared - {f"{d}_bucket" for d in declared}

    until(f"all names are served, lacking {lacking()}", lambda: not lacking(), 20)


def test_fausts_own_command_starts_the_same_worker_and_opens_no_port(system: System) -> None:
    faust = Path(sys.executable).parent / "faust"
    assert until("one ingest worker", lambda: members(system, "ingest") == 1)
    system.stack.start_worker(
        "ingest-faust",
        [str(faust), "-A", "streams.ingest_worker", "worker"],
        WORKER_ENVIRONMENT | {"FINTREC_DIR": str(system.stack.dir)},
    )
    until(
        "the second worker owns partitions",
        lambda: members(system, "ingest") == 2,
        90,
    )
    assert listening(system.process("ingest-faust").pid) == set()
    system.stop_worker("ingest-faust")
    until("it has left", lambda: members(system, "ingest") == 1, 30)

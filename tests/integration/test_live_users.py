"""Live users on the real stack: each request is answered or counted, clicks come as truth says."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
import pytest

from fintrec import logs
from fintrec.bank.simulate import BankSize, simulate
from streams.topics import CLICKSTREAM, CONSENTS, SLATE_REQUESTS
from tests.integration.conftest import System, await_applied, now_ms
from tests.integration.traffic import consent
from tests.integration.wire import until

pytestmark = pytest.mark.integration

NUM_USERS = 120
SPEED = 8_000


@pytest.fixture(scope="module")
def bank(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank whose users' consents the stack knows; its catalogue has the stack's item ids."""
    folder = tmp_path_factory.mktemp("live") / "bank"
    simulate(BankSize("live", NUM_USERS, 16, 20, activity=3.0), 9, now_ms(), folder)
    rows = logs.read_table(folder, logs.CONSENTS).to_pylist()
    for row in rows:
        told = consent(
            row["user_id"], row["event_time_ms"], row["marketing"], row["effective_from_ms"]
        )
        system.wire.send(CONSENTS, row["user_id"].encode(), told.value)
    system.wire.settle()
    await_applied(system, sorted({row["user_id"] for row in rows}))
    return folder


def verb(system: System, bank: Path, seconds: float, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "streams", "simulate", "--live", "--log", str(bank)),
        *("--minutes", f"{seconds / 60:.4f}", "--speed", str(SPEED), "--json"),
        *("--dir", str(system.stack.dir), *more),
    ]


def test_users_click_at_the_rate_of_the_truth_and_no_request_is_lost(
    system: System, bank: Path
) -> None:
    done = subprocess.run(
        verb(system, bank, 12), capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] > 200
    assert found["requests"] == found["answered"] + found["unanswered"]
    assert found["unanswered"] == 0
    assert found["refused"] == {}
    assert found["unknown_items"] == 0
    assert found["acknowledged"] == found["num_events"] + found["requests"]
    # Four standard deviations: one run in 16,000 is outside by chance.
    assert found["shown"] > 500
    assert abs(found["clicks_z"]) < 4

    run_id = found["run_id"]
    wanted = found["num_events"]

    def events() -> list[dict[str, object]]:
        topics = (CLICKSTREAM, "transactions.v1", "conversions.v1")
        values = [r.value for topic in topics for r in system.wire.log(topic)]
        # Other tests left what is no JSON on these topics.
        mine = [orjson.loads(v) for v in values if v and run_id.encode() in v]
        return [event for event in mine if event["event_id"].startswith(run_id)]

    until(f"{wanted} events of the run on the topics", lambda: len(events()) == wanted)
    seen = events()
    actions = Counter(event.get("action", "other topics") for event in seen)
    assert actions["impression"] == found["shown"]
    assert actions["click"] == found["clicks"]
    asked = [orjson.loads(r.value) for r in system.wire.log(SLATE_REQUESTS) if r.value]
    mine = [r["request_id"] for r in asked if r["request_id"].startswith(run_id)]
    assert len(mine) == len(set(mine)) == found["requests"]
    _impressions_show_what_was_served(system, seen, mine)
    await_applied(system, sorted({str(e["user_id"]) for e in seen if e["user_id"]}))


def _impressions_show_what_was_served(
    system: System, seen: list[dict[str, object]], requests: list[str]
) -> None:
    slates = [orjson.loads(system.wire.slates(request)[0]) for request in requests]
    served = {
        (slate["slate_id"], item["item_id"], item["position"], item["propensity"])
        for slate in slates
        for item in slate["items"]
    }
    shown = {
        (e["slate_id"], e["item_id"], e["position"], e["propensity"])
        for e in seen
        if e.get("action") == "impression"
    }
    assert shown == served


def test_ctrl_c_ends_a_run_cleanly(system: System, bank: Path) -> None:
    running = subprocess.Popen(
        verb(system, bank, 60, "--seed", "5"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that runs tests in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    before = len(system.wire.log(SLATE_REQUESTS))
    until("it asks for slates", lambda: len(system.wire.log(SLATE_REQUESTS)) > before + 20, 60)
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 0, err.decode()
    found = json.loads(out)
    assert found["interrupted"]
    assert found["requests"] == found["answered"] + found["unanswered"] >= 20
    assert found["acknowledged"] == found["num_events"] + found["requests"]

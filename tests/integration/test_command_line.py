"""The verbs against the running system, as someone types them; exit codes 0 done, 1 failed, 2 usage."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from features.records import Slate
from tests.integration.conftest import System, now_ms
from tests.integration.traffic import request
from tests.integration.wire import until

pytestmark = pytest.mark.integration


def fintrec(system: System, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a verb on the running stack."""
    command = [sys.executable, "-m", "streams", *argv, "--dir", str(system.stack.dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def data(done: subprocess.CompletedProcess[str]) -> Any:
    """What a verb printed as JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_request_prints_the_slate_that_stands_on_the_topic(system: System) -> None:
    argv = "request typed --json --product pgc_servicing --page help --size 3 --request-id typed-1"
    printed = data(fintrec(system, *argv.split()))
    slate = msgspec.convert(printed, Slate)
    assert len(slate.items) == 3
    assert printed == json.loads(system.wire.answer("typed-1")[0])


def test_tail_prints_the_last_records_one_json_object_a_line(system: System) -> None:
    system.wire.ask(request("typed", now_ms(), request_id="typed-2"))
    done = fintrec(system, "tail", "slates.v1", "--json", "--no-follow", "-n", "2")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert len(lines) == 2
    assert lines[-1]["value"]["request_id"] == "typed-2"
    assert lines[-1]["key"] == "typed"
    assert lines[-1]["at"].startswith("slates.v1[")


def test_policy_set_takes_effect_and_policy_show_tells_which_is_in_force(system: System) -> None:
    where = ("--scope", "typed_surface")
    made = data(fintrec(system, "policy", "set", *where, "--lambda-ctr", "3", "--json"))
    assert (made["version"], made["lambda_ctr"], made["lambda_us"]) == (1, 3.0, 1.0)
    later = str(made["effective_from_ms"] + 3_600_000)
    again = ("--effective-from-ms", later, "--value", "autopay_a=7.5", "--json")
    assert data(fintrec(system, "policy", "set", *where, *again))["value_usd"] == {"autopay_a": 7.5}
    shown = data(fintrec(system, "policy", "show", *where, "--json"))
    assert [(p["version"], p["base_version"], p["in_force"]) for p in shown] == [
        (1, 0, True),
        (2, 1, False),
    ]

    def version() -> int:
        slate, _ = system.wire.ask(request("typed", now_ms(), product="typed_surface"))
        return int(json.loads(slate)["policy"]["version"])

    until("slates name the policy", lambda: version() == 1, 30)


def test_exit_codes_tell_failure_from_bad_usage(system: System) -> None:
    cases = {
        ("tail", "no_such_topic", "--no-follow"): (1, "does not exist"),
        ("request", "typed", "--timeout", "0.000001"): (1, "fintrec: "),
        ("request", "typed", "--size", "0"): (2, "size"),
        ("policy", "set", "--lambda-us", "-1"): (2, "lambda_us"),
    }
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda argv: fintrec(system, *argv), cases))
    for (argv, (code, words)), result in zip(cases.items(), done, strict=True):
        assert result.returncode == code, (argv, result.stderr)
        assert words in result.stderr, argv
        assert "Traceback" not in result.stderr

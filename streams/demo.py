"""The demo as steps: what is built, in which order, and the question asked before and after.

Every step is a verb that works on its own; here they run side by side where they can.
"""

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kafka import KafkaProducer

from features.clock import Clock, SystemClock
from features.errors import FintrecError
from features.records import Interaction, Record, SlateRequest, Transaction, entity_of
from features.spec import USER_INTRADAY
from fintrec import logs
from streams.apps import state_store
from streams.clients import kafka_python_config
from streams.local_stack.processes import die_with_parent
from streams.local_stack.stack import LocalStack, log_tail
from streams.local_stack.state import running_state
from streams.settings import Settings
from streams.topics import CLICKSTREAM, CONSENTS, TRANSACTIONS
from streams.wire import encode

SURFACE: Final[dict[str, Any]] = {
    "product": "mobile_home",
    "page": "home",
    "placement": "feed",
    "layout": "carousel",
    "channel": "mobile_app",
    "device": "ios",
}
# What a demo leaves in its folder; nothing else there is touched.
LEFT_BY_A_DEMO: Final = (
    *(
        "bank",
        "bank.truth",
        "checkpoint",
        "checkpoint.run",
        "faust",
        "feast",
        "kafka",
        "lake",
        "publish",
        "redis",
    ),
    *("triton", "triton_models"),
    *(".bank.unfinished", ".bank.unfinished.truth"),  # of a simulation that was ended
)
Report = Callable[[str, str], None]
"""Hears (step, what happens to it)."""


@dataclass(frozen=True, slots=True)
class Step:
    """A verb of the command line with the steps it waits for."""

    name: str
    argv: tuple[str, ...]
    after: tuple[str, ...] = ()


def start_afresh(folder: Path) -> None:
    """Make the demo's folder, without what an earlier demo left there.

    Raises:
        FintrecError: that demo's stack still runs.
    """
    if running_state(folder) is not None:
        raise FintrecError(f"a stack runs from {folder}: end it first, `fintrec stack down`")
    folder.mkdir(parents=True, exist_ok=True)
    for name in LEFT_BY_A_DEMO:
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    (folder / "logs").mkdir(exist_ok=True)


def steps(bank: Path, checkpoint: Path, size: str, minutes: float) -> tuple[Step, ...]:
    """What stands between an empty folder and the first slate, stack and workers apart."""
    return (
        Step("simulate", ("simulate", "--size", size, "--out", str(bank))),
        Step("topics", ("topics", "create"), ("stack",)),
        Step("policy", ("policy", "set", "--lambda-us", "1", "--lambda-ctr", "10"), ("topics",)),
        Step("features", ("nightly", str(bank)), ("topics", "simulate")),
        Step("publish", ("publish", str(bank), "--asap", "--days", "2"), ("topics", "simulate")),
        Step(
            "train",
            ("train", str(bank), "--out", str(checkpoint), "--minutes", f"{minutes:g}"),
            ("simulate",),
        ),
        Step("export", ("export", str(checkpoint)), ("train", "stack")),
    )


class Runner:
    """Runs steps as processes, each when the steps before it are done; a failure ends the run."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self._dir = settings.stack_dir
        self._report = report
        self._children: list[subprocess.Popen[bytes]] = []
        self._failed = False

    def run(self, plan: tuple[Step, ...], stack: LocalStack, start: Callable[[], None]) -> None:
        """Start the stack and the workers and run the plan.

        Raises:
            FintrecError: a step failed, with the tail of its log.
        """
        futures: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(len(plan) + 2) as pool:
            futures["stack"] = pool.submit(self._call, "stack", start, [])
            for step in plan:
                before = [futures[name] for name in step.after]
                futures[step.name] = pool.submit(self._process, step, before)
            before = [futures["topics"]]
            workers = pool.submit(self._call, "workers", lambda: start_workers(stack), before)
            futures["workers"] = workers
            try:
                wait(futures.values())
            except BaseException:
                self._end_children()  # Ctrl-C: do not wait for what nobody wants any more
                raise
        errors = [error for error in (f.exception() for f in futures.values()) if error]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, _NotRun))

    def _call(self, name: str, function: Callable[[], None], before: list[Future[None]]) -> None:
        self._await(name, before)
        self._report(name, "running")
        try:
            function()
        except BaseException:
            self._fail(name)
            raise
        self._report(name, "done")

    def _await(self, name: str, before: list[Future[None]]) -> None:
        for future in before:
            if future.exception() is not None:
                raise _NotRun(f"{name} was not run: a step before it failed")
        if self._failed:
            raise _NotRun(f"{name} was not run: another step failed")

    def _fail(self, name: str) -> None:
        self._report(name, "failed")
        self._end_children()

    def _end_children(self) -> None:
        self._failed = True
        for child in self._children:
            if child.poll() is None:
                child.terminate()

    def _process(self, step: Step, before: list[Future[None]]) -> None:
        self._await(step.name, before)
        self._report(step.name, "running")
        log = self._dir / "logs" / f"demo-{step.name}.log"
        with log.open("wb") as file:
            # The kernel ties a child to the thread that made it; this thread waits for it.
            child = subprocess.Popen(
                verb(step.argv, self._dir),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=die_with_parent(),
            )
            self._children.append(child)
            code = child.wait()
        if code:
            self._fail(step.name)
            raise FintrecError(
                f"fintrec {' '.join(step.argv)} ended with {code}; the end of {log}:\n"
                f"{log_tail(log)}"
            )
        self._report(step.name, "done")


class _NotRun(FintrecError):
    """A step was not run because another one failed; never the first thing to tell."""


def verb(argv: tuple[str, ...], stack_dir: Path) -> list[str]:
    """Command line of a verb on a stack."""
    takes_dir = argv[0] not in ("simulate", "train")
    return [
        sys.executable,
        "-m",
        "streams",
        *argv,
        *(("--dir", str(stack_dir)) if takes_dir else ()),
    ]


def start_workers(stack: LocalStack, ingest: int = 1, score: int = 1) -> None:
    """Start workers as children of the stack, which ends them with itself."""
    for kind, number in (("ingest", ingest), ("score", score)):
        for index in range(1, number + 1):
            stack.start_worker(f"{kind}-{index}", verb(("worker", kind), stack.dir))


def slate_request(user_id: str, clock: Clock, size: int = 5) -> SlateRequest:
    """The demo's question."""
    return SlateRequest(
        request_id=uuid.uuid4().hex,
        user_id=user_id,
        event_time_ms=clock.now_ms(),
        size=size,
        **SURFACE,
    )


def causes(user_id: str, item_id: str, clock: Clock) -> list[tuple[str, Record]]:
    """What happens between the two questions: a card purchase at an airline, and a click."""
    now_ms = clock.now_ms()
    return [
        (
            TRANSACTIONS,
            Transaction(
                event_id=uuid.uuid4().hex,
                user_id=user_id,
                event_time_ms=now_ms - 2,
                kind="purchase",
                amount_usd=842.50,
                mcc="3000",
                merchant="Blue Harbour Airways",
                account="credit_card",
                channel="card",
            ),
        ),
        (
            CLICKSTREAM,
            Interaction(
                event_id=uuid.uuid4().hex,
                user_id=user_id,
                event_time_ms=now_ms,
                action="click",
                item_id=item_id,
                position=1,
                session_id=uuid.uuid4().hex,
                **SURFACE,
            ),
        ),
    ]


def wait_until(
    what: str, check: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.05
) -> Any:
    """The first true answer of `check`.

    Raises:
        FintrecError: none came in time.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = check()
        if found:
            return found
        time.sleep(every_s)
    raise FintrecError(f"{what} did not happen within {timeout_s:g} s")


def publish(settings: Settings, events: Sequence[tuple[str, Record]]) -> None:
    """Publish events as any producer does, and wait until the brokers have them."""
    producer = KafkaProducer(**kafka_python_config(settings), acks="all")
    try:
        sent = [
            producer.send(topic, key=entity_of(event).encode(), value=encode(event))
            for topic, event in events
        ]
        for future in sent:
            future.get(timeout=10)
    finally:
        producer.close()


def choose_user(settings: Settings, bank: Path) -> str:
    """A user who said yes to marketing, has a state, and bought no travel today.

    Raises:
        FintrecError: nobody is left after a minute of events.
    """
    consents = logs.read_table(bank, CONSENTS).to_pylist()
    granted = [row["user_id"] for row in consents if row["marketing"] == "granted"]
    store = state_store(settings, 1000)

    def find() -> str | None:
        for start in range(0, len(granted), 200):
            part = granted[start : start + 200]
            rows = store.read_views(part, [USER_INTRADAY.name], SystemClock().now_ms())
            for user, views in zip(part, rows, strict=True):
                values = views[USER_INTRADAY.name].values
                if values.get("clicks_count_24h") and not values.get("spend_travel_sum_day"):
                    return user
        return None

    return str(wait_until("a user with clicks of the last day", find))


def intraday(settings: Settings, user_id: str) -> dict[str, int]:
    """The user's intraday features as Feast has them."""
    store = state_store(settings, 1000)
    (views,) = store.read_views([user_id], [USER_INTRADAY.name], SystemClock().now_ms())
    values = views[USER_INTRADAY.name].values
    return {name: int(str(values.get(name, 0))) for name in USER_INTRADAY.feature_names}


def items_of_category(settings: Settings, category: str) -> list[str]:
    """Items of a category that the demo's surface may show, by id."""
    return sorted(
        item.item_id
        for item in logs.read_items(settings.stack_dir / "bank")
        if item.category == category and SURFACE["product"] in (item.products or [""])
    )

"""One run: a load on one side (the system or the floor), and what came of it.

Latency counts from the instant a request was scheduled to the arrival of its slate at the
collector, so a slow system, a slow broker and a slow generator all show. A run whose own generator
was late is marked invalid, never left out silently.
"""

import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from bench import collector, world
from bench.processes import OTHERS, Watched, cores
from bench.session import ROOT, Session
from bench.traffic import IntArray, Load, Schedule, schedule
from features.errors import FintrecError
from fintrec.slates import FRESH, STALE, TIERS
from streams.apps import FEAST_PROJECT
from streams.topics import CLICKSTREAM, SLATE_REQUESTS, SLATES, TRANSACTIONS

FINTREC: Final = "fintrec"
FLOOR: Final = "floor"
LATE_MS: Final = 120.0
MOST_LAG_MS: Final = 20.0  # of the generator at p99, or the run does not count
FRESH_GAP_S: Final = 0.1
GAPS_S: Final = (0.03, 0.06, 0.1)
_PATIENCE_S: Final = 20.0  # without any slate: what is not there then is lost
_APART_S: Final = 1.0
PERCENTILES: Final = {"p50": 50, "p95": 95, "p99": 99, "p999": 99.9, "max": 100}
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: what is reported (ready for JSON), and every request's latency in ms."""

    summary: dict[str, Any]
    latency_ms: FloatArray  # of the measured requests that were answered


def measure(
    session: Session, side: str, load: Load, warm_s: float, tick_ms: float, folder: Path
) -> Run:
    """Run a load; the first `warm_s` seconds are not counted, except for lost and doubled slates."""
    with session.only(side == FLOOR):
        return _measure(session, side, load, warm_s, tick_ms, folder)


def _measure(
    session: Session, side: str, load: Load, warm_s: float, tick_ms: float, folder: Path
) -> Run:
    plan = {
        "load": asdict(load),
        "bootstrap": session.stack.addresses["kafka"],
        "redis": session.stack.addresses["redis"],
        "items": list(session.items),
        "tick_ms": tick_ms,
        "project": FEAST_PROJECT,
        "num_requests": len(schedule(load).request_s),
        "patience_s": _PATIENCE_S,
        **_topics(side),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{load.name}.json"
    path.write_bytes(orjson.dumps(plan))
    listening = _Child("collector", path, folder / f"{load.name}-collector.npz")
    if listening.first_line() != collector.READY:
        raise FintrecError("the collector did not start")
    sending = _Child("load_generator", path, folder / f"{load.name}-generator.npz")
    start_s = float(sending.first_line())
    watched = session.watched()
    watched.families |= {"generator": sending.popen.pid, "collector": listening.popen.pid}
    before, after, memory = _watch(watched, start_s + warm_s, start_s + load.seconds)
    sent, got = sending.result(), listening.result()
    times = schedule(load)
    measured_s = after.at_s - before.at_s
    summary = {
        "side": side,
        "name": load.name,
        "requests_per_s": load.requests_per_s,
        "events_per_s": load.events_per_s,
        "measured_s": round(measured_s, 2),
        "memory_mb": memory,
        **_cpu(cores(before, after), load),
    }
    latency_ms = _latencies(times, sent, got, warm_s)
    summary |= _answers(times, got, latency_ms, warm_s)
    summary |= _lag(times, sent, warm_s)
    summary |= _freshness(times, sent, got, warm_s)
    summary["event_to_state_ms"] = _event_to_state(times, sent, got, warm_s)
    summary["hops_ms"] = _hops(times, sent, got, warm_s)
    return Run(summary, latency_ms)


def _topics(side: str) -> dict[str, str]:
    if side == FLOOR:
        return {
            "requests_topic": world.FLOOR_REQUESTS,
            "interactions_topic": world.FLOOR_EVENTS,
            "transactions_topic": world.FLOOR_EVENTS,
            "slates_topic": world.FLOOR_SLATES,
        }
    return {
        "requests_topic": SLATE_REQUESTS,
        "interactions_topic": CLICKSTREAM,
        "transactions_topic": TRANSACTIONS,
        "slates_topic": SLATES,
    }


class _Child:
    """The generator or the collector of a run, in a process of its own."""

    def __init__(self, module: str, plan: Path, out: Path) -> None:
        self._out = out
        self._module = module
        self.popen = subprocess.Popen(
            [sys.executable, "-m", f"bench.{module}", str(plan), str(out)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def first_line(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline().strip()
        if not line:
            raise FintrecError(f"the {self._module} ended with {self.popen.wait()}")
        return line

    def result(self) -> dict[str, Any]:
        code = self.popen.wait(600)
        if code:
            raise FintrecError(f"the {self._module} ended with {code}")
        with np.load(self._out) as found:
            return dict(found)


def _watch(watched: Watched, from_s: float, until_s: float) -> tuple[Any, Any, dict[str, float]]:
    time.sleep(max(0.0, from_s - time.time()))
    before = watched.snapshot(time.time())
    time.sleep(max(0.0, until_s - time.time()))
    after = watched.snapshot(time.time())
    return before, after, watched.memory_mb()


def _cpu(busy: dict[str, float], load: Load) -> dict[str, Any]:
    own = sum(cpu for name, cpu in busy.items() if name != OTHERS)
    return {
        "cores": {name: round(cpu, 3) for name, cpu in busy.items()},
        "cores_total": round(own, 3),
        "cpu_us_per_request": {
            name: round(cpu / load.requests_per_s * 1e6, 1) for name, cpu in busy.items()
        },
        "cpu_us_per_event": {
            name: round(cpu / load.events_per_s * 1e6, 1)
            for name, cpu in busy.items()
            if load.events_per_s
        },
    }


def _first_arrivals(times: Schedule, got: dict[str, Any]) -> FloatArray:
    """When each request's first slate arrived, NaN for none."""
    arrived = np.full(len(times.request_s), np.inf)
    np.minimum.at(arrived, got["number"], got["arrived_s"])
    return np.where(np.isfinite(arrived), arrived, np.nan)


def _latencies(
    times: Schedule, sent: dict[str, Any], got: dict[str, Any], warm_s: float
) -> FloatArray:
    latency = (_first_arrivals(times, got) - sent["start_s"] - times.request_s) * 1000
    measured = latency[times.request_s >= warm_s]
    return measured[np.isfinite(measured)]


def percentiles(values: FloatArray) -> dict[str, float | None]:
    """p50 to max, None where there is nothing."""
    if not len(values):
        return dict.fromkeys(PERCENTILES)
    found = np.percentile(values, list(PERCENTILES.values()))
    return {name: round(float(v), 2) for name, v in zip(PERCENTILES, found, strict=True)}


def _answers(
    times: Schedule, got: dict[str, Any], latency_ms: FloatArray, warm_s: float
) -> dict[str, Any]:
    counts = np.bincount(got["number"], minlength=len(times.request_s))
    tiers = np.bincount(got["tier"][times.request_s[got["number"]] >= warm_s], minlength=len(TIERS))
    total = max(1, int(tiers.sum()))
    return {
        "latency_ms": percentiles(latency_ms),
        "late_share": round(float((latency_ms > LATE_MS).mean()), 5) if len(latency_ms) else None,
        "num_requests": len(counts),
        "lost": int((counts == 0).sum()),
        "doubled": int((counts > 1).sum()),
        "tiers": {name: round(int(n) / total, 4) for name, n in zip(TIERS, tiers, strict=True)},
        "slate_bytes": round(float(got["slate_bytes"].mean())) if len(counts) else 0,
    }


def _lag(times: Schedule, sent: dict[str, Any], warm_s: float) -> dict[str, Any]:
    """How late the generator handed its records over."""
    number = int(sent["num_requests"])
    due = np.concatenate((times.request_s, times.event_s))
    lag_ms = (sent["sent_s"] - sent["start_s"] - due)[due >= warm_s] * 1000
    assert number == len(times.request_s)
    found = percentiles(lag_ms)
    return {"generator_lag_ms": found, "valid": bool((found["p99"] or 0.0) <= MOST_LAG_MS)}


def _seen_ms(sent: dict[str, Any], got: dict[str, Any]) -> IntArray:
    """Newest event that each slate's hidden states had seen; -1 where it used none."""
    stamped = sent["stamp_ms"][got["number"]]
    queue = np.nan_to_num(got["hops_ms"][:, collector.HOPS.index("queue")]).astype(np.int64)
    by_age = np.where(got["age_ms"] >= 0, stamped + queue - got["age_ms"], -1)
    found: IntArray = np.where(got["seen_ms"] >= 0, got["seen_ms"], by_age)
    return found


def _last_event(
    times: Schedule, users: IntArray, before_s: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Time of each user's last event at or before an instant, and whether there is one."""
    width = float(max(times.event_s.max(initial=0), times.request_s.max(initial=0)) + 10)
    order = np.lexsort((times.event_s, times.event_user))
    axis = times.event_user[order] * width + times.event_s[order]
    place = np.searchsorted(axis, users * width + np.maximum(before_s, 0), side="right") - 1
    near = np.maximum(place, 0)
    found = (place >= 0) & (before_s >= 0)
    if not len(order):
        return np.zeros(len(users)), np.zeros(len(users), bool)
    found &= times.event_user[order][near] == users
    return times.event_s[order][near], found


def _freshness(
    times: Schedule, sent: dict[str, Any], got: dict[str, Any], warm_s: float
) -> dict[str, Any]:
    """Of the slates on the full tier: had their hidden states seen the user's events?"""
    number = got["number"]
    at_s, users = times.request_s[number], times.request_user[number]
    seen = _seen_ms(sent, got)
    full = np.isin(got["tier"], [TIERS.index(FRESH), TIERS.index(STALE)]) & (at_s >= warm_s)
    full &= seen >= 0

    def share(before_s: FloatArray, among: npt.NDArray[np.bool_]) -> float | None:
        event_s, has_one = _last_event(times, users, before_s)
        needed = ((sent["start_s"] + event_s) * 1000).astype(np.int64)
        ok = ~has_one | (seen >= needed)
        return round(float(ok[among].mean()), 5) if among.any() else None

    last_s, has_one = _last_event(times, users, at_s)
    gap = at_s - last_s
    edges = (0.0, *GAPS_S, np.inf)
    return {
        "fresh_share": share(at_s - FRESH_GAP_S, full),
        "fresh_share_by_gap": {
            f"{low * 1000:.0f}-{high * 1000:.0f}": share(
                at_s, full & has_one & (gap >= low) & (gap < high)
            )
            for low, high in zip(edges, edges[1:], strict=False)
        },
    }


def _event_to_state(
    times: Schedule, sent: dict[str, Any], got: dict[str, Any], warm_s: float
) -> dict[str, Any]:
    """From an event's scheduled instant to the write of its user's state.

    Of users with two events within a second only the first counts: the write after the second
    might carry the first alone.
    """
    if not len(times.event_s):
        return percentiles(np.empty(0)) | {"missing": 0, "sample": 0}
    order = np.lexsort((times.event_s, times.event_user))
    users, at_s = times.event_user[order], times.event_s[order]
    alone = np.ones(len(order), bool)
    alone[1:] = (users[1:] != users[:-1]) | (at_s[1:] - at_s[:-1] > _APART_S)
    chosen = alone & (at_s >= warm_s)
    users, at_s = users[chosen], at_s[chosen]
    width = float(times.event_s.max() + 60)
    written_s = got["written_s"] - sent["start_s"]
    inside = written_s >= 0
    axis = np.sort(got["written_user"][inside] * width + written_s[inside])
    place = np.searchsorted(axis, users * width + at_s)
    after = axis[np.minimum(place, len(axis) - 1)] - users * width - at_s if len(axis) else at_s
    known = (place < len(axis)) & (after >= 0) & (after < width - at_s)
    return percentiles(after[known] * 1000) | {
        "missing": int((~known).sum()),
        "sample": int(known.sum()),
    }


def _hops(
    times: Schedule, sent: dict[str, Any], got: dict[str, Any], warm_s: float
) -> dict[str, Any]:
    """Where a full-tier slate's time went: what the slate says, and what is left around it."""
    number = got["number"]
    hops = got["hops_ms"]
    chosen = (times.request_s[number] >= warm_s) & np.isfinite(
        hops[:, collector.HOPS.index("head")]
    )
    if not chosen.any():
        return {}
    number, hops = number[chosen], hops[chosen]
    parts = {hop: hops[:, place] for place, hop in enumerate(collector.HOPS)}
    due_s = sent["start_s"] + times.request_s[number]
    before = sent["stamp_ms"][number] - due_s * 1000
    whole = (got["arrived_s"][chosen] - due_s) * 1000
    found = {
        "send": before,
        **{hop: parts[hop] for hop in ("queue", "store", "head", "rank")},
        "emit and fetch": whole - before - parts["total"],
    }
    return {
        hop: {
            "p50": round(float(np.percentile(values, 50)), 2),
            "p99": round(float(np.percentile(values, 99)), 2),
        }
        for hop, values in found.items()
    }

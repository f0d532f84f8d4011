"""The independent referee: what every user's features and slates must be, from the events alone.

Plain Python over the JSON that was published, written from the registry's and the documents' words
and sharing no line with the code it judges: no reducer, no encoder, no packed state, no ranking.
It reads the model's TorchScript files and manifest, and is slow on purpose.
"""

import base64
import hashlib
import json
import math
import struct
import warnings
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from features.spec import DYNAMIC_FEATURES
from tests.integration.wire import Published

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
# The stored contracts: append-only lists, so a place in them is a fact of the wire.
ACTIONS = [
    "",
    "other",
    "impression",
    "click",
    "dismiss",
    "page_view",
    "login",
    "logout",
    "call",
    "branch",
    "atm",
    "fraud_report",
    "complaint",
    "purchase",
    "payment",
    "transfer",
    "fee",
    "statement",
    "conversion",
]
CHANNELS = [
    "",
    "other",
    "web",
    "mobile_app",
    "email",
    "sms",
    "call_center",
    "branch",
    "atm",
    "card",
    "external",
]
DEVICES = ["", "other", "desktop", "ios", "android", "tablet", "phone", "terminal"]
SPEND = [
    "other",
    "groceries",
    "dining",
    "travel",
    "fuel",
    "health",
    "retail",
    "entertainment",
    "utilities",
    "home",
    "education",
    "cash",
]
MERCHANTS = {
    "5411": "groceries",
    "5812": "dining",
    "3000": "travel",
    "5541": "fuel",
    "8011": "health",
    "5311": "retail",
    "7832": "entertainment",
    "4900": "utilities",
    "5200": "home",
    "8220": "education",
    "6011": "cash",
    "9999": "other",
    "": "",
}
PRODUCTS_OWNED = [
    "checking",
    "savings",
    "credit_card",
    "auto_loan",
    "mortgage",
    "personal_loan",
    "investing",
    "credit_monitoring",
]
BUCKETS = (16, 32, 64, 120)
FM_WIDTH = 768
REFRESH = "state_refresh.v1"
Floats = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Row:
    """One interaction or transaction of a timeline."""

    time: int
    tie: int
    tokens: tuple[int, ...]  # item product page placement layout action channel device position
    action: str
    digital: bool
    money: bool
    cents: int = 0
    category: str = ""


@dataclass(frozen=True)
class Owned:
    """What the nightly batch wrote of a user: products owned and days since."""

    tenure_days: Mapping[str, int]
    bank_days: int


@dataclass
class Expected:
    """A user's state as the events have it."""

    version: int = 0
    rows: list[Row] = field(default_factory=list)
    consents: list[tuple[int, int, int]] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)


def crc(name: str, value: str) -> int:
    """Fingerprint of an open name."""
    return (zlib.crc32(f"{name}:{value}".encode()) & 0x7FFFFFFF or 1) if value else 0


def place(names: Sequence[str], value: str) -> int:
    """Code of a closed name."""
    return names.index(value) if value in names else 1


def row_of(topic: str, e: Mapping[str, Any]) -> Row:
    """The row of an event."""
    tie = int.from_bytes(hashlib.blake2b(e["event_id"].encode(), digest_size=8).digest(), "little")
    time = e["event_time_ms"]
    if topic == "conversions.v1":
        tokens = (crc("item", e["item_id"]), 0, 0, 0, 0, ACTIONS.index("conversion"), 0, 0, 0)
        return Row(time, tie, tokens, "conversion", False, False)
    channel = e.get("channel", "")
    if topic == "transactions.v1":
        category = MERCHANTS[e.get("mcc", "")]
        amount = Decimal(repr(float(e["amount_usd"]))) * 100
        tokens = (
            crc("item", f"category/{category}") if category else 0,
            crc("product", e.get("account", "")),
            0,
            0,
            0,
            place(ACTIONS, e["kind"]),
            place(CHANNELS, channel),
            0,
            0,
        )
        cents = int(amount.quantize(Decimal(1), ROUND_HALF_EVEN))
        return Row(time, tie, tokens, e["kind"], False, True, cents, category)
    tokens = (
        crc("item", e.get("item_id", "")),
        crc("product", e.get("product", "")),
        crc("page", e.get("page", "")),
        crc("placement", e.get("placement", "")),
        crc("layout", e.get("layout", "")),
        place(ACTIONS, e["action"]),
        place(CHANNELS, channel),
        place(DEVICES, e.get("device", "")),
        min(e.get("position", 0), 255),
    )
    return Row(time, tie, tokens, e["action"], channel in ("web", "mobile_app"), False)


def expected_state(
    records: Iterable[Published],
    refused: Collection[str] = (),
    upto: Mapping[str, int] | None = None,
) -> Expected:
    """The state of one user after its records; `upto` keeps those within these offsets,
    `refused` are the places of records that must have gone to the dead letters."""
    found = Expected()
    rows: set[Row] = set()
    for record in records:
        where = f"{record.topic}[{record.partition}]"
        if record.at in refused or (upto is not None and record.offset > upto.get(where, -1)):
            continue
        found.version += 1
        found.offsets[where] = max(record.offset, found.offsets.get(where, -1))
        if record.topic == REFRESH:
            continue
        assert record.value is not None
        event = json.loads(record.value)
        if record.topic == "consents.v1":
            mark = ("unknown", "granted", "opted_out").index(event["marketing"])
            entry = (event["effective_from_ms"], event["event_time_ms"], mark)
            found.consents = sorted({*found.consents, entry})
        else:
            rows.add(row_of(record.topic, event))
    timeline = sorted(rows, key=lambda row: (row.time, row.tie))
    newest = [row for row in timeline if not row.money][-120:]
    newest += [row for row in timeline if row.money][-60:]
    found.rows = sorted(newest, key=lambda row: (row.time, row.tie))
    found.consents = found.consents[-4:]
    return found


@dataclass(frozen=True)
class Visit:
    """Where a row stands: its place in its visit, the visit's start, the end of the one before."""

    order: int
    start: int
    before: int | None  # last event of the digital session before; None if there is none


def visits_of(rows: Sequence[Row]) -> list[Visit]:
    """Digital sessions end after 30 idle minutes, before a login and after a logout."""
    found: list[Visit] = []
    last: Row | None = None
    start = order = 0
    before: int | None = None
    for row in rows:
        if not row.digital:
            found.append(Visit(0, row.time, last.time if last else None))
            continue
        opens = (
            last is None
            or row.time - last.time > 30 * MINUTE
            or (row.action == "login" and last.action != "login")
            or last.action == "logout"
        )
        if opens:
            before = last.time if last else None
            start, order = row.time, 0
        else:
            order += 1
        found.append(Visit(order, start, before))
        last = row
    return found


def features_at(rows: Sequence[Row], visit: Visit, now: int) -> dict[str, int]:
    """F_d as of an instant at which a row of `visit` stands, by name."""
    past = [row for row in rows if row.time <= now]
    midnight = (now - 4 * HOUR) // DAY * DAY + 4 * HOUR
    spans = {
        "15m": [row for row in past if row.time > now - 15 * MINUTE],
        "1h": [row for row in past if row.time > now - HOUR],
        "24h": [row for row in past if row.time > now - DAY],
        "day": [row for row in past if row.time >= midnight],
    }
    out: dict[str, int] = {}
    for name, span in spans.items():
        bought = [row for row in span if row.action == "purchase"]
        out[f"impressions_count_{name}"] = sum(row.action == "impression" for row in span)
        out[f"clicks_count_{name}"] = sum(row.action == "click" for row in span)
        out[f"purchases_count_{name}"] = len(bought)
        out[f"spend_sum_{name}"] = sum(row.cents for row in bought)
    for category in SPEND:
        out[f"spend_{category}_sum_day"] = sum(
            row.cents
            for row in spans["day"]
            if row.action == "purchase" and row.category == category
        )
    since = [row for row in past if visit.before is None or row.time > visit.before]
    bought = [row for row in since if row.action == "purchase"]
    contacts = ("call", "branch")
    out["purchases_count_since_session"] = len(bought)
    out["spend_sum_since_session"] = sum(row.cents for row in bought)
    out["contacts_count_since_session"] = sum(row.action in contacts for row in since)
    for name, actions in (
        ("click", ("click",)),
        ("purchase", ("purchase",)),
        ("login", ("login",)),
        ("contact", contacts),
    ):
        times = [row.time for row in past if row.action in actions]
        out[f"{name}_recency"] = now - max(times) if times else -1
    earlier = [row.time for row in past if row.time < now]
    out["touch_recency"] = now - max(earlier) if earlier else -1
    out["session_interactions_count"] = visit.order + 1
    out["session_age"] = now - visit.start
    return out


def dynamic_of(rows: Sequence[Row]) -> list[list[int]]:
    """F_d at every row, in the registry's order."""
    found = []
    for row, visit in zip(rows, visits_of(rows), strict=True):
        values = features_at(rows, visit, row.time)
        found.append([values[feature.name] for feature in DYNAMIC_FEATURES])
    return found


def intraday_of(state: Expected) -> list[int]:
    """The typed features of `user_intraday`: F_d at the last row, and the events applied."""
    rows = state.rows
    last = features_at(rows, visits_of(rows)[-1], rows[-1].time)
    return [*(last[feature.name] for feature in DYNAMIC_FEATURES), state.version]


def squashed(values: Any) -> Floats:
    """sign(x) log(1 + |x|) in float32, kept as float16."""
    wide = np.asarray(values, np.int64).astype(np.float32)
    return (np.sign(wide) * np.log1p(np.abs(wide))).astype(np.float16)


def context_of(owned: Owned | None) -> Floats:
    """F_s, an absent F_fm and its flag."""
    if owned is None:
        static = [*[0.0] * (2 * len(PRODUCTS_OWNED) + 1), 1.0]
    else:
        has = [float(name in owned.tenure_days) for name in PRODUCTS_OWNED]
        days = [owned.tenure_days.get(name, 0) for name in PRODUCTS_OWNED] + [owned.bank_days]
        static = [*has, *squashed(days).tolist(), 0.0]
    return np.array([*static, *[0.0] * FM_WIDTH, 1.0], np.float16)


def request_of(request: Mapping[str, Any], last_event_ms: int) -> list[int]:
    """Where and when the slate will be shown."""
    return [
        *(crc(name, request.get(name, "")) for name in ("product", "page", "placement", "layout")),
        place(CHANNELS, request.get("channel", "")),
        place(DEVICES, request.get("device", "")),
        request["event_time_ms"],
        last_event_ms,
    ]


class Models:
    """The TorchScript files of one model version, called in this process."""

    def __init__(self, repository: Path, version: int) -> None:
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._encode, self._head = (
                torch.jit.load(repository / name / str(version) / "model.pt").eval()
                for name in ("encode", "head")
            )
        path = repository / "encode" / str(version) / "manifest.json"
        self.manifest = json.loads(path.read_text())
        self.items: list[str] = self.manifest["vocabulary"]["items"]

    def hidden(self, rows: Sequence[Row]) -> dict[int, Floats]:
        """Hidden states of a history, by padding bucket: every one that holds it is right."""
        window = rows[-120:]
        size = len(window)
        visits = visits_of(rows)[-120:] if rows else []
        dynamic = squashed(dynamic_of(rows)[-120:]) if rows else None
        found = {}
        for bucket in (b for b in BUCKETS if b >= size):
            tokens = np.zeros((4, bucket, 10), np.int32)
            times = np.zeros((4, bucket), np.int64)
            features = np.zeros((4, bucket, len(DYNAMIC_FEATURES)), np.float16)
            for at, (row, visit) in enumerate(zip(window, visits, strict=True)):
                tokens[:, bucket - size + at] = (*row.tokens, visit.order)
                times[:, bucket - size + at] = row.time
            if dynamic is not None:
                features[:, bucket - size :] = dynamic
            with torch.inference_mode():
                arrays = (torch.from_numpy(a) for a in (tokens, times, features))
                found[bucket] = self._encode(*arrays)[0].numpy()
        return found

    def logits(
        self, hidden: Floats, context: Floats, request: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """pCTR and pCVR logits, (K,) each."""
        rows = (hidden, context, np.array(request, np.int64))
        with torch.inference_mode():
            pctr, pcvr = self._head(*(torch.from_numpy(np.stack([row] * 4)) for row in rows))
        return pctr[0].numpy(), pcvr[0].numpy()

    def probabilities(
        self, pctr: Sequence[float], pcvr: Sequence[float]
    ) -> dict[str, tuple[float, float]]:
        """(pCTR, pCVR) by item: the calibrated log softmax, and the plain sigmoid."""
        highest = max(pctr)
        level = highest + math.log(math.fsum(math.exp(x - highest) for x in pctr))
        return {
            item: (
                _sigmoid(calibrated(self.manifest["calibration"], click - level, place)),
                _sigmoid(conversion),
            )
            for place, (item, click, conversion) in enumerate(
                zip(self.items, pctr, pcvr, strict=True)
            )
        }

    def prior(self, item: Mapping[str, Any]) -> tuple[float, float]:
        """Rates of an item without a network."""
        rates = self.manifest["popularity"]
        if item["item_id"] in self.items:
            at = self.items.index(item["item_id"])
            return rates["ctr"][at], rates["cvr"][at]
        kind = item["content_type"]
        return rates["prior_ctr"][kind], rates["prior_cvr"][kind]


def calibrated(calibration: Mapping[str, Any], level: float, place: int) -> float:
    """The logit of pCTR by the formula of docs/calibration.md, one number at a time."""
    value = level
    if "knots" in calibration:
        xs, ys = ([n / 1000 for n in _numbers(packed)] for packed in calibration["knots"])
        nearest = min(max(level, xs[0]), xs[-1])
        right = min(max(bisect_left(xs, nearest), 1), len(xs) - 1)
        share = (nearest - xs[right - 1]) / (xs[right] - xs[right - 1])
        value = ys[right - 1] + share * (ys[right] - ys[right - 1]) + 0.001 * (level - nearest)
    rest = math.log(-math.expm1(min(level, -1e-12)))
    value = calibration["a"] * value + calibration["b"] - calibration.get("c", 0.0) * rest
    if "slopes" in calibration:
        value *= _numbers(calibration["slopes"])[place] / 1000
    if "offsets" in calibration:
        value += _numbers(calibration["offsets"])[place] / 1000
    limit = calibration.get("limit", math.inf)
    return min(max(value, -limit), limit)


def _numbers(packed: str) -> tuple[int, ...]:
    raw = base64.b64decode(packed)
    return struct.unpack(f"<{len(raw) // 2}h", raw)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

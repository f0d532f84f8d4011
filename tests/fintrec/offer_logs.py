"""Made-up logs of offers that tests judge: small, and either honest or with a leak planted."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MINUTE, DAY = 60_000, 86_400_000


def offer_log(path: Path, *, cases: int = 90, tell: bool = False) -> Path:
    """A case a day: submitted, 0 to 2 calls, an offer, in half of the cases accepted 5 days later.

    With `tell` the log says before the offer how it will end.
    """
    rng = np.random.default_rng(0)
    rows: list[tuple[str, str, int, float]] = []
    for case in range(cases):
        start, amount = case * DAY + 10 * MINUTE, float(rng.integers(1, 20) * 1000)
        accepted = bool(rng.random() < 0.5)
        happened = ["A_SUBMITTED", *["W_CALL"] * int(rng.integers(0, 3))]
        happened += ["A_GOOD" if accepted else "A_BAD"] if tell else []
        for place, activity in enumerate([*happened, "O_SENT"]):
            rows.append((f"c{case}", activity, start + place * MINUTE, amount))
        if accepted:
            rows.append((f"c{case}", "O_ACCEPTED", start + 5 * DAY, amount))
    rows.append(("last", "A_SUBMITTED", (cases + 31) * DAY, 1.0))
    names = ("case", "activity", "ts", "amount_req")
    table = {
        name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    arrays = {name: pa.array(column) for name, column in table.items()}
    arrays["ts"] = arrays["ts"].cast(pa.timestamp("ms", tz="UTC"))
    arrays["lifecycle"] = pa.array(["COMPLETE"] * len(rows))
    pq.write_table(pa.table(arrays), path)
    return path

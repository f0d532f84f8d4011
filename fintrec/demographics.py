"""Protected attributes of users, to judge models with and never to feed them.

    LOG_DIR/demographics/part-N.parquet        user_id, age_band; optional, the simulated bank has it
    DATASET_DIR/demographics/part-N.parquet    the same files, copied unread

A lender must not decide by age, and must be able to show that its models treat ages alike. So the
age band is no record of a topic, no feature and no input of training; only the fairness slices of
a model card read it (an import contract and a test see to that).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fintrec import logs

AGE_BANDS: Final = ("18-24", "25-34", "35-49", "50-64", "65+")
SCHEMA: Final = pa.schema([("user_id", pa.string()), ("age_band", pa.string())])


def write_age_bands(
    log_dir: Path, users: Sequence[str], band: npt.NDArray[np.int64], part: int
) -> None:
    """Write the age bands of some users, as places in AGE_BANDS."""
    folder = log_dir / logs.DEMOGRAPHICS
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {"user_id": pa.array(users), "age_band": pa.array(AGE_BANDS).take(pa.array(band))}, SCHEMA
    )
    unfinished = folder / f".part-{part}.parquet.tmp"
    pq.write_table(table, unfinished, compression="zstd")
    unfinished.rename(folder / f"part-{part}.parquet")


def read_age_bands(folder: Path, users: Sequence[str]) -> Mapping[str, str] | None:
    """Age bands of those `users` who have one, of a LOG_DIR or DATASET_DIR; None without any.

    Raises LogError where a file is no such table or has a band that is none of AGE_BANDS.
    """
    paths = sorted((folder / logs.DEMOGRAPHICS).glob("part-*.parquet"))
    if not paths:
        return None
    wanted = pa.array(users, pa.string())
    found: dict[str, str] = {}
    for path in paths:
        table = _read(path)
        table = table.filter(pc.is_in(table["user_id"], wanted))
        found.update(zip(table["user_id"].to_pylist(), table["age_band"].to_pylist(), strict=True))
    return found


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, KeyError, OSError) as broken:
        raise logs.LogError(
            f"{path}: expected Parquet with columns {', '.join(SCHEMA.names)} ({broken})"
        ) from broken
    strange = [name for name in pc.unique(table["age_band"]).to_pylist() if name not in AGE_BANDS]
    if strange:
        raise logs.LogError(
            f"{path}: age_band is {strange[0]!r}, expected one of {', '.join(AGE_BANDS)}"
        )
    return table

"""Anonymous web sessions, in the form of UCI's msnbc: a session a line, pages as integers.

A text file, or a zip with one such file. Lines that start with `%` and empty lines are left out, and
a line of words names the page categories 1..K in their order; without it K is the largest page.

Protocol (the README of the public data says only 400,000 and 50,000; the rest was found by making
its n-gram numbers again): sessions of 2 to 500 pages, in the order of the file; the first 400,000
train and the last 50,000 test. A file with fewer than 450,000 sessions is split 8 : 1, as those are.
Every page from a session's 2nd on is to be predicted from those before it. There is no END.
"""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from fintrec.learning.loop import Progress
from fintrec.logs import LogError
from fintrec.public.goals import Line, next_kind_lines
from fintrec.public.kind_models import KindSettings, judge, train_decoder
from fintrec.public.kind_windows import without_time
from fintrec.public.ngrams import fit, quality
from fintrec.public.ragged import Ragged
from fintrec.public.source_files import cell_name, identity
from fintrec.public.suite import Say, silent, told
from fintrec.result_files import ResultFolder

SHORTEST: Final = 2
LONGEST: Final = 500
NUM_TRAIN: Final = 400_000
NUM_TEST: Final = 50_000
ORDERS: Final = {"bigram": 1, "3-gram": 2, "order-5 backoff": 5}
MIN_COUNT: Final = 20
NUM_VALIDATION: Final = 10_000
GOAL_NLL: Final = 1.18
_ZIP_START: Final = b"PK\x03\x04"
MSNBC: Final = "msnbc990928.zip"  # the file that the goal was set for
TRAINED: Final = ("decoder-seed",)
SETTINGS: Final = KindSettings(
    d_model=64,
    d_feed_forward=128,
    dropout=0.0,
    window=64,
    use_time=False,
    learning_rate=3e-3,
    batch_tokens=4096,
    epochs=4,
)


MOST_PAGES: Final = 1_000  # contexts of five of them have a code of 64 bits (`ngrams.py`)


def read_sessions(path: Path) -> Ragged:
    """All sessions of a file, pages from 0.

    LogError for a missing or empty file, a broken zip or one of several files, a page that
    is no integer or not between 1 and the number of named categories, `MOST_PAGES` without names.
    """
    names: list[str] = []
    pages: list[int] = []
    lengths: list[int] = []
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if not words or line.startswith("%"):
            continue
        if not names and not pages and not words[0].lstrip("-").isdigit():
            names = words
            continue
        try:
            session = [int(word) for word in words]
        except ValueError as error:
            raise LogError(
                f"{path}, line {number}: {line.strip()[:60]!r} has a page that is no integer"
            ) from error
        most = len(names) or MOST_PAGES
        if min(session) < 1 or max(session) > most:
            raise LogError(
                f"{path}, line {number}: pages {min(session)}..{max(session)}, expected 1..{most}"
            )
        pages.extend(session)
        lengths.append(len(session))
    if not pages:
        raise LogError(f"{path}: no sessions, expected one a line, pages as integers")
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return Ragged(np.array(pages, np.int64) - 1, starts, len(names) or max(pages))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise LogError(f"{path}: no such file, expected sessions as text or zip")
    data = path.read_bytes()
    try:
        if data.startswith(_ZIP_START):
            data = _unzipped(path)
        return data.decode("utf-8").splitlines()
    except (zipfile.BadZipFile, zlib.error) as error:
        raise LogError(f"{path}: begins as a zip and cannot be read as one ({error})") from error
    except UnicodeDecodeError as error:
        raise LogError(f"{path}: not a text file ({error})") from error


def _unzipped(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        inside = [
            name
            for name in archive.namelist()
            if not name.startswith("__MACOSX") and not name.endswith("/")
        ]
        if len(inside) != 1:
            raise LogError(f"{path}: {len(inside)} files in the zip, expected one")
        return archive.read(inside[0])


def protocol(sessions: Ragged, path: Path) -> tuple[Ragged, Ragged]:
    """(train, test) sessions of a file; LogError where there are too few to split."""
    length_S = sessions.length_S
    kept = sessions.where((length_S >= SHORTEST) & (length_S <= LONGEST))
    num_test = NUM_TEST if len(kept) >= NUM_TRAIN + NUM_TEST else len(kept) // 9
    num_train = min(NUM_TRAIN, len(kept) - num_test)
    if not num_test:
        raise LogError(
            f"{path}: {len(kept)} sessions of {SHORTEST} to {LONGEST} pages, expected at least 9"
        )
    return kept.between(0, num_train), kept.between(len(kept) - num_test, len(kept))


def decoder_quality(
    train: Ragged,
    test: Ragged,
    seed: int,
    budget_minutes: float | None,
    report: Callable[[Progress], None],
    settings: KindSettings = SETTINGS,
) -> dict[str, Any]:
    """Our decoder, trained with a seed: its history, validation and test.

    The last training sessions, at most 10,000 and a tenth of them, are kept for validation.
    """
    num_fit = len(train) - min(NUM_VALIDATION, len(train) // 10 + 1)
    if num_fit < 1:
        raise LogError(f"{len(train)} training sessions, expected at least 2: the last validate")
    validation = without_time(train.between(num_fit, len(train)))
    decoder, history = train_decoder(
        without_time(train.between(0, num_fit)), validation, settings, seed, budget_minutes, report
    )
    return {
        "training": history,
        "validation": judge(decoder, validation, settings),
        "test": judge(decoder, without_time(test), settings),
    }


def evaluate(
    path: Path,
    folder: ResultFolder,
    seeds: tuple[int, ...],
    budget_minutes: float | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """Judge a file of sessions; LogError for a file that is not of the form."""
    source = identity(path)
    sessions = read_sessions(path)
    train, test = protocol(sessions, path)
    ngrams = folder.cell(
        cell_name("sessions", path, "ngrams"),
        {**source, "orders": ORDERS, "min_count": MIN_COUNT},
        lambda: {
            name: quality(fit(train, order, MIN_COUNT), test) for name, order in ORDERS.items()
        },
    )
    decoders = {
        str(seed): folder.cell(
            cell_name("sessions", path, f"decoder-seed{seed}"),
            {**source, **SETTINGS.to_dict(), "seed": seed, "budget_minutes": budget_minutes},
            lambda seed=seed: decoder_quality(  # type: ignore[misc]
                train, test, seed, budget_minutes, told(say, f"next page, seed {seed}")
            ),
        )["result"]
        for seed in seeds
    }
    return {
        "form": "sessions",
        **source,
        "sessions": len(sessions),
        "train_sessions": len(train),
        "test_sessions": len(test),
        "pages": sessions.num_kinds,
        "next_page": {"beside": ngrams["result"], "decoder": decoders},
    }


def lines(result: dict[str, Any]) -> list[Line]:
    """The measures beside their goals, which are those of msnbc."""
    path = Path(result["file"])
    return next_kind_lines(
        f"sessions {path.name}",
        "next page",
        result["next_page"],
        GOAL_NLL if path.name == MSNBC else None,
        cell_name("sessions", path, TRAINED[0]),
    )

"""Which code decides: version of the package and hash of its lock, for audit records."""

import hashlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@lru_cache(maxsize=1)
def build_identity() -> dict[str, str]:
    """`code_version`: package version and hash of the sources; `lock_sha256`: of the dependencies.

    An installed wheel has no lock beside it; the field is then "".
    """
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in ("features", "fintrec", "streams"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    try:
        number = version("fintrec")
    except PackageNotFoundError:
        number = "0"
    lock = root / "requirements.lock"
    return {
        "code_version": f"{number}+{digest.hexdigest()[:12]}",
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "",
    }

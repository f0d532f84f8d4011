"""The code that made something, as a version and a hash. No torch here."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import features
import fintrec


def code_version() -> str:
    """Package version and a hash of the sources that decide what a model computes."""
    digest = hashlib.sha256()
    for package in (features, fintrec):
        assert package.__file__ is not None
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return f"{version('fintrec')}+{digest.hexdigest()[:12]}"

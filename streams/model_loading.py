"""Ask Triton to load a model version, and wait until it answers with it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from features.errors import ModelUnavailable
from fintrec.manifest import SERVED, versions
from streams.clients import triton_kwargs
from streams.settings import Settings
from streams.triton import TritonModels

LOAD_TIMEOUT_S: Final = 180.0  # torch is imported and every shape warmed
TAKEN_UP_BY: Final = ("encode", "head")  # as `TritonModels.ready_versions` has it
_INDEX_TIMEOUT_MS: Final = 10_000  # an operator waits longer than a request
_POLL_S: Final = 0.05


def load_version(settings: Settings, version: int, timeout_s: float = LOAD_TIMEOUT_S) -> float:
    """Load the newest versions of the four models; seconds until `version` was ready.

    `encode` and `head` come last: workers take a version up when both are ready, and by then nothing
    else of it can fail.

    Raises ModelUnavailable when Triton is down, refuses a model or takes longer than `timeout_s`.
    """
    began = time.monotonic()
    for names in (set(SERVED) - set(TAKEN_UP_BY), TAKEN_UP_BY):
        with ThreadPoolExecutor(len(names)) as pool:
            loads = [pool.submit(_load, settings, name, version, timeout_s) for name in names]
        for load in loads:
            load.result()
    return time.monotonic() - began


def served_version(settings: Settings, repository: Path) -> int | None:
    """The version of a repository that workers use now; None without any.

    Raises ModelUnavailable when Triton is down.
    """
    triton = TritonModels(replace(settings, encode_timeout_ms=_INDEX_TIMEOUT_MS))
    return max({*versions(repository)} & {*triton.ready_versions()}, default=None)


def _load(settings: Settings, name: str, version: int, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    client = grpcclient.InferenceServerClient(**triton_kwargs(settings))
    try:
        client.load_model(name, client_timeout=timeout_s)
        while not client.is_model_ready(name, str(version), client_timeout=timeout_s):
            if time.monotonic() > end:
                raise ModelUnavailable(
                    f"triton: {name} is loaded, but version {version} not ready after "
                    f"{timeout_s:.0f} s: does the server read this repository?"
                )
            time.sleep(_POLL_S)
    except InferenceServerException as failed:
        raise ModelUnavailable(
            f"triton at {settings.triton_grpc}: {name} {version} not loaded: {failed.message()}"
        ) from failed
    finally:
        client.close()

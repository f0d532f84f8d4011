"""Triton over gRPC: `encode` and `head` for a whole batch in one call, with a deadline.

A blocking client: in an agent that does one batch at a time it costs less than the aio client.
Batches are split at `MAX_BATCH` (a larger one fails as a whole) and padded to `MIN_BATCH` rows:
from four rows on, CPU logits have the same bytes whatever else is in the batch.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from features.encoding import HistoryArrays
from features.errors import ModelUnavailable
from streams.clients import triton_kwargs
from streams.settings import Settings

MAX_BATCH: Final = 64
MIN_BATCH: Final = 4
_RECONNECT: Final = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
Array = npt.NDArray[Any]


class TritonModels:
    """The four served models, as the workers call them."""

    def __init__(self, settings: Settings) -> None:
        self._head_s = settings.triton_timeout_ms / 1000
        self._encode_s = settings.encode_timeout_ms / 1000
        self._client = grpcclient.InferenceServerClient(
            **triton_kwargs(settings), channel_args=_RECONNECT
        )

    def encode(self, arrays: HistoryArrays, version: int) -> npt.NDArray[np.float16]:
        """Hidden states of encoded histories, (B, width) float16, h_ctr | h_cvr.

        Raises ModelUnavailable when Triton is late, down, or answers in another shape.
        """
        return self._encode(arrays, version, self._encode_s)

    def repair(self, arrays: HistoryArrays, version: int) -> npt.NDArray[np.float16]:
        """`encode` within the deadline of a request."""
        return self._encode(arrays, version, self._head_s)

    def _encode(
        self, arrays: HistoryArrays, version: int, timeout_s: float
    ) -> npt.NDArray[np.float16]:
        inputs = (arrays.tokens_BTC, arrays.times_BT, arrays.dynamic_BTF)
        names = ("tokens__0", "times__1", "dynamic__2")
        (state,) = self._infer("encode", version, names, inputs, ("state__0",), timeout_s)
        return state

    def head(
        self,
        hidden_BW: npt.NDArray[np.float16],
        context_BX: npt.NDArray[np.float16],
        request_BR: npt.NDArray[np.int64],
        version: int,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(pCTR logits, pCVR logits), each (B, K) float32. Raises as `encode`."""
        pctr, pcvr = self._infer(
            "head",
            version,
            ("state__0", "context__1", "request__2"),
            (hidden_BW, context_BX, request_BR),
            ("pctr_logits__0", "pcvr_logits__1"),
            self._head_s,
        )
        return pctr, pcvr

    def ready_versions(self) -> list[int]:
        """Versions that Triton has ready of both `encode` and `head`, ascending."""
        try:
            index = self._client.get_model_repository_index(client_timeout=self._encode_s)
        except InferenceServerException as silent:
            raise ModelUnavailable(f"triton: no repository index: {silent.message()}") from silent
        ready: dict[str, set[int]] = {"encode": set(), "head": set()}
        for model in index.models:
            if model.state == "READY" and model.name in ready:
                ready[model.name].add(int(model.version))
        return sorted(ready["encode"] & ready["head"])

    def _infer(
        self,
        model: str,
        version: int,
        names: Sequence[str],
        inputs: Sequence[Array],
        outputs: Sequence[str],
        timeout_s: float,
    ) -> list[Array]:
        rows = len(inputs[0])
        parts = [
            self._call(
                model,
                version,
                names,
                [array[start : start + MAX_BATCH] for array in inputs],
                outputs,
                timeout_s,
            )
            for start in range(0, rows, MAX_BATCH)
        ]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(found) for found in zip(*parts, strict=True)]

    def _call(
        self,
        model: str,
        version: int,
        names: Sequence[str],
        inputs: Sequence[Array],
        outputs: Sequence[str],
        timeout_s: float,
    ) -> list[Array]:
        rows = len(inputs[0])
        tensors = []
        for name, array in zip(names, inputs, strict=True):
            padded = _padded(array)
            tensor = grpcclient.InferInput(name, padded.shape, np_to_triton_dtype(padded.dtype))
            tensor.set_data_from_numpy(padded)
            tensors.append(tensor)
        try:
            answer = self._client.infer(
                model, tensors, model_version=str(version), client_timeout=timeout_s
            )
        except InferenceServerException as failed:
            raise ModelUnavailable(f"triton: {model} {version}: {failed.message()}") from failed
        found = []
        for name in outputs:
            array = answer.as_numpy(name)
            if array is None or array.ndim != 2 or len(array) != max(rows, MIN_BATCH):
                shape = None if array is None else array.shape
                raise ModelUnavailable(
                    f"triton: {model} {version}: output {name} has shape {shape}, "
                    f"expected {max(rows, MIN_BATCH)} rows of two axes"
                )
            found.append(array[:rows])
        return found


def _padded(array: Array) -> Array:
    """At least MIN_BATCH rows; the last one repeated."""
    lacking = MIN_BATCH - len(array)
    if lacking <= 0:
        return np.ascontiguousarray(array)
    return np.concatenate((array, np.repeat(array[-1:], lacking, axis=0)))

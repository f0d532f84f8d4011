"""Triton's `pytorch` backend, in Python: serves the TorchScript file `model.pt` of each version.

NVIDIA's LibTorch backend reads the same repository: inputs are matched to `forward`'s arguments by
name, or by index where they are called `NAME__0`, `NAME__1`; the parameters INTRA_OP_THREAD_COUNT
and INTER_OP_THREAD_COUNT mean the same (here 1 by default, so that instances share a machine).

Requests of one batch that agree in shape are joined along the batch axis, run once and split again.
Tensors travel by DLPack both ways: this server's Python stub was built for NumPy 1, and with
NumPy 2 a tensor made from an array arrives with zero bytes. This file imports nothing of the
project: Triton's own process runs it.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch import Tensor
from torch.utils.dlpack import from_dlpack

_INDEXED = re.compile(r".*__(\d+)$")
_DTYPES = {
    "TYPE_BOOL": torch.bool,
    "TYPE_UINT8": torch.uint8,
    "TYPE_INT8": torch.int8,
    "TYPE_INT16": torch.int16,
    "TYPE_INT32": torch.int32,
    "TYPE_INT64": torch.int64,
    "TYPE_FP16": torch.float16,
    "TYPE_FP32": torch.float32,
    "TYPE_FP64": torch.float64,
    "TYPE_BF16": torch.bfloat16,
}
# What a model raises on input that it cannot take: TorchScript's own error (its assertions) is
# not a RuntimeError, while the errors of torch's operators are.
_MODEL_ERRORS = (torch.jit.Error, RuntimeError, ValueError, TypeError, IndexError)


class TritonPythonModel:
    """One instance of one model version; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load `model.pt`; `args` as Triton's Python backend documents them."""
        config = json.loads(args["model_config"])
        parameters = config.get("parameters", {})
        torch.set_num_threads(_thread_count(parameters, "INTRA_OP_THREAD_COUNT"))
        torch.set_num_interop_threads(_thread_count(parameters, "INTER_OP_THREAD_COUNT"))
        on_gpu = args.get("model_instance_kind") == "GPU"
        self._device = torch.device(f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")
        path = Path(args["model_repository"]) / args["model_version"] / "model.pt"
        load: Callable[..., torch.jit.ScriptModule] = torch.jit.load
        self._module = load(path, map_location=self._device).eval()
        self._is_batching = config.get("max_batch_size", 0) > 0
        forward: Any = self._module.forward
        arguments = [argument.name for argument in forward.schema.arguments[1:]]  # without self
        names = [entry["name"] for entry in config["input"]]
        self._inputs = forward_order(names, arguments)
        outputs = {entry["name"]: _DTYPES[entry["data_type"]] for entry in config["output"]}
        self._outputs = {name: outputs[name] for name in forward_order(list(outputs), [])}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, in order: its rows of the outputs, or an error of its own."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        tensors: list[list[Tensor]] = []
        for index, request in enumerate(requests):
            tensors.append(self._read(request))
            # A request that nothing may be joined with is a group of its own.
            joinable = self._is_batching and all(t.dim() > 0 for t in tensors[index])
            shape = tuple((t.dtype, t.shape[1:]) for t in tensors[index])
            groups[shape if joinable else (index,)].append(index)
        for members in groups.values():
            for index, response in zip(
                members, self._answer([tensors[index] for index in members]), strict=True
            ):
                responses[index] = response
        return responses

    def _read(self, request: Any) -> list[Tensor]:
        """The request's tensors in `forward`'s order."""
        return [
            from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack())
            for name in self._inputs
        ]

    def _answer(self, members: list[list[Tensor]]) -> list[Any]:
        """Responses to requests of one shape; if they fail together, each is tried alone."""
        try:
            results = self._run(members)
        except _MODEL_ERRORS as exc:
            if len(members) > 1:
                return [response for member in members for response in self._answer([member])]
            error = pb_utils.TritonError(f"{type(exc).__name__}: {exc}")
            return [pb_utils.InferenceResponse(error=error)]
        return [self._respond(outputs) for outputs in results]

    def _run(self, members: list[list[Tensor]]) -> list[list[Tensor]]:
        """Run the model once on all members' rows; the outputs of each member."""
        if len(members) == 1:
            joined = members[0]
        else:
            joined = [torch.cat(parts) for parts in zip(*members, strict=True)]
        with torch.inference_mode():
            result = self._module(*(tensor.to(self._device) for tensor in joined))
        outputs = [result] if isinstance(result, Tensor) else list(result)
        self._check(outputs)
        if len(members) == 1:
            return [outputs]
        sizes = [len(member[0]) for member in members]
        return [list(parts) for parts in zip(*(o.split(sizes) for o in outputs), strict=True)]

    def _check(self, outputs: list[Tensor]) -> None:
        if len(outputs) != len(self._outputs):
            raise ValueError(
                f"the model gave {len(outputs)} outputs, config.pbtxt names {len(self._outputs)}"
            )
        for (name, dtype), output in zip(self._outputs.items(), outputs, strict=True):
            if output.dtype != dtype:
                raise ValueError(f"output {name} is {output.dtype}, config.pbtxt says {dtype}")

    def _respond(self, outputs: list[Tensor]) -> Any:
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor.from_dlpack(name, output.contiguous())
                for name, output in zip(self._outputs, outputs, strict=True)
            ]
        )


def forward_order(names: list[str], arguments: list[str]) -> list[str]:
    """Names of the configuration in the order of `forward`: by argument name, by index, as given.

    Args:
        names: inputs or outputs of config.pbtxt, which may be in any order.
        arguments: `forward`'s argument names; empty for outputs, which have none.
    """
    if set(names) <= set(arguments):
        return sorted(names, key=arguments.index)
    indices = [_INDEXED.match(name) for name in names]
    if all(indices):
        return sorted(names, key=lambda name: int(name.rpartition("__")[2]))
    return names


def _thread_count(parameters: dict[str, Any], name: str) -> int:
    value = parameters.get(name, {"string_value": "1"})["string_value"]
    count = int(value)
    if count < 1:
        raise ValueError(f"parameter {name} is {value}, expected at least 1")
    return count

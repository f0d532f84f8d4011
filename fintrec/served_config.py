"""Triton's `config.pbtxt` of the four served models.

The same text loads in NVIDIA's container (LibTorch backend) and in the embedded server (Python-based
`pytorch` backend). `docs/operations.md` says how to serve it.

- T is variable, and one request has one padded bucket, so the dynamic batcher can merge; every
  bucket is warmed, because TorchScript specialises on each new shape
- K is variable: two versions of a model stand side by side while states are recomputed, and the
  newer one may score more items. The stored state's width is fixed.
- thread counts are 1: calls run side by side, and the default is all cores for each
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from features.encoding import BUCKETS, REQUEST_COLUMNS, TOKEN_COLUMNS
from features.spec import CONTEXT_WIDTH, NUM_DYNAMIC

Kind = Literal["cpu", "gpu"]

MAX_BATCH: Final = 64
WARM_BATCHES: Final = (4, 16, MAX_BATCH)
WARM_COUNT: Final = 3  # the profiling executor settles after two runs of a shape
_VARIABLE: Final = -1


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output; `dims` without the batch, -1 where variable."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a served model."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def reads_history(self) -> bool:
        """Whether its inputs have the history's variable length."""
        return any(_VARIABLE in tensor.dims for tensor in self.inputs)


def signatures(state_width: int) -> tuple[Signature, ...]:
    """The four served models, for stored states of a width."""
    history = (
        Tensor("tokens__0", "TYPE_INT32", (_VARIABLE, len(TOKEN_COLUMNS))),
        Tensor("times__1", "TYPE_INT64", (_VARIABLE,)),
        Tensor("dynamic__2", "TYPE_FP16", (_VARIABLE, NUM_DYNAMIC)),
    )
    whole = (
        *history,
        Tensor("context__3", "TYPE_FP16", (CONTEXT_WIDTH,)),
        Tensor("request__4", "TYPE_INT64", (len(REQUEST_COLUMNS),)),
    )
    after_state = (
        Tensor("state__0", "TYPE_FP16", (state_width,)),
        Tensor("context__1", "TYPE_FP16", (CONTEXT_WIDTH,)),
        Tensor("request__2", "TYPE_INT64", (len(REQUEST_COLUMNS),)),
    )
    logits = (Tensor("logits__0", "TYPE_FP32", (_VARIABLE,)),)
    return (
        Signature("encode", history, (after_state[0],)),
        Signature(
            "head",
            after_state,
            (
                Tensor("pctr_logits__0", "TYPE_FP32", (_VARIABLE,)),
                Tensor("pcvr_logits__1", "TYPE_FP32", (_VARIABLE,)),
            ),
        ),
        Signature("pctr", whole, logits),
        Signature("pcvr", whole, logits),
    )


def config_text(signature: Signature, kind: Kind, only_version: int | None) -> str:
    """`config.pbtxt` of one model.

    `kind` is the target's, not the model's: the local stack has no GPU. `only_version` serves that
    version alone, for when an older one has another state width; otherwise the newest two are.
    """
    policy = (
        "latest { num_versions: 2 }"
        if only_version is None
        else f"specific {{ versions: [ {only_version} ] }}"
    )
    blocks = [
        f'name: "{signature.name}"',
        'backend: "pytorch"',
        f"max_batch_size: {MAX_BATCH}",
        _tensors("input", signature.inputs),
        _tensors("output", signature.outputs),
        f"instance_group [ {{ kind: KIND_{kind.upper()} count: 1 }} ]",
        f"version_policy: {{ {policy} }}",
        "dynamic_batching { }",
        _parameter("INTRA_OP_THREAD_COUNT", "1"),
        _parameter("INTER_OP_THREAD_COUNT", "1"),
        _parameter("INFERENCE_MODE", "true"),
        _warmup(signature),
    ]
    return "\n".join(blocks) + "\n"


def _tensors(role: str, tensors: Sequence[Tensor]) -> str:
    rows = [
        f'  {{ name: "{tensor.name}" data_type: {tensor.dtype} dims: {_dims(tensor.dims)} }}'
        for tensor in tensors
    ]
    return f"{role} [\n" + ",\n".join(rows) + "\n]"


def _dims(dims: Sequence[int]) -> str:
    return "[ " + ", ".join(str(size) for size in dims) + " ]"


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def _warmup(signature: Signature) -> str:
    samples = []
    for bucket in BUCKETS if signature.reads_history else (0,):
        for batch in WARM_BATCHES:
            inputs = [
                f'    inputs {{ key: "{tensor.name}" value {{ data_type: {tensor.dtype} dims: '
                f"{_dims([bucket if size == _VARIABLE else size for size in tensor.dims])} "
                "zero_data: true } }"
                for tensor in signature.inputs
            ]
            name = f"length_{bucket}_batch_{batch}" if bucket else f"batch_{batch}"
            head = f'  {{\n    name: "{name}" batch_size: {batch} count: {WARM_COUNT}\n'
            samples.append(head + "\n".join(inputs) + "\n  }")
    return "model_warmup [\n" + ",\n".join(samples) + "\n]"

"""The Python `pytorch` backend on the real Triton: same bytes as torch, errors kept apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

pytestmark = pytest.mark.integration

_CONFIG_TYPES = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "BOOL": "TYPE_BOOL"}


class Perceptron(nn.Module):
    """(B, 8) -> (B, 3)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class Pooling(nn.Module):
    """Several inputs of several types, several outputs."""

    def forward(self, tokens: Tensor, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        weights = valid.to(values.dtype)
        return (values * weights).sum(dim=1), (tokens * valid.to(tokens.dtype)).sum(dim=1)


class Picky(nn.Module):
    """Refuses a negative number, as a model's assertion would."""

    def forward(self, x: Tensor) -> Tensor:
        assert bool((x >= 0).all()), "negative input"
        return x * 2


def write_model(
    repository: Path,
    name: str,
    module: nn.Module,
    inputs: dict[str, tuple[str, list[int]]],
    outputs: dict[str, tuple[str, list[int]]],
    version: int = 1,
    extra: str = "",
) -> None:
    """A model of the repository, as `fintrec export` lays one out."""

    def entries(kind: str, tensors: dict[str, tuple[str, list[int]]]) -> str:
        return "".join(
            f'{kind} {{ name: "{n}" data_type: {_CONFIG_TYPES[t]} dims: {d} }}\n'
            for n, (t, d) in tensors.items()
        )

    folder = repository / name
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    torch.jit.script(module.eval()).save(str(folder / str(version) / "model.pt"))
    (folder / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "pytorch"\nmax_batch_size: 16\n'
        + entries("input", inputs)
        + entries("output", outputs)
        + "instance_group { count: 1 kind: KIND_CPU }\n"
        + extra
    )


@pytest.fixture(scope="module")
def client(stack: Any) -> InferenceServerClient:
    return InferenceServerClient(stack.settings.triton_grpc)


@pytest.fixture(scope="module")
def repository(stack: Any) -> Path:
    return Path(stack.stack.model_repository)


def infer(client: InferenceServerClient, model: str, **arrays: NDArray[Any]) -> InferResult:
    inputs = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return client.infer(model, inputs, client_timeout=30)


@pytest.fixture(scope="module")
def perceptron(client: InferenceServerClient, repository: Path) -> Perceptron:
    module = Perceptron()
    fp32 = {"x": ("FP32", [8])}
    write_model(repository, "perceptron", module, fp32, {"y": ("FP32", [3])})
    client.load_model("perceptron")
    return module


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_served_equals_local_to_the_bit(
    client: InferenceServerClient, perceptron: Perceptron, batch_size: int
) -> None:
    x = np.random.default_rng(batch_size).normal(size=(batch_size, 8)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.jit.script(perceptron)(torch.from_numpy(x)).numpy()
    served = infer(client, "perceptron", x=x).as_numpy("y")
    assert served.dtype == np.float32
    assert served.tobytes() == expected.tobytes()


def test_inputs_are_matched_by_name_and_all_outputs_come_back(
    client: InferenceServerClient, repository: Path
) -> None:
    inputs = {"valid": ("BOOL", [5]), "tokens": ("INT64", [5]), "values": ("FP32", [5])}
    outputs = {"summed": ("FP32", []), "counted": ("INT64", [])}
    reshape = {name: (t, [1]) for name, (t, _) in outputs.items()}

    class Column(Pooling):
        def forward(self, tokens: Tensor, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
            weights = valid.to(values.dtype)
            return (
                (values * weights).sum(dim=1, keepdim=True),
                (tokens * valid.to(tokens.dtype)).sum(dim=1, keepdim=True),
            )

    module = Column()
    write_model(repository, "pooling", module, inputs, reshape)
    client.load_model("pooling")
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, 9, size=(4, 5))
    values = rng.normal(size=(4, 5)).astype(np.float32)
    valid = rng.random(size=(4, 5)) < 0.5
    result = infer(client, "pooling", tokens=tokens, values=values, valid=valid)
    expected = module(*map(torch.from_numpy, (tokens, values, valid)))
    assert result.as_numpy("summed").tobytes() == expected[0].numpy().tobytes()
    assert result.as_numpy("counted").tolist() == expected[1].tolist()


def test_a_wrong_shape_is_an_error_and_the_server_lives_on(
    client: InferenceServerClient, perceptron: Perceptron
) -> None:
    with pytest.raises(InferenceServerException, match="shape"):
        infer(client, "perceptron", x=np.zeros((2, 9), np.float32))
    assert infer(client, "perceptron", x=np.zeros((2, 8), np.float32)).as_numpy("y").shape == (2, 3)


def test_a_batch_above_the_maximum_is_an_error_as_a_whole(
    client: InferenceServerClient, perceptron: Perceptron
) -> None:
    with pytest.raises(InferenceServerException, match="batch"):
        infer(client, "perceptron", x=np.zeros((17, 8), np.float32))


def test_requests_that_share_a_batch_with_a_bad_one_are_answered(
    client: InferenceServerClient, repository: Path
) -> None:
    delayed = "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 300000 }"
    tensors = {"x": ("FP32", [2])}
    write_model(repository, "picky", Picky(), tensors, {"y": ("FP32", [2])}, extra=delayed)
    client.load_model("picky")
    answers: dict[int, Any] = {}
    for value in (1, -1, 2, 3):
        tensor = InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.full((1, 2), value, np.float32))
        client.async_infer(
            "picky",
            [tensor],
            callback=lambda result, error, value=value: answers.update({value: error or result}),
        )
    until(lambda: len(answers) == 4)
    assert isinstance(answers[-1], InferenceServerException)
    assert "negative input" in str(answers[-1])
    for value in (1, 2, 3):
        assert not isinstance(answers[value], Exception), str(answers[value])
        assert answers[value].as_numpy("y").tolist() == [[2 * value, 2 * value]]
    statistics = client.get_inference_statistics("picky", as_json=True)["model_stats"][0]
    assert int(statistics["execution_count"]) < 4  # they did share a batch


def test_a_new_version_is_loaded_while_the_old_one_serves(
    client: InferenceServerClient, repository: Path
) -> None:
    tensors = {"x": ("FP32", [8])}
    out = {"y": ("FP32", [3])}
    versions = "version_policy { latest { num_versions: 1 } }"
    write_model(repository, "growing", Perceptron(1), tensors, out, 1, versions)
    client.load_model("growing")
    x = np.ones((4, 8), np.float32)
    old = infer(client, "growing", x=x)
    write_model(repository, "growing", Perceptron(2), tensors, out, 2, versions)
    client.load_model("growing")
    new = infer(client, "growing", x=x)
    assert (old.get_response().model_version, new.get_response().model_version) == ("1", "2")
    expected = torch.jit.script(Perceptron(2).eval())(torch.from_numpy(x)).detach().numpy()
    assert new.as_numpy("y").tobytes() == expected.tobytes()


def test_a_broken_model_is_refused_with_its_reason_and_the_others_serve(
    client: InferenceServerClient, perceptron: Perceptron, repository: Path, stack: Any
) -> None:
    folder = repository / "broken"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.pt").write_bytes(b"not TorchScript")
    config = (repository / "perceptron" / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(config.replace("perceptron", "broken"))
    with pytest.raises(InferenceServerException, match="broken"):
        client.load_model("broken")
    assert infer(client, "perceptron", x=np.zeros((1, 8), np.float32)).as_numpy("y").shape == (1, 3)
    for leftover in (folder / "1" / "model.pt", folder / "config.pbtxt"):
        leftover.unlink()
    (folder / "1").rmdir()
    folder.rmdir()


def until(condition: Any, timeout_s: float = 30.0) -> None:
    """Wait for a condition that another thread brings about."""
    import time

    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "gave up waiting"
        time.sleep(0.01)


def test_the_configuration_says_what_the_server_loaded(client: InferenceServerClient) -> None:
    index = json.loads(json.dumps(client.get_model_repository_index(as_json=True)))
    ready = {m["name"] for m in index.get("models", []) if m.get("state") == "READY"}
    assert {"perceptron", "pooling", "picky", "growing"} <= ready

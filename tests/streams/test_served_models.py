"""The exported models on the real Triton: what it answers is what the modules compute."""

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
from tritonclient.utils import np_to_triton_dtype

from features.errors import ModelUnavailable
from features.history import EMPTY
from fintrec import checkpoint as checkpoints
from fintrec.calibration import Calibration
from fintrec.checkpoint import Checkpoint
from fintrec.export import export, served_modules
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.popularity import measure
from fintrec.served_config import Signature, signatures
from streams.model_loading import load_version
from tests.fintrec.tiny import (
    VOCABULARY,
    config,
    history,
    history_inputs,
    models,
    request_inputs,
    training_set,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "item_history"])
def served(request, stack, tmp_path_factory: pytest.TempPathFactory):
    """(checkpoint, version, client) of tiny models that the session's Triton has loaded."""
    pctr, pcvr = models(item_history=request.param)
    if request.param:
        for model in (pctr, pcvr):
            torch.nn.init.normal_(model.item_head.counts_head.output_KU)
    data = training_set(3)
    checkpoint = Checkpoint(
        Recipe(name="test", model=config(item_history=request.param), training=TrainingConfig()),
        VOCABULARY,
        data.content_types,
        pctr,
        pcvr,
        Calibration("platt-test", 1.0, 0.0),
        measure(data),
        {},
    )
    directory = tmp_path_factory.mktemp("checkpoint")
    checkpoints.save(checkpoint, directory)
    version = export(directory, stack.settings.model_repository)
    load_version(stack.settings, version)
    client = grpcclient.InferenceServerClient(stack.settings.triton_grpc)
    yield checkpoint, version, client
    client.close()


def ask(client, version: int, signature: Signature, arguments) -> list[np.ndarray]:
    inputs = []
    for stated, argument in zip(signature.inputs, arguments, strict=True):
        array = argument.numpy()
        tensor = grpcclient.InferInput(stated.name, array.shape, np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array))
    answer = client.infer(signature.name, inputs, model_version=str(version), client_timeout=30)
    return [answer.as_numpy(stated.name) for stated in signature.outputs]


@pytest.mark.parametrize("length", [0, 9, 70])
@pytest.mark.parametrize("batch", [4, 13, 64])
def test_served_outputs_equal_the_modules_to_the_bit(served, batch: int, length: int) -> None:
    """The same kernels on one thread; batches below four are padded by the workers."""
    checkpoint, version, client = served
    rng = np.random.default_rng(batch + length)
    inputs = history_inputs([history(rng, length) if length else EMPTY for _ in range(batch)])
    page = request_inputs(rng, batch)
    modules = served_modules(checkpoint)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        state = modules["encode"](*inputs)
        for signature in signatures(state.shape[1]):
            name = signature.name
            arguments = {"encode": inputs, "head": (state, *page)}.get(name, (*inputs, *page))
            expected = modules[name](*arguments)
            expected = (expected,) if isinstance(expected, torch.Tensor) else expected
            found = ask(client, version, signature, arguments)
            for one, two in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, two.numpy(), err_msg=name)
    torch.set_num_threads(threads)


def test_a_version_that_the_server_does_not_have_is_an_error(stack, served) -> None:
    with pytest.raises(ModelUnavailable, match="not ready"):
        load_version(stack.settings, 999, timeout_s=8.0)

"""A checkpoint becomes the next version of the four models in Triton's model repository.

    REPOSITORY/encode/config.pbtxt   REPOSITORY/encode/N/model.pt  model.pt2  manifest.json
    REPOSITORY/head/...              pctr/...                      pcvr/...

A version appears whole or not at all: files are written beside their place and renamed, and
`encode/N`, with the manifest, comes last. TorchScript is what Triton serves; the `torch.export`
program beside it is the same model in the form that will outlive TorchScript.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from features.encoding import BUCKETS, REQUEST_COLUMNS, TOKEN_COLUMNS
from features.errors import ConfigurationError
from features.spec import CONTEXT_WIDTH, NUM_DYNAMIC, registry_fingerprint
from fintrec.card_files import CARD, SUMS, checkpoint_sha256
from fintrec.checkpoint import Checkpoint, code_version, load
from fintrec.manifest import (
    FILE,
    SERVED,
    Manifest,
    file_sha256,
    load_manifest,
    verify,
    versions,
)
from fintrec.models.served import Encode, Head
from fintrec.served_config import MAX_BATCH, Kind, config_text, signatures

SCRIPT: Final = "model.pt"
PROGRAM: Final = "model.pt2"
CONFIG: Final = "config.pbtxt"
Check = Callable[[Checkpoint, Mapping[str, Path]], object]


def export(
    checkpoint_dir: Path,
    repository: Path,
    kind: Kind = "cpu",
    program: bool = False,
    above: int = 0,
    check: Check | None = None,
) -> int:
    """Write the next version of all four models and return its number, which is above `above`.

    `program` also writes the `torch.export` program of each. `check` is given the checkpoint and the
    script of each model before the version appears; if it raises, it never does.
    """
    checkpoint = load(checkpoint_dir)
    number = next_version(repository, above)
    modules = served_modules(checkpoint)

    def write(name: str, folder: Path) -> None:
        _save_script(modules[name], folder / SCRIPT)
        if program:
            torch.export.save(exported_program(modules[name]), folder / PROGRAM)
        if name == SERVED[0]:
            for path in (checkpoint_dir / CARD, checkpoint_dir / SUMS):
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)

    def manifest(hashes: Mapping[str, str]) -> Manifest:
        return _manifest(checkpoint, number, hashes, checkpoint_sha256(checkpoint_dir))

    def check_scripts(folders: Mapping[str, Path]) -> None:
        if check is not None:
            check(checkpoint, {name: folder / SCRIPT for name, folder in folders.items()})

    _publish(repository, number, kind, write, manifest, check_scripts)
    return number


def _publish(
    repository: Path,
    number: int,
    kind: Kind,
    write: Callable[[str, Path], None],
    manifest_of: Callable[[Mapping[str, str]], Manifest],
    check: Callable[[Mapping[str, Path]], None] = lambda folders: None,
) -> None:
    """Make a version of what `write` puts into each model's folder, whole or not at all.

    `check` sees the folders before they are moved to their places.
    """
    partial = {name: repository / name / f".{number}.partial" for name in SERVED}
    try:
        for name, folder in partial.items():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write(name, folder)
        hashes = {
            f"{name}/{number}/{path.name}": file_sha256(path)
            for name, folder in partial.items()
            for path in sorted(folder.iterdir())
        }
        manifest = manifest_of(hashes)
        (partial[SERVED[0]] / FILE).write_text(json.dumps(manifest.to_dict(), indent=1) + "\n")
        check(partial)
        _write_configs(manifest, repository, kind)
        for name in reversed(SERVED):
            os.rename(partial[name], repository / name / str(number))
    finally:
        for folder in partial.values():
            shutil.rmtree(folder, ignore_errors=True)
        _drop_models_without_version(repository)


def republish(repository: Path, version: int, kind: Kind, above: int = 0) -> int:
    """Write the models of an earlier version as the next one, and return its number.

    A number never comes back, so a stored state is never taken for one of another model.
    ConfigurationError if the version is not there, not whole, or made for other features.
    """
    earlier = load_manifest(repository, version)
    verify(earlier, repository)
    number = next_version(repository, above)

    def write(name: str, folder: Path) -> None:
        for path in sorted((repository / name / str(version)).iterdir()):
            if path.is_file() and path.name != FILE:
                shutil.copyfile(path, folder / path.name)

    def manifest(hashes: Mapping[str, str]) -> Manifest:
        original = version if earlier.restores is None else earlier.restores
        return replace(earlier, version=number, sha256=hashes, restores=original)

    _publish(repository, number, kind, write, manifest)
    return number


def withdraw(repository: Path, version: int, kind: Kind) -> None:
    """Remove a version from the repository, its manifest first; the others are served as before."""
    for name in SERVED:
        folder = repository / name / str(version)
        gone = repository / name / f".{version}.partial"  # also of an export that was killed
        shutil.rmtree(gone, ignore_errors=True)
        if folder.exists():
            os.rename(folder, gone)
            shutil.rmtree(gone)
    left = versions(repository)
    if left:
        _write_configs(load_manifest(repository, left[-1]), repository, kind)
    _drop_models_without_version(repository)


def _drop_models_without_version(repository: Path) -> None:
    """Triton takes every folder for a model, and does not start with one that it cannot load."""
    for name in SERVED:
        folder = repository / name
        if folder.is_dir() and not any(path.name.isdecimal() for path in folder.iterdir()):
            (folder / CONFIG).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def kind_of(repository: Path) -> Kind:
    """Where the repository's Triton runs the models, as its configuration says; "cpu" without one."""
    path = repository / SERVED[0] / CONFIG
    return "gpu" if path.is_file() and "KIND_GPU" in path.read_text() else "cpu"


def served_modules(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """The four modules by name, in evaluation mode; ConfigurationError where a model is missing."""
    pctr, pcvr, _ = checkpoint.served()
    modules = (Encode(pctr, pcvr), Head(pctr, pcvr), pctr, pcvr)
    return {name: module.eval() for name, module in zip(SERVED, modules, strict=True)}


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """TorchScript of a module."""
    with _torchscript_is_deprecated():
        scripted = torch.jit.script(module)
    assert isinstance(scripted, torch.jit.ScriptModule)
    return scripted


def _save_script(module: nn.Module, path: Path) -> None:
    scripted = script(module)
    with _torchscript_is_deprecated():
        scripted.save(path)


def load_script(path: Path) -> torch.jit.ScriptModule:
    """TorchScript of a file, on the CPU."""
    with _torchscript_is_deprecated():
        loaded = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    assert isinstance(loaded, torch.jit.ScriptModule)
    return loaded


@contextmanager
def _torchscript_is_deprecated() -> Iterator[None]:
    """Silence that one warning; torch changed its category on the way."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", "`torch.jit", category)
        yield


def exported_program(module: nn.Module) -> torch.export.ExportedProgram:
    """`torch.export` program of a served module, variable in batch and history length."""
    batch = torch.export.Dim("batch", min=2, max=MAX_BATCH)
    length = torch.export.Dim("length", min=BUCKETS[0], max=BUCKETS[-1])
    inputs = example_inputs(module, 4, BUCKETS[0])
    shapes = [{0: batch} for _ in inputs]
    if not isinstance(module, Head):
        shapes = [
            {0: batch, 1: length} if place < 3 else {0: batch} for place in range(len(inputs))
        ]
    return torch.export.export(module, inputs, dynamic_shapes=tuple(shapes), strict=False)


def example_inputs(module: nn.Module, batch: int, length: int) -> tuple[Tensor, ...]:
    """Inputs of a served module for users without history."""
    context = torch.zeros(batch, CONTEXT_WIDTH, dtype=torch.float16)
    request = torch.zeros(batch, len(REQUEST_COLUMNS), dtype=torch.int64)
    if isinstance(module, Head):
        state = torch.zeros(batch, module.state_width, dtype=torch.float16)
        return state, context, request
    history = (
        torch.zeros(batch, length, len(TOKEN_COLUMNS), dtype=torch.int32),
        torch.zeros(batch, length, dtype=torch.int64),
        torch.zeros(batch, length, NUM_DYNAMIC, dtype=torch.float16),
    )
    return history if isinstance(module, Encode) else (*history, context, request)


def next_version(repository: Path, above: int = 0) -> int:
    """The first number above all that any of the four models has, and above `above`."""
    taken = [
        int(path.name)
        for name in SERVED
        for path in (repository / name).glob("*")
        if path.name.isdecimal()
    ]
    return max([above, *taken]) + 1


def _manifest(
    checkpoint: Checkpoint, number: int, hashes: Mapping[str, str], checkpoint_hash: str
) -> Manifest:
    pctr, pcvr, calibration = checkpoint.served()
    return Manifest(
        version=number,
        registry=registry_fingerprint(),
        vocabulary=checkpoint.vocabulary,
        content_types=checkpoint.content_types,
        calibration=calibration,
        popularity=checkpoint.popularity,
        d_model=checkpoint.recipe.model.d_model,
        state_width=Head(pctr, pcvr).state_width,
        window=checkpoint.recipe.model.window,
        buckets=BUCKETS,
        recipe=checkpoint.recipe.to_dict(),
        metrics=checkpoint.metrics,
        code=code_version(),
        torch=installed("torch"),
        sha256=hashes,
        checkpoint=checkpoint_hash,
    )


def _write_configs(manifest: Manifest, repository: Path, kind: Kind) -> None:
    only = None if _fits_previous(manifest, repository) else manifest.version
    for signature in signatures(manifest.state_width):
        _replace_text(repository / signature.name / CONFIG, config_text(signature, kind, only))


def _fits_previous(manifest: Manifest, repository: Path) -> bool:
    """Whether the version before can be served under this version's widths."""
    earlier = [version for version in versions(repository) if version < manifest.version]
    if not earlier:
        return True
    try:
        previous = load_manifest(repository, earlier[-1])
    except ConfigurationError:
        return False  # made for another registry: its inputs are not what the workers send now
    return previous.state_width == manifest.state_width


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)

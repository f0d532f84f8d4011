"""`fintrec export`: a checkpoint becomes the next model version, and Triton loads it."""

from pathlib import Path
from typing import Literal, cast

import click

from streams.commands.options import dir_option, json_option, print_json, repository_option


@click.command()
@click.argument(
    "checkpoint_dir",
    metavar="[CHECKPOINT_DIR]",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("checkpoint"),
)
@repository_option
@click.option(
    "--kind",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="Where the target's Triton runs the models.",
)
@click.option("--program", is_flag=True, help="Also write the torch.export program of each model.")
@click.option(
    "--load/--no-load",
    default=None,
    help="Ask Triton to load the version, and wait (default: if its address is set).",
)
@dir_option
@json_option
def export(
    checkpoint_dir: Path,
    repository: Path | None,
    kind: str,
    program: bool,
    load: bool | None,
    stack_dir: Path | None,
    as_json: bool,
) -> None:
    """Write the next version of encode, head, pctr and pcvr from CHECKPOINT_DIR."""
    from fintrec.export import export as run
    from fintrec.promotions import exclusive, highest, read_ledger
    from streams.settings import load_settings

    settings = load_settings(stack_dir)
    target = repository or settings.model_repository
    with exclusive(target):
        above = highest(read_ledger(target))
        version = run(checkpoint_dir, target, cast(Literal["cpu", "gpu"], kind), program, above)
    seconds = None
    if load or (load is None and settings.triton_grpc):
        from streams.model_loading import load_version

        seconds = round(load_version(settings, version), 1)
    if as_json:
        print_json({"version": version, "repository": str(target), "loaded_after_s": seconds})
        return
    click.echo(f"version {version} of encode, head, pctr and pcvr in {target}")
    if seconds is not None:
        click.echo(f"ready on Triton at {settings.triton_grpc} after {seconds} s")

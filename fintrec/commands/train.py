"""`fintrec train`: train the models of a version on a log and write a checkpoint.

Under torchrun (`python -m torch.distributed.run ... -m streams train ...`) each process runs this
verb; only the first writes and prints.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fintrec.commands.options import POSITIVE
from fintrec.commands.train_bars import Bars

if TYPE_CHECKING:
    from fintrec.datasets import TrainingSet
    from fintrec.learning.compute import Compute
    from fintrec.learning.run_state import Run
    from fintrec.models.config import Recipe
    from fintrec.training import Trained

SETTING_HELP = "A field of the model or the training, such as d_model=32. Repeatable."


@click.command()
@click.argument(
    "source",
    metavar="LOG_DIR|DATASET_DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("checkpoint"),
    show_default=True,
    help="Checkpoint directory to write.",
)
@click.option(
    "--tasks",
    type=click.Choice(["pctr", "pcvr", "both", "joint"]),
    default="both",
    show_default=True,
    help="One model alone, both one after the other, or both in one training, which "
    "--set shared_trunk=true needs.",
)
@click.option(
    "--run",
    "run_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of curves and states: after a kill the same command goes on there "
    "[default: OUT.run].",
)
@click.option(
    "--from",
    "start_dir",
    metavar="CHECKPOINT",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Start with the weights of a checkpoint.",
)
@click.option(
    "--recipe",
    type=click.Choice(["tiny_cpu", "table3", "paper"]),
    default="tiny_cpu",
    show_default=True,
)
@click.option(
    "--split",
    type=click.Choice(["demo", "paper"]),
    help="Of a log, days of training, validation and test: 4 and 8 last days, or the paper's "
    "90 / 7 / 7 [default: demo]. A data set has its own.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=SETTING_HELP)
@click.option(
    "--minutes",
    type=POSITIVE,
    help="Wall time of each model's training at most.",
)
@click.option("--epochs", type=click.IntRange(1), help="The same as --set epochs=N.")
@click.option("--seed", type=click.IntRange(0), help="The same as --set seed=N.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="CPU threads. Small models gain little, and lose much where cores are shared.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of matrix products; weights and losses are fp32. auto is bf16 on a GPU that has it.",
)
@click.option(
    "--loader-workers",
    type=click.IntRange(0),
    help="Processes that encode batches ahead [default: none on a CPU, up to 4 a GPU].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def train(source: Path, out: Path, as_json: bool, threads: int, **options: Any) -> None:
    """Train pCTR, pCVR and the calibration on a log or a data set and write a checkpoint.

    The newest days are validation and test. Of all epochs the weights with the lowest validation
    log loss are kept.
    """
    import torch

    from fintrec import calibration_report
    from fintrec.checkpoint import save
    from fintrec.evaluation import Scores
    from fintrec.learning.compute import Compute, device_of, loader_workers_of, precision_of
    from fintrec.learning.distributed import processes
    from fintrec.model_card import write as write_card
    from fintrec.training import TASKS, completed

    recipe = _recipe(options)
    torch.set_num_threads(threads)
    device = device_of(options["device"])
    precision = precision_of(options["precision"], device)
    with processes("nccl" if device.type == "cuda" else "gloo") as group:
        data = _data(source, options["split"])
        num_workers = loader_workers_of(options["loader_workers"], device)
        compute = Compute(device, precision, group, num_workers)
        shows = group.is_first and not as_json
        run_dir = options["run_dir"] or out.with_name(f"{out.name}.run")
        trained, run, start_hash = _trained(data, recipe, compute, run_dir, shows, options)
    if not group.is_first:
        return
    click.echo("calibrating, measuring and writing the card", err=True)
    scores = Scores(trained.pctr, trained.pcvr, data)
    checkpoint = completed(trained, data, recipe, scores)
    save(checkpoint, out)
    calibration_report.write(out, checkpoint, data, source.name, scores)
    write_card(out, checkpoint, data, source, scores, start_hash)
    # Last: killed before, the same command trains nothing anew and writes what is missing.
    run.finish(TASKS[options["tasks"]])
    if as_json:
        import orjson

        told = {"checkpoint": str(out), "run": str(run.directory), **checkpoint.metrics}
        click.echo(orjson.dumps(told))
    else:
        _print(out, checkpoint.metrics)


def _recipe(options: dict[str, Any]) -> "Recipe":
    """The named recipe with what was asked otherwise."""
    from fintrec.models.config import RECIPES

    changes = parsed(options["settings"])
    for name in ("epochs", "seed"):
        if options[name] is not None:
            changes[name] = str(options[name])
    try:
        recipe = RECIPES[options["recipe"]]().with_settings(changes)
    except ValueError as refused:
        raise click.BadParameter(str(refused), param_hint="--set") from refused
    if recipe.model.shared_trunk and options["tasks"] != "joint":
        raise click.BadParameter(
            f"shared_trunk=true: --tasks {options['tasks']} would train the trunk twice, expected "
            "--tasks joint",
            param_hint="--set",
        )
    return recipe


def _trained(
    data: "TrainingSet",
    recipe: "Recipe",
    compute: "Compute",
    run_dir: Path,
    shows: bool,
    options: dict[str, Any],
) -> "tuple[Trained, Run, str | None]":
    """The trained models, the run whose states may go when they are saved, and the hash of the
    checkpoint that they started from.
    """
    from fintrec.card_files import checkpoint_sha256
    from fintrec.checkpoint import load
    from fintrec.learning.fingerprint import made_of
    from fintrec.learning.run_state import Run
    from fintrec.training import TASKS, silent, train_models

    start_dir, minutes = options["start_dir"], options["minutes"]
    start, start_hash = None, None
    if start_dir is not None:
        start, start_hash = load(start_dir), checkpoint_sha256(start_dir)
    told = start_hash and start_hash[:12]
    run = Run(run_dir, made_of(data, recipe, minutes, compute, told))
    with Bars() if shows else nullcontext() as bars:
        report = silent if bars is None else bars.show
        tasks = TASKS[options["tasks"]]
        trained = train_models(data, recipe, tasks, minutes, report, run, compute, start)
    return trained, run, start_hash


def _data(source: Path, split: str | None) -> "TrainingSet":
    """The training set of a log or a data set; says on stderr which of the two was found."""
    from fintrec import datasets

    if datasets.is_dataset(source):
        if split is not None:
            raise click.BadParameter(
                f"{source} is a data set, whose periods are those it was built with",
                param_hint="--split",
            )
        click.echo(f"{source} is a data set", err=True)
        return datasets.load_training_set(source)
    click.echo(f"{source} is a log; split {split or 'demo'}", err=True)
    config = datasets.paper() if split == "paper" else datasets.demo()
    try:
        return datasets.build_training_set(source, config)
    except ValueError as refused:
        raise click.BadParameter(str(refused), param_hint="--split") from refused


def parsed(settings: tuple[str, ...]) -> dict[str, str]:
    """`key=value` texts as a mapping."""
    found = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
        found[key] = value
    return found


def _print(out: Path, metrics: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{out}")
    table.add_column("metric")
    for part in ("validation", "test"):
        table.add_column(part, justify="right")
    for name in metrics["test"]:
        cells = [metrics[part].get(name) for part in ("validation", "test")]
        table.add_row(name, *(f"{cell:,}" if cell is not None else "-" for cell in cells))
    Console().print(table)

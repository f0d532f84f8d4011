"""`fintrec train`: train both models on a log and write a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fintrec.datasets import TrainingSet
    from fintrec.training import Progress

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
    "--recipe", type=click.Choice(["tiny_cpu", "paper"]), default="tiny_cpu", show_default=True
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
    type=click.FloatRange(0, min_open=True),
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def train(
    source: Path,
    out: Path,
    recipe: str,
    split: str | None,
    settings: tuple[str, ...],
    minutes: float | None,
    epochs: int | None,
    seed: int | None,
    threads: int,
    as_json: bool,
) -> None:
    """Train pCTR, pCVR and the calibration on a log or a data set and write a checkpoint.

    The newest days are validation and test. Of all epochs the weights with the lowest validation
    log loss are kept.
    """
    import torch

    from fintrec import calibration_report
    from fintrec.checkpoint import save
    from fintrec.model_card import write as write_card
    from fintrec.models.config import RECIPES
    from fintrec.training import train as run

    changes = parsed(settings)
    for name, value in (("epochs", epochs), ("seed", seed)):
        if value is not None:
            changes[name] = str(value)
    try:
        chosen = RECIPES[recipe]().with_settings(changes)
    except ValueError as refused:
        raise click.BadParameter(str(refused), param_hint="--set") from refused
    torch.set_num_threads(threads)
    data = _data(source, split)
    if as_json:
        checkpoint = run(data, chosen, minutes)
        save(checkpoint, out)
        calibration_report.write(out, checkpoint, data, source.name)
        write_card(out, checkpoint, data, source)
        import orjson

        click.echo(orjson.dumps({"checkpoint": str(out), **checkpoint.metrics}))
        return
    with _Bars() as bars:
        checkpoint = run(data, chosen, minutes, bars.show)
    save(checkpoint, out)
    calibration_report.write(out, checkpoint, data, source.name)
    write_card(out, checkpoint, data, source)
    _print(out, checkpoint.metrics)


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


class _Bars:
    """One progress bar a model."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]:.4f}"),
            TextColumn("validation {task.fields[validation]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, progress: "Progress") -> None:
        """Move the model's bar."""
        if progress.model not in self._tasks:
            self._tasks[progress.model] = self._progress.add_task(
                progress.model, total=1.0, epoch=0, loss=0.0, validation="-"
            )
        changes: dict[str, Any] = {"epoch": progress.epoch, "loss": progress.loss}
        if progress.validation is not None:
            changes["validation"] = f"{progress.validation:.4f}"
        self._progress.update(self._tasks[progress.model], completed=progress.share, **changes)


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

"""`fintrec evaluate sessions`: one sessions file, judged by its protocol."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The sessions file: docs/public_data.md.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of result files, to go on where a run stopped [default: none are kept].",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--budget-minutes",
    type=click.FloatRange(0, min_open=True),
    help="Wall time of each model's training at most.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sessions(
    data: Path,
    out: Path | None,
    seed: int,
    budget_minutes: float | None,
    threads: int,
    as_json: bool,
) -> None:
    """Next page of anonymous web sessions: text or zip in the form of UCI's msnbc."""
    import torch

    from fintrec.commands.evaluate import bars, show
    from fintrec.public.suite import run
    from fintrec.result_files import ResultFolder, typed_command

    torch.set_num_threads(threads)
    with bars() as say:
        found = run(
            {"sessions": data}, ResultFolder(out, typed_command()), (seed,), budget_minutes, say
        )
    show(found, as_json)

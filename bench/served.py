"""What a setting of a recipe costs when it is served: encoder, heads and the state that is stored.

    python -m bench.served --set item_history=true --markdown docs/performance.md

TorchScript of both served modules with random weights, as Triton runs them on one CPU thread, at
the batches and histories of the serving path. The recipe and the changed one take turns call by
call, the first one changing, so a ratio holds beside other work; CPU time. The last line is JSON.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import orjson
import torch
from torch import Tensor

from bench.encoding import START_MS, history
from bench.machine import describe
from bench.pages import markdown_option
from bench.training_measure import spread
from bench.world import catalogue, untrained
from features.encoding import REQUEST_COLUMNS, encode_histories
from features.packed import UserState, pack
from features.spec import CONTEXT_WIDTH, HOUR_MS
from fintrec.commands.train import parsed
from fintrec.export import script
from fintrec.models.config import RECIPES, Recipe
from fintrec.models.served import Encode, Head
from fintrec.result_files import markdown_table, write_section

BATCHES: Final = (4, 16, 64)
LENGTHS: Final = (30, 180)
CALLS: Final = 20
_WARM: Final = 5
_SIDES: Final = ("recipe", "changed")


class Served:
    """Scripts of a recipe's encoder and heads, and what they are asked."""

    def __init__(self, recipe: Recipe) -> None:
        checkpoint = untrained(catalogue(START_MS), recipe)
        pctr, pcvr, _ = checkpoint.served()
        head = Head(pctr, pcvr).eval()
        self.items = checkpoint.vocabulary.items
        self.state_width = head.state_width
        self.scripts = {"encode": script(Encode(pctr, pcvr).eval()), "head": script(head)}

    def inputs(self, name: str, batch: int, length: int) -> tuple[Tensor, ...]:
        """Random users: what a call costs does not depend on whom it is for."""
        rng = np.random.default_rng(0)
        if name == "head":
            request = np.zeros((batch, len(REQUEST_COLUMNS)), np.int64)
            request[:, REQUEST_COLUMNS.index("time_ms")] = START_MS
            request[:, REQUEST_COLUMNS.index("last_event_ms")] = START_MS - HOUR_MS
            state = rng.normal(size=(batch, self.state_width)).astype(np.float16)
            context = rng.normal(size=(batch, CONTEXT_WIDTH)).astype(np.float16)
            return torch.from_numpy(state), torch.from_numpy(context), torch.from_numpy(request)
        arrays = encode_histories([history(rng, length) for _ in range(batch)]).arrays
        return tuple(
            map(torch.from_numpy, (arrays.tokens_BTC, arrays.times_BT, arrays.dynamic_BTF))
        )


def calls(sides: dict[str, Served], name: str, batch: int, length: int) -> dict[str, float]:
    """CPU microseconds a row of each side, the median of calls in turn."""
    asked = {side: served.inputs(name, batch, length) for side, served in sides.items()}
    took: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(_WARM + CALLS):
        for side in _SIDES[:: 1 if turn % 2 else -1]:
            begin = time.thread_time()
            sides[side].scripts[name](*asked[side])
            if turn >= _WARM:
                took[side].append(time.thread_time() - begin)
    return {side: float(np.median(values)) * 1e6 / batch for side, values in took.items()}


def measured(sides: dict[str, Served], repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each module, batch and length."""
    asked = [("encode", *pair) for pair in product(BATCHES, LENGTHS)]
    for name, batch, length in [*asked, *(("head", batch, 0) for batch in BATCHES)]:
        found = [calls(sides, name, batch, length) for _ in range(repeats)]
        yield {
            "module": name,
            "batch": batch,
            "length": length,
            **{f"{side}_us": spread([one[side] for one in found], 1) for side in _SIDES},
            "ratio": spread([one["changed"] / one["recipe"] for one in found], 2),
        }


def state_bytes(served: Served) -> dict[str, int]:
    """What the store keeps of a user with a full history, in all and of the models."""
    rows = history(np.random.default_rng(0), max(LENGTHS))
    hidden = np.zeros(served.state_width, np.float16)
    packed = pack(UserState(version=1, history=rows, hidden=hidden))
    return {"value": len(packed), "of_models": hidden.nbytes}


def section(data: dict[str, Any]) -> str:
    """The section of `docs/performance.md`."""
    machine, stored = data["machine"], data["state_bytes"]

    def told(values: list[float]) -> str:
        middle, low, high = values
        return f"{middle:g} ({low:g}-{high:g})"

    table = markdown_table(
        ("module", "users a call", "rows of history", "recipe, us", "changed, us", "ratio"),
        (
            (
                row["module"],
                str(row["batch"]),
                str(row["length"] or "-"),
                *(told(row[name]) for name in ("recipe_us", "changed_us", "ratio")),
            )
            for row in data["rows"]
        ),
    )
    return "\n".join(
        [
            f"Made by `{data['command']}` on {machine['date']}, commit {machine['commit']}, on "
            f"{machine['cores']} cores of {machine['processor']}, Python {machine['python']}. Recipe "
            f"`{data['recipe']}` against the same with `{data['changes']}`: CPU microseconds a user "
            f"of both served models together, {data['items']} items, one thread; medians and ranges "
            f"of {data['repeats']} repeats in turn.",
            "",
            *table,
            "",
            f"Stored for a user with a full history: {stored['recipe']['value']:,} bytes, of them "
            f"{stored['recipe']['of_models']:,} of the models; changed "
            f"{stored['changed']['value']:,} and {stored['changed']['of_models']:,}.",
        ]
    )


@click.command()
@click.option("--recipe", default="tiny_cpu", show_default=True, type=click.Choice(list(RECIPES)))
@click.option("--set", "settings", multiple=True, required=True, help="KEY=VALUE of the recipe.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(3))
@markdown_option("served")
def main(recipe: str, settings: tuple[str, ...], repeats: int, markdown: Path | None) -> None:
    """Measure a recipe against a changed one, as they are served."""
    torch.set_num_threads(1)
    base = RECIPES[recipe]()
    try:
        changed = base.with_settings(parsed(settings))
    except ValueError as refused:
        raise click.BadParameter(str(refused), param_hint="--set") from refused
    sides = {"recipe": Served(base), "changed": Served(changed)}
    with torch.inference_mode():
        rows = list(measured(sides, repeats))
    data = {
        "bench": "served",
        "command": "python -m bench.served " + subprocess.list2cmdline(sys.argv[1:]),
        "machine": describe(),
        "recipe": recipe,
        "changes": ", ".join(settings),
        "repeats": repeats,
        "items": len(sides["recipe"].items),
        "rows": rows,
        "state_bytes": {side: state_bytes(served) for side, served in sides.items()},
    }
    if markdown is not None:
        write_section(markdown, "served", section(data))
    print(orjson.dumps(data).decode())


if __name__ == "__main__":
    main()

"""Types of options that several verbs have."""

import math
from typing import Any

import click


class PositiveNumber(click.ParamType):
    """A finite number above 0: `nan` and `inf` are no minutes and no speed."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; a usage error for anything else."""
        found = click.FLOAT.convert(value, param, ctx)
        if not (math.isfinite(found) and found > 0):
            self.fail(f"{value} is not a finite number above 0", param, ctx)
        return float(found)


POSITIVE = PositiveNumber()

"""The page that a bench writes its section into."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from features.errors import ConfigurationError
from fintrec.result_files import check_section


def markdown_option(section: str) -> Callable[[Any], Any]:
    """`--markdown PAGE`; a page without the section is refused before anything is measured."""

    def checked(context: click.Context, parameter: click.Parameter, page: Path | None) -> Any:
        try:
            if page is not None:
                check_section(page, section)
        except ConfigurationError as refused:
            raise click.BadParameter(str(refused)) from refused
        return page

    return click.option(
        "--markdown",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=checked,
        help=f"Page whose section results:{section} is written anew, docs/performance.md.",
    )

"""Options that every verb takes in the same form, and how results are printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

_PIPE_WIDTH = 200
Function = TypeVar("Function", bound=Callable[..., Any])


def dir_option(function: Function) -> Function:
    """`--dir DIR`: the local stack's folder, passed as `stack_dir: Path | None`."""
    return click.option(
        "--dir",
        "stack_dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        help="Folder of the local stack (default: FINTREC_DIR, else .fintrec of the project).",
    )(function)


def json_option(function: Function) -> Function:
    """`--json`: print data as JSON, passed as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def repository_option(function: Function) -> Function:
    """`--repository`: Triton's model repository, passed as `repository: Path | None`."""
    return click.option(
        "--repository",
        type=click.Path(path_type=Path, file_okay=False),
        help="Triton's model repository (default: the setting model_repository).",
    )(function)


def wide_console() -> Console:
    """A console for tables: the terminal's width, or wide where output goes to a file or pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def print_json(data: Any) -> None:
    """Print data as JSON, on several lines."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))

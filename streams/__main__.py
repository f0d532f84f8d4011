"""The command `fintrec`: its verbs, each imported when it is called.

`fintrec --help` lists them all from the table below without importing any, so that it answers at
once although some verbs need torch, Feast or Kafka. Exit codes: 0 done, 1 failed, 2 bad usage.
"""

import importlib
import sys

import click

from features.errors import FintrecError

# verb -> (module:attribute, one line of help)
_FILE_ERRORS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
VERBS: dict[str, tuple[str, str]] = {
    "doctor": ("streams.commands.doctor:doctor", "Say what is missing on this machine."),
    "stack": ("streams.commands.stack:stack", "Start, inspect and end the local stack."),
    "topics": ("streams.commands.topics:topics", "Create and list the Kafka topics."),
    "demo": ("streams.commands.demo:demo", "One event becomes one slate, start to finish."),
    "simulate": ("streams.commands.live:simulate", "Build a simulated bank, or play it live."),
    "dataset": ("fintrec.commands.dataset:dataset", "Make training sets out of a log."),
    "publish": ("streams.commands.publish:publish", "Publish events to Kafka."),
    "train": ("fintrec.commands.train:train", "Train the pCTR and pCVR models."),
    "evaluate": (
        "fintrec.commands.evaluate:evaluate",
        "Judge the models on public data, and on files of the same form.",
    ),
    "reproduce": ("fintrec.commands.reproduce:reproduce", "Make the tables of experiments."),
    "export": ("streams.commands.export:export", "Write trained models for Triton."),
    "models": ("streams.commands.models:models", "Compare, promote and roll back models."),
    "nightly": ("streams.commands.nightly:nightly", "Load a night's batch features into Feast."),
    "worker": ("streams.commands.worker:worker", "Run an ingest, scoring or lake worker."),
    "request": ("streams.commands.request:request", "Ask for a user's slate and print it."),
    "tail": ("streams.commands.tail:tail", "Follow a Kafka topic."),
    "parity": ("streams.commands.parity:parity", "Hold what was served against the lake."),
    "policy": ("streams.commands.policy:policy", "Show or set the ranking policy."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, imported now; None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as exc:
            raise FintrecError(
                f"'fintrec {cmd_name}' needs the module {exc.name!r}, which is not installed: "
                "pip install 'fintrec[stack]'"
            ) from exc
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with the table's help."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, help_line) for verb, (_, help_line) in VERBS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="FinTRec as a streaming system: a bank's events in, ranked slates out.",
)
def cli() -> None:
    """The root of the verbs."""


def main() -> None:
    """Run the command line; a project error, a file or folder that cannot be had, or a silent broker
    is one clear line and exit code 1.
    """
    try:
        cli(prog_name="fintrec")
    except FintrecError as exc:
        click.echo(f"fintrec: {exc}", err=True)
        sys.exit(1)
    except _FILE_ERRORS as exc:
        if exc.filename is None:
            raise
        click.echo(f"fintrec: {exc.filename}: {exc.strerror}", err=True)
        sys.exit(1)
    except Exception as exc:
        # Its base class is known only where a verb has imported the client.
        kafka_errors = sys.modules.get("kafka.errors")
        if kafka_errors is None or not isinstance(exc, kafka_errors.KafkaError):
            raise
        click.echo(f"fintrec: Kafka does not answer as it should: {exc}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

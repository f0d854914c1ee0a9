"""The command line `ingest`: a table of commands, each imported when it is called, and one place that reports errors.

A command returns its exit status, or None for 0. It raises an IngestionError for whatever it can explain: that becomes
one message and exit status 1. Anything else is a bug and keeps its traceback.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from ingestion_pipeline.errors import IngestionError

INTERRUPTED = 130  # as a shell reports a process that SIGINT ended


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is defined, as `module:attribute` below this package, and its line in `ingest --help`."""

    target: str
    summary: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        command = getattr(import_module(f"{__name__}.{module}"), attribute)
        assert isinstance(command, click.Command), f"{self.target} is not a command"
        return command


# In the order in which a newcomer needs them.
COMMANDS: dict[str, LazyCommand] = {
    "up": LazyCommand("up:up", "Start the whole pipeline on this machine."),
    "demo": LazyCommand("demo:demo", "Upload sample documents, watch them arrive, search them."),
    "upload": LazyCommand("upload:upload", "Upload files and folders."),
    "status": LazyCommand("status:status", "Show where documents are, or one document's history."),
    "failures": LazyCommand("failures:failures", "List what failed, why, and what to do about it."),
    "retry": LazyCommand("actions:retry", "Take failed or cancelled documents up again."),
    "cancel": LazyCommand("actions:cancel", "Stop the work on documents."),
    "search": LazyCommand("search:search", "Search the documents by meaning."),
    "index": LazyCommand("index:index", "Build, drop or show the vector index of search."),
    "audit": LazyCommand("audit:audit", "Check everything that is stored, and mend what can be mended."),
    "partitions": LazyCommand("partitions:partitions", "Show or bring back the partitions that Dagster gave up."),
    "usage": LazyCommand("usage:usage", "Show what was bought of the vendors, by day."),
    "db": LazyCommand("database:database", "Migrate the database schema, roll it back, show it."),
    "serve": LazyCommand("serve:serve", "Run one service of the pipeline in the foreground."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are called; `--help` needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        command = COMMANDS.get(cmd_name)
        return command.load() if command else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@click.group(cls=LazyGroup, name="ingest", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ingestion-pipeline", message="%(prog)s %(version)s")
def ingest() -> None:
    """Documents in, searchable vectors in Postgres.

    `ingest up` starts everything on this machine; the other commands talk to it, or to INGEST_API_URL with
    INGEST_API_KEY.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ingest` with the arguments of this process, or those given, and end the process with its exit status."""
    try:
        status = ingest.main(arguments, prog_name="ingest", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except IngestionError as error:
        click.echo(f"error [{error.code}]: {error.message}", err=True)
        status = 1
    except click.Abort as error:
        is_interrupted = isinstance(error.__cause__, KeyboardInterrupt)
        click.echo("Interrupted." if is_interrupted else "Aborted: not confirmed.", err=True)
        status = INTERRUPTED if is_interrupted else 1
    sys.exit(status)

"""`ingest index`: the vector index of search, on the database of INGEST_DATABASE_URL or the embedded one."""

import click
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from ingestion_pipeline.adapters.postgres.vector_index import BuildOptions, IndexStatus, Progress, VectorIndex
from ingestion_pipeline.cli.output import console_for
from ingestion_pipeline.cli.owner_database import owner_url
from ingestion_pipeline.settings import load_settings

# Below it an exact search takes less than a tenth of a second, and an index costs milliseconds a vector. The figures
# are in docs/scale.md.
WORTH_FROM_VECTORS = 50_000


@click.group()
def index() -> None:
    """Build, drop or show the vector index of search. Without one, search is exact."""


@index.command()
@click.option("--m", type=click.IntRange(4, 64), default=16, show_default=True, help="Neighbours of a vector.")
@click.option(
    "--ef-construction", type=click.IntRange(16, 512), default=64, show_default=True, help="Vectors looked at for each."
)
@click.option(
    "--memory-mb",
    type=click.IntRange(64, 65536),
    default=512,
    show_default=True,
    help="Memory of the build: best as much as the vectors take.",
)
@click.option(
    "--workers", type=click.IntRange(0, 32), default=2, show_default=True, help="Server processes beside the first."
)
@click.option("--force", is_flag=True, help="Also where it is not worth it yet.")
def build(*, m: int, ef_construction: int, memory_mb: int, workers: int, force: bool) -> None:
    """Build the index while everything goes on; an index that a crash left half-built is built anew."""
    if ef_construction < 2 * m:
        raise click.UsageError("--ef-construction must be at least twice --m.")
    with owner_url(load_settings()) as url:
        vector_index = VectorIndex(url)
        before = vector_index.status()
        if before.kind and before.is_valid:
            click.echo(f"There is one already: {before.kind}. To change it, `ingest index drop` it first.")
        elif before.most_of_one_owner < WORTH_FROM_VECTORS and not force:
            click.echo(_advice(before) + " Nothing was built; --force builds it all the same.")
        else:
            _build(vector_index, BuildOptions(m, ef_construction, memory_mb, workers))
            _print(vector_index.status())


@index.command()
def drop() -> None:
    """Drop the index: search is exact again."""
    with owner_url(load_settings()) as url:
        is_dropped = VectorIndex(url).drop()
    click.echo("The index is dropped; search is exact." if is_dropped else "There is no index; search is exact.")


@index.command()
def status() -> None:
    """Show the index, what it covers, and how many vectors a search compares."""
    with owner_url(load_settings()) as url:
        _print(VectorIndex(url).status())


def _build(vector_index: VectorIndex, options: BuildOptions) -> None:
    console = console_for()
    if console.is_terminal:
        _build_with_bar(console, vector_index, options)
        return
    phases: list[str] = []

    def tell(progress: Progress) -> None:
        if progress.phase not in phases:
            phases.append(progress.phase)
            click.echo(progress.phase)

    vector_index.build(options, tell)


def _build_with_bar(console: Console, vector_index: VectorIndex, options: BuildOptions) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with ProgressBar(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: Progress) -> None:
            share = progress.share
            bar.update(task, description=progress.phase, total=None if share is None else 1.0, completed=share or 0.0)

        vector_index.build(options, show)
        bar.update(task, description="done", total=1.0, completed=1.0)


def _print(found: IndexStatus) -> None:
    condition = "valid" if found.is_valid else "being built" if found.progress else "left half-built: build it again"
    lines = {
        "Index": f"{found.kind}, {_megabytes(found.index_bytes)}, {condition}" if found.kind else "none",
        "Vectors": f"{found.vectors:,} in {found.precision} precision, {_megabytes(found.vector_bytes)}",
        "Owners": f"{found.owners:,}; the largest has {found.most_of_one_owner:,} vectors",
        "A search": _cost(found),
    }
    if found.progress:
        share = "" if found.progress.share is None else f", {found.progress.share:.0%}"
        lines["Build"] = found.progress.phase + share
    for name, value in lines.items():
        click.echo(f"{name:<10}{value}")
    if not found.kind:
        click.echo(_advice(found))


def _cost(found: IndexStatus) -> str:
    if found.kind and found.is_valid:
        return "follows the index from vector to vector; INGEST_SEARCH_CANDIDATES says how far"
    return f"compares up to {found.most_of_one_owner:,} vectors, all of its owner"


def _advice(found: IndexStatus) -> str:
    if found.most_of_one_owner < WORTH_FROM_VECTORS:
        return (
            f"An index is not worth it yet: exact search is quick below some {WORTH_FROM_VECTORS:,} vectors of one "
            "owner, and an index makes storing slower."
        )
    return "An index is worth it: `ingest index build`."


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"

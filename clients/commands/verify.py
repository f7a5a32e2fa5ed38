"""`verify`: asks a server the golden requests of the models on disk and compares its answers with theirs."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clients.commands.calls import EXIT_CODES, FAILED, UNREACHABLE, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from clients.verify import Report, Row

_STYLES = {"equal": "green", "within tolerance": "yellow", "different": "bold red", "failed": "bold red"}
# Wide enough for any row: a terminal that is narrower breaks a line at its end, rich would break every cell.
WIDTH = 1000


@click.command(
    epilog=f"""\b
Examples:
  python -m clients verify models
  python -m clients verify models/digits --grpc 10.0.0.7:8500 --only grpc
  python -m clients verify models --json > report.json

{EXIT_CODES}"""
)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--grpc", default="127.0.0.1:8500", show_default=True, metavar="HOST:PORT", help="The gRPC server.")
@click.option("--rest", default="127.0.0.1:8501", show_default=True, metavar="HOST:PORT", help="The REST server.")
@click.option("--only", type=click.Choice(["grpc", "rest"]), help="Ask over this protocol alone.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds to wait for each answer.",
)
@json_option
def verify(*, folders: tuple[Path, ...], grpc: str, rest: str, only: str | None, timeout: float, as_json: bool) -> None:
    """Verifies that a server serves what was exported.

    Each FOLDER is a model's (models/digits, with its versions in it) or holds several (models). Every version that the
    server has available is asked its golden requests, over gRPC and over REST, and its answers are compared with those
    the model gave in process. A model that isn't served, a version that isn't on disk or has no golden requests, and an
    error are failures too.
    """
    from clients.verify import FolderError
    from clients.verify import verify as run

    try:
        report = run(
            folders,
            grpc=None if only == "rest" else grpc,
            rest=None if only == "grpc" else rest,
            timeout=timeout,
            progress=lambda said: click.echo(said, err=True) if sys.stderr.isatty() else None,
        )
    except (FolderError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        click.echo(_as_json(report))
    else:
        _show(report)
    if not report.ok:
        sys.exit(UNREACHABLE if report.unreachable else FAILED)


def _as_json(report: Report) -> str:
    return json.dumps(
        {
            "ok": report.ok,
            "summary": report.sentence(),
            "models": report.models,
            "golden_requests": report.requests,
            "protocols": list(report.protocols),
            "rows": [_json_row(row) for row in report.rows],
        },
        indent=2,
    )


def _json_row(row: Row) -> dict[str, Any]:
    """The row as JSON has it, which has no infinity: null there, and the reason says it."""
    fields = {**asdict(row), "ok": row.ok}
    return {key: None if value == math.inf else value for key, value in fields.items()}


def _show(report: Report) -> None:
    """The table, then a line for each row that has a reason, then the outcome."""
    from rich.console import Console

    console = Console(highlight=False, width=WIDTH)
    with console.capture() as captured:
        console.print(_table(report))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    click.echo("\n".join([*lines, "", *(str(row) for row in report.rows if row.reason)]))
    click.secho(report.sentence(), fg=None if report.ok else "red", bold=True)


def _table(report: Report) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("model", "version", "signature", "protocol", "output"):
        table.add_column(heading)
    for heading in ("requests", "max abs", "max ULP"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in report.rows:
        table.add_row(*map(Text, _cells(row)), Text(row.verdict, style=_STYLES[row.verdict]))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    from clients.errors import PROTOCOL_NAMES

    def shown(value: object) -> str:
        return "" if value is None else str(value)

    return (
        row.model,
        shown(row.version),
        shown(row.signature),
        PROTOCOL_NAMES[row.protocol],
        shown(row.output),
        str(row.requests),
        "" if row.absolute is None else f"{row.absolute:.3g}",
        shown(row.ulp),
    )

"""`verify`: asks a server the golden requests of the models on disk and compares its answers with theirs."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import (
    EXIT_CODES,
    FAILED,
    SECONDS,
    UNREACHABLE,
    max_response_option,
    reporting,
    with_tls,
)
from tfserving.clients.printable import printable
from tfserving.foundation.command.options import json_option, report_option

if TYPE_CHECKING:
    from rich.table import Table

    from tfserving.clients.verification.verdicts import Report, Row, Way

_MOST_NAME = 200
_STYLES = {"equal": "green", "within tolerance": "yellow", "different": "bold red", "failed": "bold red"}


@click.command(
    epilog=f"""\b
Examples:
  tfserving client verify models
  tfserving client verify models/digits --grpc 10.0.0.7:8500 --only grpc
  tfserving client verify models/digits/3 --report report.html
  tfserving client verify s3://models/digits --json > report.json
  tfserving client verify models --grpc grpcs://10.0.0.7:8500 --rest http://10.0.0.7:8501 --tls-ca ca.pem
  tfserving client verify models --against grpc://canary.example:8500 --only grpc
  tfserving client verify captured.tfrecord --against http://canary.example:8501

{EXIT_CODES}"""
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--grpc", default="127.0.0.1:8500", show_default=True, metavar="ADDRESS", help="The gRPC server.")
@click.option("--rest", default="127.0.0.1:8501", show_default=True, metavar="ADDRESS", help="The REST server.")
@click.option("--only", type=click.Choice(["grpc", "rest"]), help="Ask over this protocol alone.")
@click.option(
    "--against", metavar="URL", help="Compare with what this server answers, instead of with the golden answers."
)
@click.option(
    "--way",
    "ways",
    type=click.Choice(["alone", "batch", "concurrent"]),
    multiple=True,
    help="Ask one by one, many as one request, or 32 at a time; can be given several times.  [default: all three]",
)
@click.option("--absolute", type=click.FloatRange(0), help="Floats may be as far apart as this plus --relative.")
@click.option(
    "--relative",
    type=click.FloatRange(0),
    help="Floats may be as far apart as this times the wanted one.  [default: as the versions say, 0 for captured]",
)
@click.option(
    "--timeout",
    type=SECONDS,
    default=30.0,
    show_default=True,
    help="Seconds to wait for each answer.",
)
@max_response_option
@with_tls
@report_option
@json_option
def verify(
    *,
    sources: tuple[str, ...],
    grpc: str,
    rest: str,
    only: str | None,
    against: str | None,
    ways: tuple[Way, ...],
    absolute: float | None,
    relative: float | None,
    timeout: float,
    max_response_bytes: int,
    tls: dict[str, Any],
    report: Path | None,
    as_json: bool,
) -> None:
    """Verifies that a server serves what was exported, or answers as another server does.

    A SOURCE is a model's folder (models/digits, with its versions in it), one with several (models), a version's
    (models/digits/3), the URL of any of these in an object store, or a file of captured requests. Every version that
    the server has available is asked its golden requests, over gRPC and over REST, and its answers are compared with
    those the model gave in process. So is the version that it serves as the canary, under the name MODEL-canary.

    A model or a version that isn't served, the newest one of a folder among them unless an older one is `stable`, a
    version that isn't on disk or has no golden requests, and an error are failures too.

    An ADDRESS is HOST:PORT or a URL; grpcs:// and https:// have TLS. A request that a busy server refuses is sent
    again, and reported.
    """
    from tfserving.clients.address import Tls
    from tfserving.clients.verification.proofs import SourceError
    from tfserving.clients.verification.verdicts import WAYS
    from tfserving.clients.verification.verify import Settings
    from tfserving.clients.verification.verify import verify as run
    from tfserving.foundation.compare import Tolerance

    tolerance = None
    if absolute is not None or relative is not None:
        tolerance = Tolerance(absolute or 0.0, relative or 0.0)
    settings = Settings(
        ways=[way for way in WAYS if way in (ways or WAYS)],
        tolerance=tolerance,
        timeout=timeout,
        max_response_bytes=max_response_bytes,
        progress=lambda said: click.echo(printable(said), err=True) if sys.stderr.isatty() else None,
    )
    try:
        found = run(
            sources,
            grpc=None if only == "rest" else grpc,
            rest=None if only == "grpc" else rest,
            tls=Tls(**tls) if tls else None,
            against=against,
            settings=settings,
        )
    except (SourceError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    try:
        if as_json:
            click.echo(_as_json(found))
        else:
            _show(found)
    finally:
        if report is not None:
            from tfserving.clients.reports.verification import write

            with reporting(report):
                write(report, found)
    if not found.ok:
        sys.exit(UNREACHABLE if found.unreachable else FAILED)


def _as_json(report: Report) -> str:
    return json.dumps(
        {
            "ok": report.ok,
            "summary": report.sentence(),
            "models": report.models,
            "golden_requests": report.requests,
            "protocols": list(report.protocols),
            "against": report.against or None,
            "busy": [asdict(refusals) for refusals in report.busy],
            "rows": [_json_row(row) for row in report.rows],
        },
        indent=2,
    )


def _json_row(row: Row) -> dict[str, Any]:
    """The row as JSON has it, which has no infinity: null there, and the reason says it."""
    fields = {**asdict(row), "ok": row.ok}
    fields["ways"] = {way: _finite(asdict(tally)) for way, tally in row.ways.items()}
    return _finite(fields)


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value == math.inf else value for key, value in fields.items()}


def _show(report: Report) -> None:
    """The table, then a line for each row that has a reason, then the outcome."""
    from tfserving.clients.commands.tables import lines_of
    from tfserving.clients.verification.verdicts import WAY_NAMES

    lines = lines_of(_table(report))
    left_out = {
        f"{row.model} signature {row.signature!r}: not asked {WAY_NAMES[way]}: {reason}": None
        for row in report.rows
        for way, reason in row.left_out.items()
    }
    said = [printable(line) for line in (*left_out, *(str(row) for row in report.rows if row.reason))]
    said += [printable(str(refusals)) for refusals in report.busy]
    click.echo("\n".join([*lines, "", *said]))
    click.secho(printable(report.sentence()), fg=None if report.ok else "red", bold=True)


def _table(report: Report) -> Table:
    from rich.text import Text

    from tfserving.clients.commands.tables import new_table

    text = ("model", "version", "signature", "protocol", "output")
    table = new_table(text, ("requests", "max abs", "max ULP"), ("verdict",))
    for row in report.rows:
        table.add_row(*map(Text, _cells(row)), Text(_verdict(row), style=_STYLES[row.verdict]))
    return table


def _verdict(row: Row) -> str:
    """The verdict, and where it is another way's, that."""
    from tfserving.clients.verification.verdicts import WAY_NAMES

    if not row.ways:
        return row.verdict
    first, *others = row.ways.items()
    differing = [f"{WAY_NAMES[way]} {tally.verdict}" for way, tally in others if tally.verdict != first[1].verdict]
    return ", ".join([first[1].verdict, *differing])


def _cells(row: Row) -> tuple[str, ...]:
    from tfserving.clients.errors import PROTOCOL_NAMES

    def shown(value: object) -> str:
        return "" if value is None else printable(str(value), _MOST_NAME)

    return (
        shown(row.model),
        shown(row.version),
        shown(row.signature),
        PROTOCOL_NAMES[row.protocol],
        shown(row.output),
        str(row.requests),
        "" if row.absolute is None else f"{row.absolute:.3g}",
        shown(row.ulp),
    )

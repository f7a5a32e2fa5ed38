"""`verify`: sends golden requests to a server, and compares its outputs with the stored ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import (
    max_response_option,
    reporting,
    server_option,
    timeout_option,
    with_tls,
)
from tfserving.clients.commands.model import source_of
from tfserving.clients.printable import printable
from tfserving.foundation.command.errors import FAILED, UNREACHABLE, WRONG, CommandError
from tfserving.foundation.command.options import Finite, complete_models, fleet_option, json_option, report_option
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.command.project import project
from tfserving.foundation.devices import DEVICES

if TYPE_CHECKING:
    from rich.table import Table

    from tfserving.clients.address import ServerUrls
    from tfserving.clients.verification.proofs import ModelFolder
    from tfserving.clients.verification.verdicts import Report, Row, Way
    from tfserving.foundation.devices import Device

_MOST_NAME = 200
_STYLES = {
    "equal": "green",
    "within tolerance": "yellow",
    "near tie": "yellow",
    "different": "bold red",
    "failed": "bold red",
}


@click.command(
    epilog="""\b
Examples:
  tfserving verify
  tfserving verify digits dense/3 --report report.html
  tfserving verify digits --server grpc://10.0.0.7:8500
  tfserving verify digits \\
    --server grpcs://10.0.0.7:8500,http://10.0.0.7:8501 --tls-ca ca.pem
  tfserving verify s3://models/digits --json > report.json
  tfserving verify digits --device gpu
  tfserving verify --against grpc://canary.example:8500
  tfserving verify captured.tfrecord --against http://canary.example:8501"""
)
@click.argument(
    "sources",
    metavar="[MODEL|SOURCE]...",
    nargs=-1,
    # Words of one text: a pod's manifest can't make several arguments of it.
    envvar="TFSERVING_SOURCES",
    shell_complete=complete_models,
)
@server_option
@click.option(
    "--against", metavar="URL", help="Compare with the outputs of this server, instead of with the golden outputs."
)
@click.option(
    "--way",
    "ways",
    type=click.Choice(["alone", "batch", "concurrent"]),
    multiple=True,
    help="Send requests one by one, many as one batch, or 32 at a time. Repeat it for several.  [default: all three]",
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    help="Use the version's tolerances for this kind of device.  [default: the one that the server names, else that of "
    "models.yaml, else cpu]",
)
@click.option("--absolute", type=Finite(0), metavar="N", help="The absolute tolerance of floats.")
@click.option("--relative", type=Finite(0), metavar="N", help="The relative tolerance of floats, added to --absolute.")
@click.option(
    "--scale",
    type=Finite(0),
    metavar="N",
    help="The tolerance of floats as a part of the largest value in the row, added to the others.  [default: the "
    "tolerances of the version; 0 for captured requests and --against]",
)
@timeout_option(30.0)
@max_response_option
@with_tls
@fleet_option
@report_option
@json_option
def verify(
    *,
    sources: tuple[str, ...],
    server: ServerUrls,
    against: str | None,
    ways: tuple[Way, ...],
    device: Device | None,
    absolute: float | None,
    relative: float | None,
    scale: float | None,
    timeout: float,
    max_response_bytes: int,
    tls: dict[str, Any],
    fleet: Path,  # noqa: ARG001 - the project uses it
    report: Path | None,
    as_json: bool,
) -> None:
    """Compare the outputs of a server with golden requests.

    A golden request is stored with each version, with the outputs that the model computed at export. `verify` sends
    all of them to the server, over gRPC and REST, and compares the outputs.

    Without arguments it verifies the models of models.yaml. MODEL is one of them: digits, or digits/3 for version 3.
    A SOURCE is a folder (of models, of one model, or of a version), the URL of such a folder in an object store, or a
    file of captured requests. The canary of a model is verified too, under the name MODEL-canary.

    It fails when outputs differ, when a request fails, and when a model, its newest version or a named version isn't
    served. Requests that a busy server rejects are sent again.

    A version has tolerances for each kind of device: cpu, gpu, and gpu-tf32 for a GPU that rounds float32 to TF32. A
    label that differs because the scores of two classes are closer than the tolerance is a near tie, and no failure.
    """
    from tfserving.clients.address import Tls
    from tfserving.clients.verification.proofs import SourceError
    from tfserving.clients.verification.verdicts import WAYS
    from tfserving.clients.verification.verify import Settings
    from tfserving.clients.verification.verify import verify as run
    from tfserving.foundation.compare import Tolerance

    tolerance = None
    if {absolute, relative, scale} != {None}:
        tolerance = Tolerance(absolute or 0.0, relative or 0.0, scale or 0.0)
    if device and (tolerance or against):
        other = "--against" if against else "--absolute, --relative and --scale"
        raise click.UsageError(f"--device selects tolerances of the version, which aren't used with {other}")
    subjects = [source_of(source, accepted=True) for source in sources] or _whole_fleet()
    finished: list[Row] = []
    with Progress() as progress, _partly(finished):
        settings = Settings(
            ways=[way for way in WAYS if way in (ways or WAYS)],
            tolerance=tolerance,
            device=device,
            fleet_device=_fleet_device(subjects),
            timeout=timeout,
            max_response_bytes=max_response_bytes,
            progress=lambda text: progress.update(printable(text)),
            finished=finished.extend,
        )
        try:
            found = run(
                subjects,
                grpc=server.of("grpc"),
                rest=server.of("rest"),
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
        click.get_current_context().exit(UNREACHABLE if found.unreachable else FAILED)


@contextmanager
def _partly(rows: list[Row]) -> Iterator[None]:
    """Print the comparisons that are complete when Ctrl-C stops the others."""
    try:
        yield
    except KeyboardInterrupt:
        _show_rows(rows)
        raise


def _whole_fleet() -> list[str | ModelFolder]:
    models = project().models()
    if not models:
        raise CommandError("models.yaml has no models. Add one, or name a SOURCE.", WRONG)
    return [source_of(name, accepted=True) for name in models]


def _fleet_device(subjects: list[str | ModelFolder]) -> Device | None:
    """Return the kind of device that models.yaml implies for the server of `subjects`, if all are models of it."""
    return None if any(isinstance(subject, str) for subject in subjects) else project().device()


def _as_json(report: Report) -> str:
    return json.dumps(
        {
            "ok": report.ok,
            "summary": report.sentence(),
            "models": report.models,
            "golden_requests": report.requests,
            "protocols": list(report.protocols),
            "against": report.against or None,
            "tolerances": list(report.tolerances),
            "hints": list(report.hints),
            "busy": [asdict(refusals) for refusals in report.busy],
            "rows": [_json_row(row) for row in report.rows],
        },
        indent=2,
    )


def _json_row(row: Row) -> dict[str, Any]:
    """Return the row for JSON, which has no infinity: it is null there, and the reason contains it."""
    fields = {**asdict(row), "ok": row.ok}
    fields["ways"] = {way: _without_infinity(asdict(tally)) for way, tally in row.ways.items()}
    return _without_infinity(fields)


def _without_infinity(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value == math.inf else value for key, value in fields.items()}


def _show(report: Report) -> None:
    _show_rows(report.rows)
    for text in report.tolerances:
        click.echo(printable(f"Tolerances: {text}."))
    for text in report.hints:
        click.secho(text, fg="yellow")
    for refusals in report.busy:
        click.echo(printable(str(refusals)))
    click.secho(printable(report.sentence()), fg=None if report.ok else "red", bold=True)


def _show_rows(rows: Sequence[Row]) -> None:
    """Print the table, and a line for each row with a reason."""
    from tfserving.clients.commands.tables import lines_of
    from tfserving.clients.verification.verdicts import WAY_NAMES

    if not rows:
        return
    left_out = {
        f"{row.model} signature {row.signature!r}: not sent {WAY_NAMES[way]}: {reason}": None
        for row in rows
        for way, reason in row.left_out.items()
    }
    remarks = [printable(line) for line in (*left_out, *(str(row) for row in rows if row.reason))]
    click.echo("\n".join([*lines_of(_table(rows)), "", *remarks]))


def _table(rows: Sequence[Row]) -> Table:
    from rich.text import Text

    from tfserving.clients.commands.tables import new_table

    text = ("model", "version", "signature", "protocol", "output")
    table = new_table(text, ("requests", "max abs", "max scale"), ("verdict",))
    for row in rows:
        table.add_row(*map(Text, _cells(row)), Text(_verdict(row), style=_STYLES[row.verdict]))
    return table


def _verdict(row: Row) -> str:
    """Return the verdict, followed by those of other ways that differ."""
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
        "" if row.scaled is None else f"{row.scaled:.3g}",
    )

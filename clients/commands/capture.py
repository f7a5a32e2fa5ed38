"""`capture`: real requests made into golden and warm-up records."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.clients.commands.calls import EXIT_CODES, FAILED, SERVER, Target, with_tls
from tfserving.foundation.command.options import writable

if TYPE_CHECKING:
    from tfserving.clients.address import ServerUrls
    from tfserving.clients.capture import CapturedRequest
    from tfserving.clients.client import Client

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, path_type=Path)
# Further warnings are only counted.
_MOST_WARNINGS = 5


@click.command(
    epilog=f"""\b
Examples:
  tfserving client capture requests-*.tfrecord --golden captured.tfrecord --most 500
  tfserving client capture bodies.jsonl --model digits --server grpc://10.0.0.7:8500 --golden captured.tfrecord
  tfserving client capture captured.tfrecord --warm-up models/digits/3/assets.extra/tf_serving_warmup_requests
  tfserving client verify captured.tfrecord --against http://canary.example:8501
  tfserving client bench --model digits --requests captured.tfrecord

{EXIT_CODES}"""
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=_FILE)
@click.option(
    "--golden", type=_OUTPUT, callback=writable(), help="Write requests with their answers to this TFRecord file."
)
@click.option(
    "--warm-up",
    type=_OUTPUT,
    callback=writable(),
    help="Write requests alone to this one, 1000 at most, as a server plays them.",
)
@click.option("--model", help="Only requests to this model; JSON without a model is for it.")
@click.option("--server", type=SERVER, help="Asked for the answers that are missing, and for the types of JSON.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Seconds.")
@click.option("--most", type=click.IntRange(1), help="Keep so many, as likely one as another.  [default: all]")
@click.option("--duplicates", is_flag=True, help="Keep requests that ask the same, too.")
@click.option("--any-version", is_flag=True, help="Forget which version answered: whichever is served is meant.")
@with_tls
def capture(
    *,
    sources: tuple[Path, ...],
    golden: Path | None,
    warm_up: Path | None,
    model: str | None,
    server: ServerUrls | None,
    timeout: float,
    most: int | None,
    duplicates: bool,
    any_version: bool,
    tls: dict[str, str],
) -> None:
    """Makes golden and warm-up records of real requests.

    A SOURCE is a request log (a TFRecord of PredictionLog, as --request_log of the embedded server writes it, or what
    this command wrote), a .json file with the body of a REST predict request, or a .jsonl file with one a line. One set
    of real requests then feeds a server's warm-up, `verify`, `verify --against`, and `bench`.

    Records that are damaged are left out, with a warning; those behind them are read.
    """
    _check_outputs(sources, {"--golden": golden, "--warm-up": warm_up})
    if server is None and tls:
        raise click.UsageError("there are options of TLS, but no server; --server grpcs://HOST:PORT is one with TLS")
    if server is None:
        requests = _read(sources, model, None, most, duplicates)
        _write(requests, golden, warm_up, any_version)
        return
    with Target(server, timeout, tls).connected() as client:
        requests = _read(sources, model, client, most, duplicates)
        if golden is not None:
            requests = _answered(requests, client, timeout)
        _write(requests, golden, warm_up, any_version)


def _check_outputs(sources: tuple[Path, ...], outputs: dict[str, Path | None]) -> None:
    """Raises UsageError when there is no output, or one would be written over a source or over another one."""
    given = {option: output for option, output in outputs.items() if output is not None}
    if not given:
        raise click.UsageError("there is nothing to write; --golden or --warm-up says where to")
    taken = dict.fromkeys(sources, "a SOURCE")
    for option, output in given.items():
        for path, what in taken.items():
            if _is_same(path, output):
                raise click.UsageError(f"{option} {output} is the same file as {what}, {path}; write to another one")
        taken[output] = option


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file. It may have several names, or not exist yet."""
    try:
        return one.samefile(other) and one.is_file()
    except OSError:
        return one.resolve() == other.resolve()


class _Warnings:
    """Prints the first few warnings, and the number of the others."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, text: str) -> None:
        self._count += 1
        if self._count <= _MOST_WARNINGS:
            click.echo(f"Warning: {text}", err=True)

    def end(self) -> None:
        if self._count > _MOST_WARNINGS:
            click.echo(f"Warning: {self._count - _MOST_WARNINGS} more were left out", err=True)


def _read(
    sources: tuple[Path, ...], model: str | None, client: Client | None, most: int | None, duplicates: bool
) -> list[CapturedRequest]:
    from tfserving.clients.capture import CaptureError, distinct, read_requests, sampled

    warnings = _Warnings()
    try:
        requests = (request for source in sources for request in read_requests(source, model, client, warnings.add))
        wanted = requests if duplicates else distinct(requests)
        found = list(wanted) if most is None else sampled(wanted, most)
    except CaptureError as error:
        raise click.UsageError(str(error)) from None
    warnings.end()
    if not found:
        raise click.UsageError(f"there is no request{f' to {model!r}' if model else ''} in what was given")
    return found


def _answered(requests: list[CapturedRequest], client: Client, timeout: float) -> list[CapturedRequest]:
    """The requests with those responses that they lack."""
    from tfserving.clients.busy import Patient
    from tfserving.clients.capture import with_response

    server = Patient(client)
    found = [
        one if one.request.outputs else server.call(partial(with_response, one, client), timeout) for one in requests
    ]
    if server.refusals:
        click.echo(f"Warning: {server.refusals}", err=True)
    return found


def _write(requests: list[CapturedRequest], golden: Path | None, warm_up: Path | None, any_version: bool) -> None:
    from tfserving.clients.capture import MOST_WARM_UP
    from tfserving.foundation.records import write_records

    if any_version:
        requests = [replace(one, version=None) for one in requests]
    unanswered = [one for one in requests if not one.request.outputs]
    if golden is not None and unanswered:
        raise click.UsageError(
            f"{len(unanswered)} of {len(requests)} requests have no answer; --server says whom to ask"
        )
    try:
        if golden is not None:
            write_records(golden, (one.record() for one in requests))
            click.echo(f"{golden}: {_count(len(requests))} with their answers", err=True)
        if warm_up is not None:
            played = requests[:MOST_WARM_UP]
            bare = [replace(one, version=None, request=replace(one.request, outputs={})) for one in played]
            write_records(warm_up, (one.record() for one in bare))
            click.echo(f"{warm_up}: {_count(len(played))}", err=True)
    except OSError as error:
        click.echo(f"Error: {error.filename}: {error.strerror}", err=True)
        sys.exit(FAILED)


def _count(number: int) -> str:
    return f"{number} request{'' if number == 1 else 's'}"

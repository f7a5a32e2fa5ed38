"""`capture`: makes golden and warm-up records from real requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.clients.commands.calls import Target, optional_server_options
from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.command.options import writable
from tfserving.foundation.command.progress import Progress

if TYPE_CHECKING:
    from tfserving.clients.capture import CapturedRequest
    from tfserving.clients.client import Client

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, path_type=Path)
# Further warnings are only counted.
_MOST_WARNINGS = 5


@click.command(
    epilog="""\b
Examples:
  tfserving capture requests-*.tfrecord --golden captured.tfrecord --most 500
  tfserving capture bodies.jsonl --model digits --golden captured.tfrecord \\
    --server grpc://10.0.0.7:8500
  tfserving capture captured.tfrecord \\
    --warm-up models/digits/3/assets.extra/tf_serving_warmup_requests
  tfserving verify captured.tfrecord --against http://canary.example:8501
  tfserving bench digits --requests captured.tfrecord"""
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=_FILE)
@click.option(
    "--golden",
    type=_OUTPUT,
    callback=writable(),
    metavar="FILE",
    help="Write requests with their responses to this TFRecord file.",
)
@click.option(
    "--warm-up",
    type=_OUTPUT,
    callback=writable(),
    metavar="FILE",
    help="Write requests without responses to this TFRecord file, 1000 at most, as a server replays them.",
)
@click.option("--model", metavar="MODEL", help="Only requests to this model; also the model of JSON that names none.")
@click.option("--most", type=click.IntRange(1), metavar="N", help="Keep a random sample of so many.  [default: all]")
@click.option("--duplicates", is_flag=True, help="Keep repeated requests, too.")
@click.option("--any-version", is_flag=True, help="Leave out the version that served the request.")
@optional_server_options
def capture(
    *,
    sources: tuple[Path, ...],
    golden: Path | None,
    warm_up: Path | None,
    model: str | None,
    target: Target | None,
    most: int | None,
    duplicates: bool,
    any_version: bool,
) -> None:
    """Make golden and warm-up records from real requests.

    A SOURCE is a request log (a TFRecord of PredictionLog, which the embedded server writes with --request_log), the
    output of this command, a .json file with the body of a REST predict request, or a .jsonl file with one in each
    line. The output is the input of a server's warm-up, of `verify` and of `bench`.

    JSON has no dtypes, and logs may lack responses. Both are requested from --server. Damaged records are skipped with
    a warning.
    """
    _check_outputs(sources, {"--golden": golden, "--warm-up": warm_up})
    with Progress() as progress:
        if target is None:
            requests = _read(sources, model, None, most, duplicates, progress)
        else:
            with target.connected() as client:
                requests = _read(sources, model, client, most, duplicates, progress)
                if golden is not None:
                    requests = _with_responses(requests, client, target.timeout, progress)
    _write(requests, golden, warm_up, any_version)


def _check_outputs(sources: tuple[Path, ...], outputs: dict[str, Path | None]) -> None:
    """Raise UsageError when there is no output, or one would overwrite a source or another one."""
    given = {option: output for option, output in outputs.items() if output is not None}
    if not given:
        raise click.UsageError("no output is given; add --golden FILE or --warm-up FILE")
    taken = dict.fromkeys(sources, "a SOURCE")
    for option, output in given.items():
        for path, what in taken.items():
            if _is_same(path, output):
                raise click.UsageError(f"{option} {output} is the same file as {what}, {path}; write to another file")
        taken[output] = option


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file. A file can have several names, or not exist yet."""
    try:
        return one.samefile(other) and one.is_file()
    except OSError:
        return one.resolve() == other.resolve()


class _Warnings:
    """Prints the first few warnings, and the number of the others."""

    def __init__(self, progress: Progress) -> None:
        self._count = 0
        self._progress = progress

    def add(self, text: str) -> None:
        self._count += 1
        if self._count <= _MOST_WARNINGS:
            self._progress.line(f"Warning: {text}")

    def end(self) -> None:
        if self._count > _MOST_WARNINGS:
            self._progress.line(f"Warning: skipped {self._count - _MOST_WARNINGS} more")


def _read(
    sources: tuple[Path, ...],
    model: str | None,
    client: Client | None,
    most: int | None,
    duplicates: bool,
    progress: Progress,
) -> list[CapturedRequest]:
    from tfserving.clients.capture import CaptureError, distinct, read_requests, sampled

    warnings = _Warnings(progress)

    def from_sources() -> Iterable[CapturedRequest]:
        for source in sources:
            progress.update(f"reading {source}")
            yield from read_requests(source, model, client, warnings.add)

    try:
        wanted = from_sources() if duplicates else distinct(from_sources())
        found = list(wanted) if most is None else sampled(wanted, most)
    except CaptureError as error:
        raise click.UsageError(str(error)) from None
    warnings.end()
    if not found:
        raise click.UsageError(f"the sources contain no request{f' to {model!r}' if model else ''}")
    return found


def _with_responses(
    requests: list[CapturedRequest], client: Client, timeout: float, progress: Progress
) -> list[CapturedRequest]:
    """Return the requests; those without a response get one from the server."""
    from tfserving.clients.busy import Patient
    from tfserving.clients.capture import with_response

    server = Patient(client)
    found = []
    for number, one in enumerate(requests):
        progress.update(f"{number} of {_count(len(requests))}")
        found.append(one if one.request.outputs else server.call(partial(with_response, one, client), timeout))
    if server.refusals:
        progress.line(f"Warning: {server.refusals}")
    return found


def _write(requests: list[CapturedRequest], golden: Path | None, warm_up: Path | None, any_version: bool) -> None:
    from tfserving.clients.capture import MOST_WARM_UP
    from tfserving.foundation.records import write_records

    if any_version:
        requests = [replace(one, version=None) for one in requests]
    lacking = [one for one in requests if not one.request.outputs]
    if golden is not None and lacking:
        raise click.UsageError(
            f"{len(lacking)} of {len(requests)} requests have no response; add --server URL to request them"
        )
    try:
        if golden is not None:
            write_records(golden, (one.record() for one in requests))
            click.echo(f"{golden}: {_count(len(requests))} with responses", err=True)
        if warm_up is not None:
            played = requests[:MOST_WARM_UP]
            bare = [replace(one, version=None, request=replace(one.request, outputs={})) for one in played]
            write_records(warm_up, (one.record() for one in bare))
            click.echo(f"{warm_up}: {_count(len(played))}", err=True)
    except OSError as error:
        raise CommandError(f"{error.filename} can't be written: {error.strerror}") from None


def _count(number: int) -> str:
    return f"{number} request{'' if number == 1 else 's'}"

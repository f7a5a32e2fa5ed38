"""What `bench` and `tune` share: the requests to send, and options with numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from tfserving.clients.commands.calls import Function, Target
from tfserving.clients.commands.model import Model, source_of
from tfserving.foundation.labels import CANARY

if TYPE_CHECKING:
    from tfserving.clients.bench.generator import Bench
    from tfserving.clients.metrics import Page
    from tfserving.foundation.command.progress import Progress
    from tfserving.foundation.tensors import Array

Number = TypeVar("Number", int, float)
_LIMIT = re.compile(r"(mean|max|p50|p90|p99|p99\.9)=([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(us|ms|s)")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def numbers(text: str | None, kind: type[Number], option: str, most: float = math.inf) -> list[Number]:
    """Return the numbers above 0 in `text`, separated by commas."""
    try:
        found = [kind(part) for part in text.split(",")] if text else []
    except (ValueError, OverflowError):
        found = [kind(0)]
    if not all(0 < number < math.inf for number in found):
        raise click.BadParameter(f"{text!r} is not a list of numbers above 0, for example 1,2,4", param_hint=option)
    if any(number > most for number in found):
        raise click.BadParameter(f"{max(found):g} is too large, the limit is {most:g}", param_hint=option)
    return found


def _read_limit(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[str, float] | None:
    """Return a percentile's name, and milliseconds."""
    if text is None:
        return None
    found = _LIMIT.fullmatch(text)
    if found is None or not 0 < float(found[2]) < math.inf:
        raise click.BadParameter(f"{text!r} is not a limit on mean, max, p50, p90, p99 or p99.9, for example p99=20ms")
    return found[1], float(found[2]) * _MS[found[3]]


def limit_option(help_text: str) -> Callable[[Function], Function]:
    """The option of a limit on a latency."""
    return click.option("--limit", callback=_read_limit, metavar="P=TIME", help=help_text)


input_option = click.option(
    "--input",
    "given",
    multiple=True,
    metavar="[NAME=]VALUE",
    help="The input to send, as for `predict`.  [default: generated numbers of the signature's shapes]",
)
requests_option = click.option(
    "--requests",
    metavar="MODEL|SOURCE",
    help="Send the golden requests of a model or a folder, or those of a captured file, in turn.",
)


def check_requests(requests: str | None) -> None:
    """Raise an error for a --requests that names neither a model nor a source, before anything is started."""
    if requests == "":
        raise click.BadParameter("expected a model, a folder or a file, got ''", param_hint="--requests")
    if requests is not None:
        source_of(requests)


def prepared(
    target: Target,
    model: Model,
    signature: str | None,
    *,
    given: tuple[str, ...],
    requests: str | None,
    batches: list[int],
    durations: Any,
    processes: int,
    metrics: str | None,
    progress: Progress,
) -> Bench:
    """Return the load generator. It sends each request once, so that wrong requests end the command first."""
    from tfserving.clients.address import Tls, read_address, tls_of_each
    from tfserving.clients.bench.bodies import BodiesError, bodies_of
    from tfserving.clients.bench.generator import Bench
    from tfserving.clients.call_options import DEFAULT_SIGNATURE
    from tfserving.clients.errors import Call
    from tfserving.clients.metrics import PATH
    from tfserving.clients.rest_calls import model_path

    name = signature or DEFAULT_SIGNATURE
    try:
        tls = Tls(**target.tls) if target.tls else None
        its, *_ = tls_of_each([target.url, *([metrics] if metrics else [])], tls)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with replace(target, tls=target.tls if its else {}).connected() as client:
        sent = _requests(client, model, name, given, requests)
        address = read_address(target.url, its)
        call = Call(client.protocol, client.server, model.name, model.version, model.label, name)
        for inputs in sent:
            # A load of errors would measure nothing.
            client.predict(model.name, inputs, signature=name, version=model.version, label=model.label, check=True)
    try:
        bodies = {rows: bodies_of(address, call, sent, rows) for rows in batches} or {1: bodies_of(address, call, sent)}
    except BodiesError as error:
        raise click.UsageError(str(error)) from None
    page = metrics
    if page is None and (rest := target.server.of("rest")) is not None:
        parts = urlsplit(read_address(rest).target)
        page = f"{parts.scheme}://{parts.netloc}{PATH}"
    return Bench(
        address,
        model_path(call),
        bodies,
        durations,
        processes=processes,
        timeout=target.timeout,
        page=_page(page, model.name, tls, named=metrics is not None, progress=progress),
        largest=target.max_response_bytes,
        progress=progress.update,
    )


def _page(url: str | None, model: str, tls: Any, *, named: bool, progress: Progress) -> Callable[[], Page | None]:
    """Return a reader of the metrics page at `url`. It warns when a page that the user named can't be used."""
    from tfserving.clients.errors import ServingError
    from tfserving.clients.metrics import read_metrics
    from tfserving.clients.printable import printable

    warned: set[str] = set()

    def read() -> Page | None:
        if url is None:
            return None
        try:
            found = read_metrics(url, model, tls)
            if not found.answered:
                raise ValueError(f"it has no :tensorflow:serving:request_latency of the model {model!r}")
        except (ServingError, ValueError) as error:
            if named and url not in warned:
                warned.add(url)
                reason = printable(error.text if isinstance(error, ServingError) else str(error))
                progress.line(f"Warning: the server's own latency is left out: --metrics {url}: {reason}")
            return None
        return found

    return read


def _requests(
    client: Any, model: Model, name: str, given: tuple[str, ...], requests: str | None
) -> list[dict[str, Array]]:
    """Return the inputs that are sent in turn."""
    from tfserving.clients.bench.bodies import BodiesError, made_up
    from tfserving.clients.commands.images import Images
    from tfserving.clients.commands.input_values import InputError, read_inputs
    from tfserving.clients.inputs import to_arrays
    from tfserving.clients.printable import printable
    from tfserving.clients.verification.proofs import SourceError

    metadata = client.metadata(model.name, version=model.version, label=model.label)
    known = metadata.signatures.get(name)
    if known is None:
        names = ", ".join(metadata.signatures) or "none"
        text = f"{model.name} version {metadata.version} lacks signature {name!r}; it has {names}"
        raise click.BadParameter(printable(text), param_hint="--signature")
    try:
        if requests:
            return _recorded(requests, model.name, metadata.version, name)
        if given:
            return [to_arrays(Images().fitted(read_inputs(given).inputs, known), name, known)]
        return [made_up(name, known)]
    except (BodiesError, InputError, SourceError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def _recorded(source: str, model: str, version: int, signature: str) -> list[dict[str, Array]]:
    """Return the golden or captured predict requests of `source` with the signature.

    Golden requests are those of `version`, which is served, or of the newest version when the source lacks it. The
    canary of a model gets the requests of the model.
    """
    from tfserving.clients.verification.proofs import Captured, SourceError, subjects
    from tfserving.foundation.golden import GoldenError, read_golden

    with subjects([source_of(source)]) as found:
        subject = found.get(model) or found.get(model.removesuffix(f"-{CANARY}"))
        if subject is None:
            raise SourceError(f"{source} has no requests to {model!r}; it has requests to {', '.join(found)}")
        try:
            if isinstance(subject, Captured):
                requests = [request for many in subject.requests.values() for request in many]
            else:
                there = subject.on_disk()
                wanted = subject.wanted or frozenset(there)
                requests = list(read_golden(there[version if version in wanted & {*there} else max(wanted)]).requests)
        except GoldenError as error:
            raise SourceError(str(error)) from None
    sent = [dict(it.inputs) for it in requests if it.signature == signature and it.method == "predict"]
    if not sent:
        raise SourceError(f"{source} has no predict request with signature {signature!r}")
    return sent

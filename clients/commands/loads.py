"""What the commands that load a server share: what is sent, and the numbers that their options take."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from tfserving.clients.commands.calls import Function, Target
from tfserving.foundation.labels import CANARY

if TYPE_CHECKING:
    from tfserving.clients.bench.generator import Bench
    from tfserving.clients.metrics import Page
    from tfserving.foundation.tensors import Array

Number = TypeVar("Number", int, float)
_LIMIT = re.compile(r"(mean|max|p50|p90|p99|p99\.9)=([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(us|ms|s)")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def numbers(text: str | None, kind: type[Number], option: str, most: float = math.inf) -> list[Number]:
    """The numbers above 0 in `text`, separated by commas."""
    try:
        found = [kind(part) for part in text.split(",")] if text else []
    except (ValueError, OverflowError):
        found = [kind(0)]
    if not all(0 < number < math.inf for number in found):
        raise click.BadParameter(f"{text!r} is no list of numbers above 0, as 1,2,4 is", param_hint=option)
    if any(number > most for number in found):
        raise click.BadParameter(f"{max(found):g} is too large: {most:g} is the most", param_hint=option)
    return found


def _read_limit(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[str, float] | None:
    """A percentile's name, and milliseconds."""
    if text is None:
        return None
    found = _LIMIT.fullmatch(text)
    if found is None or not 0 < float(found[2]) < math.inf:
        raise click.BadParameter(f"{text!r} is no limit on mean, max, p50, p90, p99 or p99.9, as p99=20ms is")
    return found[1], float(found[2]) * _MS[found[3]]


def limit_option(help_text: str) -> Callable[[Function], Function]:
    """The option of a limit on a latency."""
    return click.option("--limit", callback=_read_limit, metavar="P=TIME", help=help_text)


def prepared(
    target: Target,
    asked: tuple[str, int | None, str | None, str | None],
    *,
    given: tuple[str, ...],
    requests: str | None,
    batches: list[int],
    durations: Any,
    processes: int,
    metrics: str | None,
) -> Bench:
    """What is needed to measure; what can't be asked ends the command before anything is."""
    from tfserving.clients.address import Tls, read_address, tls_of_each
    from tfserving.clients.bench.bodies import BodiesError, bodies_of
    from tfserving.clients.bench.generator import Bench
    from tfserving.clients.call_options import DEFAULT_SIGNATURE
    from tfserving.clients.errors import Call
    from tfserving.clients.metrics import PATH
    from tfserving.clients.rest_calls import model_path

    model, version, label, signature = asked
    name = signature or DEFAULT_SIGNATURE
    try:
        tls = Tls(**target.tls) if target.tls else None
        its, *_ = tls_of_each([target.url, *([metrics] if metrics else [])], tls)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with replace(target, tls=target.tls if its else {}).connected() as client:
        sent = _requests(client, asked, given, requests)
        address = read_address(target.url, its)
        call = Call(client.protocol, client.server, model, version, label, name)
        for inputs in sent:
            # One of each is asked first: a load of errors says nothing.
            client.predict(model, inputs, signature=name, version=version, label=label, check=True)
    try:
        bodies = {rows: bodies_of(address, call, sent, rows) for rows in batches} or {1: bodies_of(address, call, sent)}
    except BodiesError as error:
        raise click.UsageError(str(error)) from None
    page = metrics
    if page is None and address.protocol == "rest":
        parts = urlsplit(address.target)
        page = f"{parts.scheme}://{parts.netloc}{PATH}"
    return Bench(
        address,
        model_path(call),
        bodies,
        durations,
        processes=processes,
        timeout=target.timeout,
        page=_page(page, model, tls, asked_for=metrics is not None),
        largest=target.max_response_bytes,
        progress=lambda said: click.echo(f"\r\033[K{said}", err=True, nl=False) if sys.stderr.isatty() else None,
    )


def _page(url: str | None, model: str, tls: Any, *, asked_for: bool) -> Callable[[], Page | None]:
    """Reads what the page at `url` has counted. A page that was asked for isn't left out without a word."""
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
            if asked_for and url not in warned:
                warned.add(url)
                reason = printable(error.text if isinstance(error, ServingError) else str(error))
                click.echo(f"the server's own time is left out: --metrics {url}: {reason}", err=True)
            return None
        return found

    return read


def _requests(
    client: Any, asked: tuple[str, int | None, str | None, str | None], given: tuple[str, ...], requests: str | None
) -> list[dict[str, Array]]:
    """The inputs that are sent in turn."""
    from tfserving.clients.bench.bodies import BodiesError, made_up
    from tfserving.clients.call_options import DEFAULT_SIGNATURE
    from tfserving.clients.commands.images import Images
    from tfserving.clients.commands.input_values import InputError, read_inputs
    from tfserving.clients.inputs import to_arrays
    from tfserving.clients.verification.proofs import SourceError

    model, version, label, signature = asked
    name = signature or DEFAULT_SIGNATURE
    metadata = client.metadata(model, version=version, label=label)
    known = metadata.signatures.get(name)
    if known is None:
        raise click.BadParameter(f"{model} has no signature {name!r}", param_hint="--signature")
    try:
        if requests:
            return _recorded(requests, model, metadata.version, name)
        if given:
            return [to_arrays(Images().fitted(read_inputs(given).inputs, known), name, known)]
        return [made_up(name, known)]
    except (BodiesError, InputError, SourceError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def _recorded(source: str, model: str, version: int, signature: str) -> list[dict[str, Array]]:
    """The golden or captured requests of `source` to predict with the signature.

    Golden ones are those of `version`, which is served, or of the newest where the source hasn't that. A model's canary
    gets the model's.
    """
    from tfserving.clients.verification.proofs import Captured, SourceError, subjects
    from tfserving.foundation.golden import GoldenError, read_golden

    with subjects([source]) as found:
        subject = found.get(model) or found.get(model.removesuffix(f"-{CANARY}"))
        if subject is None:
            raise SourceError(f"{source} has no requests to {model!r}; it has some to {', '.join(found)}")
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
        raise SourceError(f"{source} has no request to predict with signature {signature!r}")
    return sent

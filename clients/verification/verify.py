"""Verification: what is served, compared with what the models answered in process, or with what another server answers.

Every golden request of every served version is asked again, pinned to that version, over each protocol: one by one,
many as one request, and many at the same time. What can't be compared (a model or a version that isn't served, a
version without golden requests, an error) is a failure with its reason: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tfserving.clients.address import Tls, tls_of_each
from tfserving.clients.busy import Patient
from tfserving.clients.client import connect
from tfserving.clients.verification.proofs import subjects
from tfserving.clients.verification.runs import run_of
from tfserving.clients.verification.settings import Settings
from tfserving.clients.verification.verdicts import AT_A_TIME, Report

__all__ = ["Settings", "verify"]


def verify(
    sources: Iterable[str | Path],
    *,
    grpc: str | None = None,
    rest: str | None = None,
    tls: Tls | None = None,
    against: str | None = None,
    settings: Settings | None = None,
) -> Report:
    """Verifies the models in `sources` against the servers at `grpc` and `rest`.

    `sources` are folders of models, of a model or of a version, URLs of such, and files of captured requests
    (`tfserving.clients.verification.proofs.subjects`). The addresses are URLs, or `HOST:PORT` without TLS; a protocol
    without an address is not verified. `against` is the URL of a server whose answers are wanted. `tls` is for the
    addresses that have TLS.

    Raises SourceError for sources that are none, and ValueError for addresses that are none, without any, and for `tls`
    where no address has TLS.
    """
    settings = settings or Settings()
    urls = [_url(scheme, address) for scheme, address in (("grpc", grpc), ("http", rest)) if address is not None]
    if not urls:
        raise ValueError("the address of a gRPC or a REST server is needed")
    if against:
        urls.append(against)
    with subjects(sources) as found, ExitStack() as stack:
        most = settings.max_response_bytes
        each = [
            Patient(stack.enter_context(connect(url, tls=its, max_response_bytes=most)), AT_A_TIME)
            for url, its in zip(urls, tls_of_each(urls, tls), strict=True)
        ]
        servers = each[:-1] if against else each
        settings = replace(settings, against=each[-1] if against else None)
        runs = [
            run_of(server, settings.served_as.get(model, model), subject, settings)
            for model, subject in found.items()
            for server in servers
        ]
        rows = [row for run in runs for row in run.rows()]
    asked = {(run.model, *request) for run in runs for request in run.asked}
    protocols = tuple(server.client.protocol for server in servers)
    busy = tuple(server.refusals for server in each if server.refusals)
    return Report(tuple(rows), len(found), len(asked), protocols, against or "", busy)


def _url(scheme: str, address: str) -> str:
    if "://" not in address:
        return f"{scheme}://{address}"
    if address.partition("://")[0] not in (scheme, f"{scheme}s", *(("dns", "unix") if scheme == "grpc" else ())):
        raise ValueError(f"{address!r} is no address for {scheme}; HOST:PORT or {scheme}://HOST:PORT is")
    return address

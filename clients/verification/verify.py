"""Verification: the outputs of a server, compared with the golden outputs or with those of another server.

Every golden request of every served version is sent to that version, over each protocol: one by one, many as one batch,
and many at the same time. Whatever can't be compared is a failure with its reason: a model or a version that isn't
served, a version without golden requests, an error. Nothing is skipped silently.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tfserving.clients.address import Tls, tls_of_each
from tfserving.clients.busy import Patient
from tfserving.clients.client import connect
from tfserving.clients.verification.proofs import ModelFolder, subjects
from tfserving.clients.verification.runs import run_of
from tfserving.clients.verification.settings import Settings
from tfserving.clients.verification.verdicts import AT_A_TIME, Report, Row

__all__ = ["Settings", "verify"]


def verify(
    sources: Iterable[str | Path | ModelFolder],
    *,
    grpc: str | None = None,
    rest: str | None = None,
    tls: Tls | None = None,
    against: str | None = None,
    settings: Settings | None = None,
) -> Report:
    """Verify the models in `sources` over the gRPC port `grpc` and the REST port `rest` of a server.

    `tfserving.clients.verification.proofs.subjects` defines the sources. The addresses are URLs, or `HOST:PORT` without
    TLS; a protocol without an address isn't verified. `against` is the URL of a server whose outputs are expected.
    `tls` applies to the URLs that use TLS.

    Raises SourceError for a wrong source, and ValueError for a wrong address, without an address, and for `tls` when no
    URL uses TLS.
    """
    settings = settings or Settings()
    urls = [_url(scheme, address) for scheme, address in (("grpc", grpc), ("http", rest)) if address is not None]
    if not urls:
        raise ValueError("no address is given; give the address of a gRPC or a REST port")
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
        rows: list[Row] = []
        for run in runs:
            found_rows = run.rows()
            settings.finished(found_rows)
            rows += found_rows
    compared = {(run.model, *request) for run in runs for request in run.compared}
    protocols = tuple(server.client.protocol for server in servers)
    busy = tuple(server.refusals for server in each if server.refusals)
    return Report(tuple(rows), len(found), len(compared), protocols, against or "", busy)


def _url(scheme: str, address: str) -> str:
    if "://" not in address:
        return f"{scheme}://{address}"
    if address.partition("://")[0] not in (scheme, f"{scheme}s", *(("dns", "unix") if scheme == "grpc" else ())):
        raise ValueError(
            f"{address!r} is not the address of a {scheme} port; expected HOST:PORT or {scheme}://HOST:PORT"
        )
    return address

"""Verification: what is served, compared with what the models answered in process, or with what another server answers.

Every golden request of every served version is asked again, pinned to that version, over each protocol: one by one,
many as one request, and many at the same time. What can't be compared (a model or a version that isn't served, a
version without golden requests, an error) is a failure with its reason: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tfserving.clients.address import Tls
from tfserving.clients.client import connect
from tfserving.clients.verification.proofs import subjects
from tfserving.clients.verification.runs import run_of
from tfserving.clients.verification.settings import Settings
from tfserving.clients.verification.verdicts import Report

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
    (`tfserving.clients.verification.proofs.subjects`). The addresses are `HOST:PORT` or URLs; a protocol without one is
    not asked. `against` is the URL of a server whose answers are wanted.

    Raises SourceError for sources that are none, and ValueError for addresses that are none, or without any.
    """
    settings = settings or Settings()
    urls = [_url("grpc", grpc, tls), _url("http", rest, tls)]
    if not any(urls):
        raise ValueError("the address of a gRPC or a REST server is needed")
    with subjects(sources) as found:
        most = settings.max_response_bytes
        clients = [connect(url, tls=tls, max_response_bytes=most) for url in urls if url]
        their_tls = tls if against and "s://" in against else None
        other = connect(against, tls=their_tls, max_response_bytes=most) if against else None
        try:
            settings = replace(settings, against=other)
            runs = [run_of(client, name, subject, settings) for name, subject in found.items() for client in clients]
            rows = [row for run in runs for row in run.rows()]
        finally:
            for client in (*clients, *([other] if other else ())):
                client.close()
    asked = {(run.model, *request) for run in runs for request in run.asked}
    return Report(tuple(rows), len(found), len(asked), tuple(client.protocol for client in clients), against or "")


def _url(scheme: str, address: str | None, tls: Tls | None) -> str | None:
    if address is None:
        return None
    if "://" not in address:
        return f"{scheme}{'s' if tls else ''}://{address}"
    if address.split("://")[0] not in (scheme, f"{scheme}s", *(("dns", "unix") if scheme == "grpc" else ())):
        raise ValueError(f"{address!r} is no address for {scheme}; HOST:PORT or {scheme}://HOST:PORT is")
    return address

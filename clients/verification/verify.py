"""Verification: what is served, compared with what the models answered in process, or with what another server answers.

Every golden request of every served version is asked again, pinned to that version, over each protocol: one by one,
many as one request, and many at the same time. What can't be compared (a model or a version that isn't served, a
version without golden requests, an error) is a failure with its reason: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfserving.clients.address import Tls
from tfserving.clients.client import Client, connect
from tfserving.clients.errors import PROTOCOL_NAMES, NotFound, ServingError
from tfserving.clients.golden import ask
from tfserving.clients.verification.proofs import Captured, Versions, subjects
from tfserving.clients.verification.verdicts import WAY_NAMES, WAYS, Report, Row, Tally, Way, count, row_of
from tfserving.foundation.compare import Difference, Tolerance, compare
from tfserving.foundation.golden import Golden, GoldenError, GoldenRequest, read_golden
from tfserving.foundation.tensors import Array

DEFAULT_TIMEOUT = 30.0
# How often a model may move on to newer versions while it is verified.
MOVES = 5
AT_A_TIME = 32
MOST_ROWS = 1024


@dataclass(frozen=True)
class Settings:
    """How a verification asks and judges.

    `tolerance` replaces those of the golden requests, `timeout` is for each request, in seconds. `against` is a server
    whose answers are wanted instead of the golden ones. `progress` is told what is being asked.
    """

    ways: Sequence[Way] = WAYS
    tolerance: Tolerance | None = None
    timeout: float = DEFAULT_TIMEOUT
    against: Client | None = None
    progress: Callable[[str], None] = lambda said: None  # noqa: ARG005 - says nothing unless asked to


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
        clients = [connect(url, tls=tls) for url in urls if url]
        other = connect(against, tls=tls if "s://" in against else None) if against else None
        try:
            settings = replace(settings, against=other)
            runs = [_run(client, name, subject, settings) for name, subject in found.items() for client in clients]
            rows = [row for run in runs for row in run.rows()]
        finally:
            for client in (*clients, *([other] if other else ())):
                client.close()
    asked = {(run.model, *request) for run in runs for request in run.asked}
    return Report(tuple(rows), len(found), len(asked), tuple(client.protocol for client in clients), against or "")


class _MovedError(Exception):
    """The version is not served any more."""


class _Run:
    """The verification of one model over one protocol. `asked` are the golden requests that were compared."""

    def __init__(self, client: Client, model: str, settings: Settings) -> None:
        self.model = model
        self.asked: set[tuple[int | None, int]] = set()
        self._client = client
        self._settings = settings

    def rows(self) -> list[Row]:
        """A row for each output, and for each reason why there is none."""
        raise NotImplementedError

    def _compared(self, version: int | None, golden: Golden) -> list[Row]:
        """The rows of one version. Raises _MovedError when it isn't served any more."""
        said = f"{self.model} version {version}" if version is not None else self.model
        asked = f"{said} over {PROTOCOL_NAMES[self._client.protocol]}: {count(len(golden.requests), 'golden request')}"
        self._settings.progress(asked)
        comparison = _Comparison(self._client, self.model, version, golden, self._settings)
        for way in self._settings.ways:
            comparison.go(way)
            if any(row.unreachable for row in comparison.failures.values()):
                # The others would only wait for the same.
                break
        self.asked |= {(version, number) for number in comparison.asked}
        return comparison.rows()

    def _failed(self, reason: str, *, version: int | None = None, code: str = "") -> Row:
        return Row(self.model, self._client.protocol, version, reason=reason, code=code)


class _RequestsRun(_Run):
    """Of requests that are given by version; None is whatever version answers."""

    def __init__(
        self, client: Client, model: str, requests: Mapping[int | None, Golden | GoldenError], settings: Settings
    ) -> None:
        super().__init__(client, model, settings)
        self._requests = requests

    def rows(self) -> list[Row]:
        """See `_Run.rows`."""
        rows: list[Row] = []
        for version, golden in self._requests.items():
            if isinstance(golden, GoldenError):
                rows.append(self._failed(str(golden), version=version))
            elif self._settings.against is None and not all(request.outputs for request in golden.requests):
                rows.append(self._failed("its captured requests have no answers: another server's are needed"))
            else:
                try:
                    rows += self._compared(version, golden)
                except _MovedError as error:
                    rows.append(self._failed(f"it is not served: {error}", version=version, code=NotFound.code))
        return rows


class _VersionsRun(_Run):
    """Of the versions in a model's folder."""

    def __init__(self, client: Client, model: str, versions: Versions, settings: Settings) -> None:
        super().__init__(client, model, settings)
        self._versions = versions

    def rows(self) -> list[Row]:
        """See `_Run.rows`."""
        done: dict[int, list[Row]] = {}
        moved: _MovedError | None = None
        for _ in range(MOVES):
            try:
                statuses = self._client.status(self.model, timeout=self._settings.timeout)
            except NotFound as error:
                return [self._failed(f"it is not served: {error.text}", code=error.code)]
            except ServingError as error:
                return [self._failed(f"{error.code}: {error.text}", code=error.code)]
            available = [status.version for status in statuses if status.state == "AVAILABLE"]
            if not available:
                return [self._failed(f"no version is available: {', '.join(map(str, statuses)) or 'it has none'}")]
            asked = [version for version in available if version in (self._versions.wanted or available)]
            try:
                for version in asked:
                    if version not in done:
                        done[version] = self._version(version)
            except _MovedError as error:
                # The server went on to a newer version: that is the one to ask now.
                moved = error
                continue
            failed = {
                status.version: self._failed(
                    f"it failed to load: {status.code}: {status.message}", version=status.version
                )
                for status in statuses
                if status.failed and status.version in (self._versions.wanted or {status.version})
            }
            missing = [
                self._failed(f"it is not served; available are {available}", version=version, code=NotFound.code)
                for version in self._needed()
                if version not in asked and version not in failed
            ]
            return [row for rows in done.values() for row in rows] + [*failed.values(), *missing]
        return [self._failed(f"its versions come and go: {moved}")]

    def _needed(self) -> list[int]:
        """The versions that must be served: those that are wanted, else the newest on disk."""
        return sorted(self._versions.wanted or [max(self._versions.on_disk(), default=0)])

    def _version(self, version: int) -> list[Row]:
        """The rows of one served version. Raises _MovedError when it isn't served any more."""
        try:
            folder = self._versions.on_disk().get(version)
            if folder is None:
                said = f"it is served, but {self._versions.folder} has no such version"
                return [self._failed(said, version=version)]
            golden = read_golden(folder)
        except (GoldenError, OSError) as error:
            return [self._failed(str(error), version=version)]
        return self._compared(version, golden)


class _Comparison:
    """The golden requests of one version, asked in several ways over one protocol.

    `failures` has by signature the first call that failed, `asked` the requests that were answered.
    """

    def __init__(self, client: Client, model: str, version: int | None, golden: Golden, settings: Settings) -> None:
        self.failures: dict[str, Row] = {}
        self.asked: set[int] = set()
        self._client = client
        self._model = model
        self._version = version
        self._golden = golden
        self._settings = settings
        self._tallies: dict[tuple[str, str], dict[Way, Tally]] = {}
        self._left_out: dict[str, dict[Way, str]] = {}

    def go(self, way: Way) -> None:
        """Asks every request in this way. Raises _MovedError when the version isn't served any more."""
        {"alone": self._alone, "batch": self._batch, "concurrent": self._concurrent}[way]()

    def rows(self) -> list[Row]:
        """A row for each output, and for each signature that failed."""
        empty = Row(self._model, self._client.protocol, self._version)
        found = [
            row_of(replace(empty, signature=signature, output=output), tallies, self._left_out.get(signature, {}))
            for (signature, output), tallies in self._tallies.items()
        ]
        return [*found, *self.failures.values()]

    def _alone(self) -> None:
        for number, request in enumerate(self._golden.requests):
            served = self._answer(request, f"request {number}")
            if served is not None:
                self._compare("alone", number, served, self._wanted(request), f"request {number}")
            elif self.failures[request.signature].unreachable:
                # The others would only wait for the same.
                return

    def _batch(self) -> None:
        """Requests of one signature as one, and each one's part of the answer compared."""
        for signature in dict.fromkeys(request.signature for request in self._golden.requests):
            requests = [
                (number, request)
                for number, request in enumerate(self._golden.requests)
                if request.signature == signature
            ]
            if signature in self.failures:
                continue
            groups = list(_groups(requests)) if self._takes_any_rows(signature) else []
            if not groups:
                reason = "its inputs and outputs don't go by rows, of which it takes any number"
                self._left_out.setdefault(signature, {})["batch"] = reason
            for group in groups:
                self._compare_batch([number for number, _ in group], [request for _, request in group])

    def _takes_any_rows(self, signature: str) -> bool:
        try:
            metadata = self._client.metadata(self._model, version=self._version, timeout=self._settings.timeout)
        except ServingError:
            return False
        found = metadata.signatures.get(signature)
        return found is not None and all(not info.shape or info.shape[0] is None for info in found.inputs.values())

    def _compare_batch(self, numbers: list[int], requests: list[GoldenRequest]) -> None:
        sizes = [_rows(request) or 0 for request in requests]
        names = list(requests[0].inputs)
        inputs = {name: np.concatenate([request.inputs[name] for request in requests]) for name in names}
        batch = replace(requests[0], inputs=inputs)
        where = f"requests {', '.join(map(str, dict.fromkeys(numbers)))} as one"
        served, wanted = self._answer(batch, where), self._wanted(batch, alone=False)
        if served is None:
            return
        total, start = sum(sizes), 0
        for number, request, size in zip(numbers, requests, sizes, strict=True):
            rows = slice(start, start + size)
            start += size
            part = {name: it[rows] if it.ndim and len(it) == total else it for name, it in served.items()}
            its = request.outputs if self._settings.against is None else None
            if wanted is not None:
                its = {name: it[rows] if it.ndim and len(it) == total else it for name, it in wanted.items()}
            self._compare("batch", number, part, its, f"request {number}, {where}")

    def _concurrent(self) -> None:
        """Requests of all signatures, over and over until there are enough of them, at the same time."""
        working = [
            (number, request)
            for number, request in enumerate(self._golden.requests)
            if request.signature not in self.failures
        ]
        rounds = -(-AT_A_TIME // len(working)) if working else 0
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for (number, request), served in zip(
                working * rounds, pool.map(lambda it: self._answer(it[1], ""), working * rounds), strict=True
            ):
                where = f"request {number}, {WAY_NAMES['concurrent']}"
                if served is not None:
                    self._compare("concurrent", number, served, self._wanted(request), where)

    def _wanted(self, request: GoldenRequest, *, alone: bool = True) -> Mapping[str, Array] | None:
        """The answer that is wanted: the golden one, or the other server's. None for a batch's golden one."""
        other = self._settings.against
        if other is None:
            return request.outputs if alone else None
        try:
            return self._ask(other, request)
        except ServingError as error:
            reason = f"{other.server} answers {error.code}: {error.text}"
            self.failures.setdefault(request.signature, self._failure(request, reason, error))
            return None

    def _answer(self, request: GoldenRequest, where: str) -> Mapping[str, Array] | None:
        """What is served for `request`; None, and a failure noted, for an error.

        Raises _MovedError when the version isn't served any more.
        """
        try:
            return self._ask(self._client, request)
        except NotFound as error:
            raise _MovedError(error.text) from None
        except ServingError as error:
            reason = f"{where or WAY_NAMES['concurrent']}: {error.code}: {error.text}"
            self.failures.setdefault(request.signature, self._failure(request, reason, error))
            return None

    def _ask(self, client: Client, request: GoldenRequest) -> Mapping[str, Array]:
        defaults = self._golden.defaults.get(request.signature)
        timeout = self._settings.timeout
        return ask(client, self._model, request, version=self._version, defaults=defaults, timeout=timeout)

    def _failure(self, request: GoldenRequest, reason: str, error: ServingError) -> Row:
        return Row(self._model, self._client.protocol, self._version, request.signature, reason=reason, code=error.code)

    def _compare(
        self, way: Way, number: int, served: Mapping[str, Array], wanted: Mapping[str, Array] | None, where: str
    ) -> None:
        if wanted is None:
            return
        self.asked.add(number)
        signature = self._golden.requests[number].signature
        golden = "golden" if self._settings.against is None else "other server's"
        for name in sorted({*served, *wanted}):
            if name not in served:
                difference = Difference("different", reason="it is not in the answer")
            elif name not in wanted:
                difference = Difference("different", reason=f"it is in the answer, but not in the {golden} one")
            else:
                tolerance = self._settings.tolerance or self._golden.tolerances.get(wanted[name].dtype.name)
                difference = compare(served[name], wanted[name], tolerance)
            tallies = self._tallies.setdefault((signature, name), {})
            tallies.setdefault(way, Tally()).add(difference, where)


def _run(client: Client, model: str, subject: Versions | Captured, settings: Settings) -> _Run:
    if isinstance(subject, Captured):
        captured = {version: Golden(tuple(requests), {}) for version, requests in subject.requests.items()}
        return _RequestsRun(client, model, captured, settings)
    if settings.against is None:
        return _VersionsRun(client, model, subject, settings)
    # Two servers are compared as they answer, unless a version is named.
    on_disk = subject.on_disk()
    folders: dict[int | None, Path | None] = {version: on_disk.get(version) for version in subject.wanted or ()}
    folders = folders or {None: on_disk[max(on_disk)]}
    return _RequestsRun(client, model, {version: _golden(folder) for version, folder in folders.items()}, settings)


def _golden(folder: Path | None) -> Golden | GoldenError:
    try:
        return read_golden(folder) if folder else GoldenError("there is no such version")
    except GoldenError as error:
        return error


def _rows(request: GoldenRequest) -> int | None:
    """How many rows a request has; None when its inputs and outputs don't all go by the same."""
    arrays = [*request.inputs.values(), *request.outputs.values()]
    sizes = {array.shape[0] if array.ndim else -1 for array in arrays}
    return sizes.pop() if len(sizes) == 1 and min(sizes) > 0 else None


def _groups(requests: list[tuple[int, GoldenRequest]]) -> Iterator[list[tuple[int, GoldenRequest]]]:
    """Requests whose arrays differ in the number of rows alone, with at most so many rows; one that is alone is twice.

    Nothing unless every request goes by rows, and their number varies: some signatures take a fixed number of them.
    """
    sizes = [_rows(request) for _, request in requests]
    if None in sizes:
        return
    grouped: dict[Any, list[tuple[int, GoldenRequest]]] = {}
    for number, request in requests:
        kind = tuple((name, array.dtype, array.shape[1:]) for name, array in request.inputs.items())
        grouped.setdefault(kind, []).append((number, request))
    for group in grouped.values():
        chosen: list[tuple[int, GoldenRequest]] = []
        total = 0
        for number, request in group if len(group) > 1 else group * 2:
            total += _rows(request) or 0
            if total <= MOST_ROWS or not chosen:
                chosen.append((number, request))
        yield chosen


def _url(scheme: str, address: str | None, tls: Tls | None) -> str | None:
    if address is None:
        return None
    if "://" not in address:
        return f"{scheme}{'s' if tls else ''}://{address}"
    if address.split("://")[0] not in (scheme, f"{scheme}s", *(("dns", "unix") if scheme == "grpc" else ())):
        raise ValueError(f"{address!r} is no address for {scheme}; HOST:PORT or {scheme}://HOST:PORT is")
    return address

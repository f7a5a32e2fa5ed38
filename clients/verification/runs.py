"""The verification of one model over one protocol: of the versions in its folder, or of requests that are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tfserving.clients.busy import Patient
from tfserving.clients.errors import PROTOCOL_NAMES, FailedPrecondition, InvalidArgument, NotFound, ServingError
from tfserving.clients.results import VersionStatus
from tfserving.clients.verification.comparison import Comparison, MovedError
from tfserving.clients.verification.proofs import Captured, Versions
from tfserving.clients.verification.settings import Settings
from tfserving.clients.verification.verdicts import Row, count, reason_of
from tfserving.foundation.golden import Golden, GoldenError, read_golden
from tfserving.foundation.labels import CANARY, STABLE, canary_name

# How often a model may move on to newer versions while it is verified.
MOVES = 5


def run_of(server: Patient, model: str, subject: Versions | Captured, settings: Settings) -> Run:
    """The verification of `model`, whose requests come from `subject`."""
    if isinstance(subject, Captured):
        captured = {version: Golden(tuple(requests), {}) for version, requests in subject.requests.items()}
        return RequestsRun(server, model, captured, settings)
    if settings.against is None:
        return VersionsRun(server, model, subject, settings)
    # Two servers are compared as they answer, unless a version is named.
    on_disk = subject.on_disk()
    folders: dict[int | None, Path | None] = {version: on_disk.get(version) for version in subject.wanted or ()}
    folders = folders or {None: on_disk[max(on_disk)]}
    return RequestsRun(server, model, {version: _golden(folder) for version, folder in folders.items()}, settings)


class Run:
    """The verification of one model over one protocol. `asked` are the golden requests that were compared."""

    def __init__(self, server: Patient, model: str, settings: Settings) -> None:
        self.model = model
        self.asked: set[tuple[int | None, int]] = set()
        self._server = server
        self._client = server.client
        self._settings = settings

    def rows(self) -> list[Row]:
        """A row for each output, and for each reason why there is none."""
        raise NotImplementedError

    def _compared(self, version: int | None, golden: Golden, name: str | None = None) -> list[Row]:
        """The rows of one version, under another `name` if given. Raises MovedError when it isn't served any more."""
        name = name or self.model
        said = f"{name} version {version}" if version is not None else name
        asked = f"{said} over {PROTOCOL_NAMES[self._client.protocol]}: {count(len(golden.requests), 'golden request')}"
        self._settings.progress(asked)
        comparison = Comparison(self._server, name, version, golden, self._settings)
        for way in self._settings.ways:
            comparison.go(way)
            if any(row.unreachable for row in comparison.failures.values()):
                # The others would only wait for the same.
                break
        self.asked |= {(version, number) for number in comparison.asked}
        return comparison.rows()

    def _failed(self, reason: str, *, version: int | None = None, code: str = "", name: str | None = None) -> Row:
        return Row(name or self.model, self._client.protocol, version, reason=reason, code=code)


class RequestsRun(Run):
    """Of requests that are given by version; None is whatever version answers."""

    def __init__(
        self, server: Patient, model: str, requests: Mapping[int | None, Golden | GoldenError], settings: Settings
    ) -> None:
        super().__init__(server, model, settings)
        self._requests = requests

    def rows(self) -> list[Row]:
        """See `Run.rows`."""
        rows: list[Row] = []
        for version, golden in self._requests.items():
            if isinstance(golden, GoldenError):
                rows.append(self._failed(str(golden), version=version))
            elif self._settings.against is None and not all(request.outputs for request in golden.requests):
                rows.append(self._failed("its captured requests have no answers: another server's are needed"))
            else:
                try:
                    rows += self._compared(version, golden)
                except MovedError as error:
                    rows.append(self._failed(f"it is not served: {error}", version=version, code=NotFound.code))
        return rows


class VersionsRun(Run):
    """Of the versions in a model's folder, those of its canary under the canary's name."""

    def __init__(self, server: Patient, model: str, versions: Versions, settings: Settings) -> None:
        super().__init__(server, model, settings)
        self._versions = versions

    def rows(self) -> list[Row]:
        """See `Run.rows`."""
        done: dict[tuple[str, int], list[Row]] = {}
        moved: MovedError | None = None
        for _ in range(MOVES):
            try:
                statuses = self._server.call(self._status, self._settings.timeout)
            except NotFound as error:
                return [self._failed(f"it is not served: {error.text}", code=error.code)]
            except ServingError as error:
                return [self._failed(reason_of(error), code=error.code)]
            available = [status.version for status in statuses if status.state == "AVAILABLE"]
            if not available:
                return [self._failed(f"no version is available: {', '.join(map(str, statuses)) or 'it has none'}")]
            wanted = self._versions.wanted
            asked = [(self.model, version) for version in available if version in (wanted or available)]
            try:
                if wanted is None or wanted - {*available}:
                    asked += [(canary_name(self.model), version) for version in self._canary(wanted)]
                for name, version in asked:
                    if (name, version) not in done:
                        done[name, version] = self._version(version, name)
                needed = self._needed({version for _, version in asked}, max(available))
            except MovedError as error:
                # The server went on to a newer version: that is the one to ask now.
                moved = error
                continue
            except ServingError as error:
                return [self._failed(f"its labels: {reason_of(error)}", code=error.code)]
            failed = {
                status.version: self._failed(
                    f"it failed to load: {status.code}: {status.message}", version=status.version
                )
                for status in statuses
                if status.failed and status.version in (wanted or {status.version})
            }
            missing = [
                self._failed(f"it is not served; available are {available}", version=version, code=NotFound.code)
                for version in needed
                if version not in failed
            ]
            return [row for rows in done.values() for row in rows] + [*failed.values(), *missing]
        return [self._failed(f"its versions come and go: {moved}")]

    def _status(self, seconds: float) -> tuple[VersionStatus, ...]:
        return self._client.status(self.model, timeout=seconds)

    def _canary(self, wanted: frozenset[int] | None) -> list[int]:
        """The version that the server has under the canary's name, if it is one of `wanted`.

        A model of that name that is no canary has no such label.
        """
        version = self._labelled(canary_name(self.model), CANARY)
        return [version] if version is not None and version in (wanted or {version}) else []

    def _labelled(self, name: str, label: str) -> int | None:
        """The version that a label means."""
        try:
            return self._server.call(
                lambda seconds: self._client.metadata(name, label=label, timeout=seconds), self._settings.timeout
            ).version
        except (FailedPrecondition, InvalidArgument, NotFound):
            return None

    def _needed(self, asked: set[int], served: int) -> list[int]:
        """The versions that must be served and aren't among those that were verified.

        They are those that are wanted, else the newest on disk; `served` is what clients without a label get. Where
        that has the label `stable`, it may be an older one.
        """
        if self._versions.wanted is not None:
            return sorted(self._versions.wanted - asked)
        newest = max(self._versions.on_disk(), default=0)
        return [newest] if newest not in asked and self._labelled(self.model, STABLE) != served else []

    def _version(self, version: int, name: str) -> list[Row]:
        """The rows of one served version. Raises MovedError when it isn't served any more."""
        try:
            folder = self._versions.on_disk().get(version)
            if folder is None:
                said = f"it is served, but {self._versions.folder} has no such version"
                return [self._failed(said, version=version, name=name)]
            golden = read_golden(folder)
        except (GoldenError, OSError) as error:
            return [self._failed(str(error), version=version, name=name)]
        return self._compared(version, golden, name)


def _golden(folder: Path | None) -> Golden | GoldenError:
    try:
        return read_golden(folder) if folder else GoldenError("there is no such version")
    except GoldenError as error:
        return error

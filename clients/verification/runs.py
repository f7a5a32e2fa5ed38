"""The verification of one model over one protocol: of the versions in its folder, or of captured requests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tfserving.clients.busy import Patient
from tfserving.clients.errors import PROTOCOL_NAMES, FailedPrecondition, InvalidArgument, NotFound, ServingError
from tfserving.clients.results import VersionStatus
from tfserving.clients.verification.comparison import Comparison, MovedError
from tfserving.clients.verification.proofs import Captured, Versions
from tfserving.clients.verification.settings import Settings
from tfserving.clients.verification.tolerance_sets import NoToleranceError, tolerance_set
from tfserving.clients.verification.verdicts import Row, count, reason_of
from tfserving.foundation.golden import Golden, GoldenError, read_golden
from tfserving.foundation.labels import CANARY, STABLE, canary_name

# How often newer versions may replace those of a model while it is verified.
MOVES = 5


def run_of(server: Patient, model: str, subject: Versions | Captured, settings: Settings) -> Run:
    """Return the verification of `model` with the requests in `subject`."""
    if isinstance(subject, Captured):
        # They have no tolerances.
        captured = {version: Golden(tuple(requests), {}) for version, requests in subject.requests.items()}
        return RequestsRun(server, model, captured, settings)
    if settings.against is None:
        return VersionsRun(server, model, subject, settings)
    # Two servers are compared by their default versions, unless a version is named.
    on_disk = subject.on_disk()
    folders: dict[int | None, Path | None] = {version: on_disk.get(version) for version in subject.wanted or ()}
    folders = folders or {None: on_disk[max(on_disk)]}
    return RequestsRun(server, model, {version: _golden(folder) for version, folder in folders.items()}, settings)


class Run:
    """The verification of one model over one protocol. `compared` are the golden requests that were compared."""

    def __init__(self, server: Patient, model: str, settings: Settings) -> None:
        self.model = model
        self.compared: set[tuple[int | None, int]] = set()
        self._server = server
        self._client = server.client
        self._settings = settings

    def rows(self) -> list[Row]:
        """Return a row for each output, and for each failure."""
        raise NotImplementedError

    def _compared(self, version: int | None, golden: Golden, name: str | None = None, device: str = "") -> list[Row]:
        """Return the rows of one version, under `name` if given, on a server that names this device.

        Raises MovedError when it is no longer served.
        """
        name = name or self.model
        try:
            tolerances = tolerance_set(golden, self._settings, device)
        except NoToleranceError as error:
            return [self._failed(str(error), version=version, name=name)]
        where = f"{name} version {version}" if version is not None else name
        requests = count(len(golden.requests), "golden request")
        self._settings.progress(f"{where} over {PROTOCOL_NAMES[self._client.protocol]}: {requests}")
        comparison = Comparison(self._server, name, version, golden, self._settings, tolerances)
        for way in self._settings.ways:
            comparison.go(way)
            if any(row.unreachable for row in comparison.failures.values()):
                # The other ways would only time out as well.
                break
        self.compared |= {(version, number) for number in comparison.compared}
        return comparison.rows()

    def _failed(self, reason: str, *, version: int | None = None, code: str = "", name: str | None = None) -> Row:
        return Row(name or self.model, self._client.protocol, version, reason=reason, code=code)


class RequestsRun(Run):
    """The verification of requests by version; None is the default version of the server."""

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
                rows.append(
                    self._failed("its captured requests have no responses; compare with another server by --against")
                )
            else:
                try:
                    rows += self._compared(version, golden)
                except MovedError as error:
                    rows.append(self._failed(f"it isn't served: {error}", version=version, code=NotFound.code))
        return rows


class VersionsRun(Run):
    """The verification of the versions in a model's folder; that of the canary is under the canary's name."""

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
                return [self._failed(f"it isn't served: {error.text}", code=error.code)]
            except ServingError as error:
                return [self._failed(reason_of(error), code=error.code)]
            available = [status.version for status in statuses if status.state == "AVAILABLE"]
            if not available:
                return [self._failed(f"no version is available: {', '.join(map(str, statuses)) or 'none is loaded'}")]
            wanted = self._versions.wanted
            served = [(self.model, version) for version in available if version in (wanted or available)]
            try:
                if wanted is None or wanted - {*available}:
                    served += [(canary_name(self.model), version) for version in self._canary(wanted)]
                for name, version in served:
                    if (name, version) not in done:
                        done[name, version] = self._version(version, name, statuses[0].device)
                needed = self._needed({version for _, version in served}, max(available))
            except MovedError as error:
                # The server replaced the version by a newer one, which is verified next.
                moved = error
                continue
            except ServingError as error:
                return [self._failed(f"its labels can't be read: {reason_of(error)}", code=error.code)]
            failed = {
                status.version: self._failed(
                    f"it failed to load: {status.code}: {status.message}", version=status.version
                )
                for status in statuses
                if status.failed and status.version in (wanted or {status.version})
            }
            missing = [
                self._failed(
                    f"it isn't served; available: {', '.join(map(str, available))}",
                    version=version,
                    code=NotFound.code,
                )
                for version in needed
                if version not in failed
            ]
            return [row for rows in done.values() for row in rows] + [*failed.values(), *missing]
        return [self._failed(f"its versions keep changing: {moved}")]

    def _status(self, seconds: float) -> tuple[VersionStatus, ...]:
        return self._client.status(self.model, timeout=seconds)

    def _canary(self, wanted: frozenset[int] | None) -> list[int]:
        """Return the version that the server has under the canary's name, if it is one of `wanted`.

        A model of that name without the label isn't a canary.
        """
        version = self._labelled(canary_name(self.model), CANARY)
        return [version] if version is not None and version in (wanted or {version}) else []

    def _labelled(self, name: str, label: str) -> int | None:
        """Return the version with a label; None if there is none."""
        try:
            return self._server.call(
                lambda seconds: self._client.metadata(name, label=label, timeout=seconds), self._settings.timeout
            ).version
        except (FailedPrecondition, InvalidArgument, NotFound):
            return None

    def _needed(self, verified: set[int], served: int) -> list[int]:
        """Return the versions that must be served and weren't verified.

        These are the selected versions, else the newest one on disk. `served` is the version that clients without a
        label get; if it has the label `stable`, it may be an older one.
        """
        if self._versions.wanted is not None:
            return sorted(self._versions.wanted - verified)
        newest = max(self._versions.on_disk(), default=0)
        return [newest] if newest not in verified and self._labelled(self.model, STABLE) != served else []

    def _version(self, version: int, name: str, device: str) -> list[Row]:
        """Return the rows of one served version. Raises MovedError when it is no longer served."""
        try:
            folder = self._versions.on_disk().get(version)
            if folder is None:
                reason = f"it is served, but {self._versions.folder} doesn't contain it"
                return [self._failed(reason, version=version, name=name)]
            golden = read_golden(folder)
        except (GoldenError, OSError) as error:
            return [self._failed(str(error), version=version, name=name)]
        return self._compared(version, golden, name, device)


def _golden(folder: Path | None) -> Golden | GoldenError:
    try:
        return read_golden(folder) if folder else GoldenError("the version doesn't exist")
    except GoldenError as error:
        return error

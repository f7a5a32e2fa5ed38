"""Verification: what is served, compared with what the models answered in process.

Every golden request of every served version is asked again, pinned to that version, over each protocol. What can't be
compared (a model that isn't served, a version without golden requests, an error) is a failure with its reason: nothing
is left out in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from clients.client import Client, connect
from clients.compare import Difference, Verdict, compare
from clients.errors import PROTOCOL_NAMES, DeadlineExceeded, NotFound, ServingError, Unavailable
from clients.golden import Golden, GoldenError, GoldenRequest, read_golden, versions_on_disk
from clients.tensors import Array

Number = TypeVar("Number", int, float)

DEFAULT_TIMEOUT = 30.0
# How often a model may move on to newer versions while it is verified.
MOVES = 5
_BADNESS: dict[Verdict, int] = {"equal": 0, "within tolerance": 1, "different": 2, "failed": 3}


class FolderError(Exception):
    """A folder holds no models to verify; the text names it."""


@dataclass(frozen=True)
class Row:
    """What came of one output of a signature over one protocol: the worst over `requests` golden requests.

    In a row that failed before there were outputs to compare, what is not known is None. `code` is the status code of
    the call that failed, if one did. `absolute`, `relative` and `ulp` are as in `clients.compare.Difference`.
    """

    model: str
    protocol: str
    version: int | None = None
    signature: str | None = None
    output: str | None = None
    requests: int = 0
    verdict: Verdict = "failed"
    absolute: float | None = None
    relative: float | None = None
    ulp: int | None = None
    reason: str = ""
    code: str = ""

    @property
    def ok(self) -> bool:
        """Whether what is served is what was computed, to the tolerance."""
        return _BADNESS[self.verdict] <= 1

    @property
    def unreachable(self) -> bool:
        """Whether no answer came at all."""
        return self.code in (Unavailable.code, DeadlineExceeded.code)

    def __str__(self) -> str:
        said = [self.model + (f" version {self.version}" if self.version is not None else "")]
        if self.signature is not None:
            said.append(f"signature {self.signature!r}")
        if self.output is not None:
            said.append(f"output {self.output!r}")
        return f"{', '.join(said)} over {PROTOCOL_NAMES[self.protocol]}: {self.reason or self.verdict}"


@dataclass(frozen=True)
class Report:
    """The rows of a verification; `requests` golden requests of `models` models were asked over `protocols`."""

    rows: tuple[Row, ...]
    models: int
    requests: int
    protocols: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything was asked, and everything is what it should be."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def unreachable(self) -> bool:
        """Whether nothing is wrong but that a server could not be reached."""
        return not self.ok and all(row.ok or row.unreachable for row in self.rows)

    def sentence(self) -> str:
        """The outcome in one sentence."""
        wrong = [row for row in self.rows if not row.ok]
        if wrong:
            return f"{len(wrong)} of {len(self.rows)} comparisons failed, the first: {wrong[0]}"
        verdict = "equal" if all(row.verdict == "equal" for row in self.rows) else "equal or within tolerance"
        over = " and ".join(PROTOCOL_NAMES[protocol] for protocol in self.protocols)
        requests = "the golden request" if self.requests == 1 else f"all {self.requests} golden requests"
        return f"{requests} of {_count(self.models, 'model')} {verdict} over {over}"


def model_folders(paths: Iterable[Path]) -> dict[str, Path]:
    """The model folders that `paths` are or hold, by the model's name, which is the folder's.

    A folder with versions in it is a model's; any other is a folder of models, whose hidden entries don't count.

    Raises FolderError for a path that is no folder, a folder without models, and two folders of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        folder = path.resolve()
        if not folder.is_dir():
            raise FolderError(f"{path} is no folder")
        models = [folder] if versions_on_disk(folder) else _children(folder)
        if not any(versions_on_disk(model) for model in models):
            raise FolderError(
                f"{path} holds no model: a model is a folder with versions in it, folders named by a number"
            )
        for model in models:
            if found.setdefault(model.name, model) != model:
                raise FolderError(f"{found[model.name]} and {model} are both for a model called {model.name!r}")
    return found


def verify(
    folders: Iterable[Path],
    *,
    grpc: str | None = None,
    rest: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    progress: Callable[[str], None] = lambda said: None,  # noqa: ARG005 - says nothing unless asked to
) -> Report:
    """Verifies the models in `folders`, model folders or folders of them, against the servers at `grpc` and `rest`.

    The addresses are `HOST:PORT` or URLs; a protocol without one is not asked. `timeout` is for each request, in
    seconds. `progress` is told what is being asked.

    Raises FolderError as `model_folders` does, and ValueError for addresses that are none, or without any.
    """
    models = model_folders(folders)
    urls = [_url("grpc", grpc), _url("http", rest)]
    if not any(urls):
        raise ValueError("the address of a gRPC or a REST server is needed")
    clients = [connect(url) for url in urls if url]
    try:
        runs = [
            _ModelRun(client, name, folder, timeout, progress) for name, folder in models.items() for client in clients
        ]
        rows = [row for run in runs for row in run.rows()]
    finally:
        for client in clients:
            client.close()
    asked = {(run.model, *request) for run in runs for request in run.asked}
    return Report(tuple(rows), len(models), len(asked), tuple(client.protocol for client in clients))


class _MovedError(Exception):
    """The version is not served any more."""


@dataclass
class _Output:
    """What is known of one output so far."""

    requests: int = 0
    worst: Difference = field(default_factory=lambda: Difference("equal"))
    absolute: float | None = None
    relative: float | None = None
    ulp: int | None = None


class _ModelRun:
    """The verification of one model over one protocol. `asked` are the golden requests that were compared."""

    def __init__(
        self, client: Client, model: str, folder: Path, timeout: float, progress: Callable[[str], None]
    ) -> None:
        self.model = model
        self.asked: set[tuple[int, int]] = set()
        self._client = client
        self._folder = folder
        self._timeout = timeout
        self._progress = progress

    def rows(self) -> list[Row]:
        """A row for each output of each version that is served, and for each reason why there is none."""
        done: dict[int, list[Row]] = {}
        moved: _MovedError | None = None
        for _ in range(MOVES):
            try:
                statuses = self._client.status(self.model, timeout=self._timeout)
            except NotFound as error:
                return [self._failed(f"it is not served: {error.text}", code=error.code)]
            except ServingError as error:
                return [self._failed(f"{error.code}: {error.text}", code=error.code)]
            available = [status.version for status in statuses if status.state == "AVAILABLE"]
            if not available:
                return [self._failed(f"no version is available: {', '.join(map(str, statuses)) or 'it has none'}")]
            try:
                for version in available:
                    if version not in done:
                        done[version] = self._version(version)
            except _MovedError as error:
                # The server went on to a newer version: that is the one to ask now.
                moved = error
                continue
            failed = [
                self._failed(f"it failed to load: {status.code}: {status.message}", version=status.version)
                for status in statuses
                if status.failed
            ]
            return [row for rows in done.values() for row in rows] + failed
        return [self._failed(f"its versions come and go: {moved}")]

    def _version(self, version: int) -> list[Row]:
        """The rows of one served version. Raises _MovedError when it isn't served any more."""
        try:
            folder = versions_on_disk(self._folder).get(version)
            if folder is None:
                return [self._failed(f"it is served, but {self._folder} has no such version", version=version)]
            golden = read_golden(folder)
        except (GoldenError, OSError) as error:
            return [self._failed(str(error), version=version)]
        count = _count(len(golden.requests), "golden request")
        self._progress(f"{self.model} version {version} over {PROTOCOL_NAMES[self._client.protocol]}: {count}")
        outputs: dict[tuple[str, str], _Output] = {}
        failures: dict[str, Row] = {}
        for number, request in enumerate(golden.requests):
            failure = self._compare(version, number, request, golden, outputs)
            if failure:
                failures.setdefault(request.signature, failure)
                if failure.unreachable:
                    # The others would only wait for the same.
                    break
        return [
            *(self._row(version, signature, output, found) for (signature, output), found in outputs.items()),
            *failures.values(),
        ]

    def _compare(
        self,
        version: int,
        number: int,
        request: GoldenRequest,
        golden: Golden,
        outputs: dict[tuple[str, str], _Output],
    ) -> Row | None:
        """Asks one golden request and adds to `outputs` how its outputs differ; a failed call is a row of its own."""
        signature = request.signature
        try:
            served = self._ask(request, version, golden)
        except NotFound as error:
            raise _MovedError(error.text) from None
        except ServingError as error:
            reason = f"request {number}: {error.code}: {error.text}"
            return self._failed(reason, version=version, signature=signature, code=error.code)
        self.asked.add((version, number))
        for name in sorted({*served, *request.outputs}):
            if name not in served:
                difference = Difference("different", reason="it is not in the answer")
            elif name not in request.outputs:
                difference = Difference("different", reason="it is in the answer, but not in the golden one")
            else:
                wanted = request.outputs[name]
                difference = compare(served[name], wanted, golden.tolerances.get(wanted.dtype.name))
            found = outputs.setdefault((signature, name), _Output())
            found.requests += 1
            found.absolute = _larger(found.absolute, difference.absolute)
            found.relative = _larger(found.relative, difference.relative)
            found.ulp = _larger(found.ulp, difference.ulp)
            if _BADNESS[difference.verdict] > _BADNESS[found.worst.verdict]:
                reason = f"request {number}: {difference.reason}"
                found.worst = Difference(difference.verdict, reason=reason)
        return None

    def _ask(self, request: GoldenRequest, version: int, golden: Golden) -> Mapping[str, Array]:
        """What is served for `request`, by output."""
        options: dict[str, Any] = {"signature": request.signature, "version": version, "timeout": self._timeout}
        if request.method == "classify":
            classified = self._client.classify(self.model, request.inputs["inputs"].tolist(), **options)
            return {"classes": classified.labels, "scores": classified.scores}
        if request.method == "regress":
            regressed = self._client.regress(self.model, request.inputs["inputs"].tolist(), **options)
            return {"outputs": regressed.values}
        inputs = request.inputs
        if self._client.protocol == "rest":
            # TensorFlow Serving's JSON must name every input, also one that has a default (util/json_tensor.cc).
            inputs = {**golden.defaults.get(request.signature, {}), **inputs}
        return self._client.predict(self.model, inputs, **options).outputs

    def _row(self, version: int, signature: str, output: str, found: _Output) -> Row:
        return Row(
            model=self.model,
            protocol=self._client.protocol,
            version=version,
            signature=signature,
            output=output,
            requests=found.requests,
            verdict=found.worst.verdict,
            absolute=found.absolute,
            relative=found.relative,
            ulp=found.ulp,
            reason=found.worst.reason,
        )

    def _failed(self, reason: str, *, version: int | None = None, signature: str | None = None, code: str = "") -> Row:
        return Row(self.model, self._client.protocol, version, signature, reason=reason, code=code)


def _larger(first: Number | None, second: Number | None) -> Number | None:
    return second if first is None else first if second is None else max(first, second)


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _url(scheme: str, address: str | None) -> str | None:
    if address is None:
        return None
    if "://" not in address:
        return f"{scheme}://{address}"
    if not address.startswith(f"{scheme}://"):
        raise ValueError(f"{address!r} is no address for {scheme}; HOST:PORT or {scheme}://HOST:PORT is")
    return address

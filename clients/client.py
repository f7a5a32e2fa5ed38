"""The client of a model server: the same calls over gRPC and REST.

with connect("grpc://127.0.0.1:8500") as client:
    client.predict("digits", {"image": images}).outputs["label"]
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

from clients.answers import Classification, Metadata, Prediction, Regression, Signature, VersionStatus
from clients.errors import (
    Call,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    from_code,
)
from clients.examples import ExampleLike, Examples, class_arrays, read_examples
from clients.inputs import Inputs, mismatches, needs_signature, to_arrays
from clients.tensors import Array

DEFAULT_SIGNATURE = "serving_default"
DEFAULT_TIMEOUT = 10.0
PORTS = {"grpc": 8500, "http": 8501}
# One question of `wait_until_available` may not use up all its time: the server behind an address can change.
POLL_TIMEOUT = 5.0
LONGEST_PAUSE = 0.5
# Servers that explain themselves do it so: the embedded one, and this client where it refuses by itself.
_EXPLAINED = re.compile(r"(^|; )(inputs\[|inputs sent|model '|no model)")
# The signatures in SavedModels that nobody can call.
_INTERNAL_SIGNATURE = "__saved_model_init_op"

AnyClient = TypeVar("AnyClient", bound="Client")


def connect(url: str) -> Client:
    """A client for the server at `url`: `grpc://HOST[:PORT]` or `http://HOST[:PORT][/PREFIX]`.

    The ports are 8500 and 8501 unless the URL says otherwise, an IPv6 address stands in brackets. Nothing is sent yet.
    No proxy of the environment is used: model servers are near.

    Raises ValueError for any other URL.
    """
    wanted = f"{url!r} is no address of a model server: grpc://HOST:PORT or http://HOST:PORT is"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme)
    except ValueError as error:
        raise ValueError(f"{wanted} ({error})") from None
    if parts.scheme not in PORTS or not host or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(wanted)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if parts.scheme == "grpc":
        if parts.path not in ("", "/"):
            raise ValueError(f"{wanted}, and gRPC has no path {parts.path!r}")
        from clients.grpc_client import GrpcClient

        return GrpcClient(address)
    from clients.rest_client import RestClient

    return RestClient(f"http://{address}{parts.path.rstrip('/')}")


class Client(ABC):
    """Calls to one model server. Can be used by several threads at once; a context manager closes it.

    Every method raises a `clients.errors.ServingError`. A `timeout` is in seconds and covers the whole call.
    """

    protocol: str

    def __init__(self, server: str) -> None:
        self.server = server
        self._metadata: dict[tuple[str, int | None, str | None], Metadata] = {}

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        outputs: Sequence[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Prediction:
        """The outputs of signature `signature` for `inputs`, or only those named in `outputs`.

        `inputs` is a mapping of input names to arrays, or a single array when the signature has one input. An array
        goes out with the element type it has; Python's lists and numbers take the type the signature wants, for which
        the server is asked its metadata once. `version` or `label` pins the version; without them the newest answers.

        Raises InvalidArgument for inputs or outputs the signature doesn't take, FailedPrecondition for a signature, and
        NotFound for a model or a version, that isn't served.
        """
        if isinstance(outputs, str):
            raise TypeError(f"outputs is a sequence of names, not the str {outputs!r}")
        call = self._call(model, version, label, signature)
        deadline = _deadline(timeout)
        try:
            arrays = self._arrays(call, inputs, deadline)
            return self._predict(call, arrays, tuple(outputs), deadline)
        except (InvalidArgument, FailedPrecondition, NotFound) as error:
            error.hint = error.hint or self._hint(error, call, inputs, deadline)
            raise

    def classify(
        self,
        model: str,
        examples: Iterable[ExampleLike],
        *,
        context: ExampleLike | None = None,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Classification:
        """The classes of each of `examples`: dicts of features, `tf.train.Example`s, or their bytes.

        The features of `context` are in every example that doesn't have its own. Raises InvalidArgument for examples
        and signatures that can't be classified with, and NotFound for a model or a version that isn't served.
        """
        call = self._call(model, version, label, signature)
        return self._classify(call, self._examples(call, examples, context), _deadline(timeout))

    def regress(
        self,
        model: str,
        examples: Iterable[ExampleLike],
        *,
        context: ExampleLike | None = None,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Regression:
        """A value for each of `examples`, which are given, and refused, as those of `classify`."""
        call = self._call(model, version, label, signature)
        return self._regress(call, self._examples(call, examples, context), _deadline(timeout))

    def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Metadata:
        """The signatures of `model`, of its newest version unless `version` or `label` says which."""
        return self._fresh_metadata(self._call(model, version, label), _deadline(timeout))

    def status(
        self, model: str, *, version: int | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> tuple[VersionStatus, ...]:
        """The versions of `model` that the server knows, newest first, also those it unloaded or failed to load.

        Raises NotFound when the server knows none, or not the one asked for.
        """
        found = self._get_status(self._call(model, version), _deadline(timeout))
        return tuple(sorted(found, key=lambda status: -status.version))

    def wait_until_available(self, model: str, *, version: int | None = None, timeout: float = 60.0) -> int:
        """Waits until `version` of `model` can be asked, or any version without it; returns the (newest) available one.

        The server need not be up yet, nor know the model. Raises the error with which the version failed to load as
        soon as it did, and DeadlineExceeded with what was last seen when `timeout` passes first.
        """
        call = self._call(model, version)
        deadline = _deadline(timeout)
        seen, pause = "nothing was heard from it", 0.02
        while True:
            remaining = deadline - time.monotonic()
            try:
                if remaining > 0:
                    statuses = self.status(model, timeout=min(remaining, POLL_TIMEOUT))
                    seen = ", ".join(map(str, statuses)) or "it has no version"
                    available = available_version(statuses, call)
                    if available is not None:
                        return available
            except DeadlineExceeded:
                # Says less than what was seen before.
                pass
            except (Unavailable, NotFound) as error:
                seen = f"{error.code}: {error.text}"
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise DeadlineExceeded(f"not available after {timeout:g} s; last seen of it: {seen}", call)
            time.sleep(min(pause, remaining))
            pause = min(pause * 1.5, LONGEST_PAUSE)

    @abstractmethod
    def close(self) -> None:
        """Closes the connections; calls in flight may fail."""

    def __enter__(self: AnyClient) -> AnyClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _predict(
        self, call: Call, arrays: Mapping[str, Array], outputs: tuple[str, ...], deadline: float
    ) -> Prediction: ...

    @abstractmethod
    def _classify(self, call: Call, examples: Examples, deadline: float) -> Classification: ...

    @abstractmethod
    def _regress(self, call: Call, examples: Examples, deadline: float) -> Regression: ...

    @abstractmethod
    def _get_metadata(self, call: Call, deadline: float) -> Metadata: ...

    @abstractmethod
    def _get_status(self, call: Call, deadline: float) -> list[VersionStatus]: ...

    def _call(
        self, model: str, version: int | None = None, label: str | None = None, signature: str | None = None
    ) -> Call:
        call = Call(self.protocol, self.server, model, version, label, signature)
        if version is not None and label is not None:
            raise InvalidArgument(f"version {version} and label {label!r} can't both be asked for, only one", call)
        if not model:
            raise InvalidArgument("the name of a model is needed, '' is none", call)
        return call

    def _fresh_metadata(self, call: Call, deadline: float) -> Metadata:
        found = self._get_metadata(call, deadline)
        signatures = {name: it for name, it in sorted(found.signatures.items()) if name != _INTERNAL_SIGNATURE}
        found = replace(found, signatures=signatures)
        self._metadata[call.model, call.version, call.label] = found
        return found

    def _examples(self, call: Call, examples: Iterable[ExampleLike], context: ExampleLike | None) -> Examples:
        try:
            return read_examples(examples, context)
        except ValueError as error:
            raise InvalidArgument(str(error), call) from None

    def _arrays(self, call: Call, inputs: Inputs, deadline: float) -> dict[str, Array]:
        name = call.signature or DEFAULT_SIGNATURE
        signature = None
        if needs_signature(inputs):
            signature, cached = self._signature(call, deadline)
            if cached and isinstance(inputs, Mapping) and set(inputs) != set(signature.inputs):
                # Perhaps a newer version's.
                signature, _ = self._signature(call, deadline, fresh=True)
        try:
            return to_arrays(inputs, name, signature)
        except ValueError as error:
            raise InvalidArgument(str(error), call) from None

    def _signature(self, call: Call, deadline: float, *, fresh: bool = False) -> tuple[Signature, bool]:
        """The signature that `call` asks for, and whether it was known from an earlier call.

        Raises FailedPrecondition when the model, asked anew, doesn't have it.
        """
        name = call.signature or DEFAULT_SIGNATURE
        known = self._metadata.get((call.model, call.version, call.label))
        if known and name in known.signatures and not fresh:
            return known.signatures[name], True
        found = self._fresh_metadata(call, deadline)
        if name not in found.signatures:
            raise FailedPrecondition(f"Serving signature key {name!r} not found.", call, _signatures(name, found))
        return found.signatures[name], False

    def _hint(self, error: ServingError, call: Call, inputs: Inputs, deadline: float) -> str:
        """What the server's metadata says about why it refused `call`.

        Nothing when the error says it itself, or when the reason is not one that metadata shows.
        """
        if time.monotonic() >= deadline or _EXPLAINED.search(error.text):
            return ""
        try:
            if isinstance(error, NotFound):
                known = ", ".join(map(str, self.status(call.model, timeout=remaining_seconds(deadline, call))))
                return f"the server's versions of {call.model}: {known}"
            signature, _ = self._signature(call, deadline, fresh=True)
            name = call.signature or DEFAULT_SIGNATURE
            return "\n".join(mismatches(to_arrays(inputs, name, signature), name, signature))
        except FailedPrecondition as missing:
            return missing.hint
        except NotFound:
            return f"{call.server} serves no model called {call.model!r}" if isinstance(error, NotFound) else ""
        except (ServingError, ValueError):
            return ""


def available_version(statuses: Sequence[VersionStatus], call: Call) -> int | None:
    """The version of `statuses`, newest first, that a wait for `call` ends with; None to wait on.

    Raises the error with which the version asked for failed to load; without one, that of the newest version when none
    is available or about to be.
    """
    candidates = [status for status in statuses if call.version in (None, status.version)]
    for status in candidates:
        if status.state == "AVAILABLE":
            return status.version
    if candidates and candidates[0].failed and all(status.state == "END" for status in candidates):
        failed = candidates[0]
        raise from_code(failed.code, failed.message, call, f"version {failed.version} of {call.model} failed to load")
    return None


def classification(call: Call, version: int | None, rows: Sequence[Sequence[tuple[str, float]]]) -> Classification:
    """The answer whose examples have the classes in `rows`. Raises Internal when not all have as many."""
    try:
        labels, scores = class_arrays(rows)
    except ValueError as error:
        raise Internal(f"the answer can't be read: {error}", call) from None
    return Classification(call.model, version, call.signature or DEFAULT_SIGNATURE, labels, scores)


def remaining_seconds(deadline: float, call: Call) -> float:
    """The seconds until `deadline`, a time of `time.monotonic`. Raises DeadlineExceeded when it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded("the timeout passed before the server could be asked", call)
    return remaining


def _deadline(timeout: float) -> float:
    if not timeout > 0:
        raise ValueError(f"a timeout is a number of seconds above 0, not {timeout!r}")
    return time.monotonic() + timeout


def _signatures(name: str, metadata: Metadata) -> str:
    names = ", ".join(metadata.signatures) or "none"
    return f"{metadata.model} version {metadata.version} has no signature {name!r}; it has {names}"

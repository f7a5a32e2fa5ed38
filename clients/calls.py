"""The calls that both protocols share: their checks before a request is sent, and the hints of their errors.

Every call is a generator of steps, which a client runs, blocking or on an event loop.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from tfserving.clients.availability import wait_until_available
from tfserving.clients.call_options import DEFAULT_SIGNATURE, CallOptions, unsendable
from tfserving.clients.errors import Call, FailedPrecondition, Internal, InvalidArgument, NotFound
from tfserving.clients.hints import hint
from tfserving.clients.inputs import Inputs
from tfserving.clients.limits import LONGEST_TIMEOUT, MAX_RESPONSE_BYTES
from tfserving.clients.printable import printable
from tfserving.clients.results import Classification, Metadata, Prediction, Regression, VersionStatus
from tfserving.clients.signatures import Signatures
from tfserving.clients.steps import Request, Retries, RetryingSender, Steps
from tfserving.foundation.devices import DEVICE_HEADER
from tfserving.foundation.examples import ExampleLike, Examples, class_arrays, read_examples
from tfserving.foundation.tensors import Array

Task: TypeAlias = Literal["classify", "regress"]
# Characters of a device's name.
_MOST_DEVICE = 40


class Calls(ABC):
    """The calls to the server at `server` over one protocol; a response has at most `largest` bytes.

    Several threads can use it at once.
    """

    protocol: str

    def __init__(
        self, server: str, retries: Retries, metadata: Mapping[str, str], largest: int = MAX_RESPONSE_BYTES
    ) -> None:
        self.server = server
        self._largest = largest
        wrong = unsendable(metadata)
        if wrong:
            raise ValueError(wrong)
        self._every_calls_metadata = dict(metadata) or None
        self._sender = RetryingSender(retries)
        self._signatures = Signatures(self._get_metadata)

    def options(
        self,
        model: str | None,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        timeout: float,
        metadata: Mapping[str, str] | None = None,
    ) -> CallOptions:
        """Return the options of a call; without a model, it is for the whole server.

        Raises InvalidArgument for a wrong model, version, label or metadata, and ValueError for a wrong timeout.
        """
        call = Call(self.protocol, self.server, model or "", version, label, signature)
        if model == "":
            raise InvalidArgument("the model's name is empty", call)
        if version is not None and label is not None:
            raise InvalidArgument(f"version {version} and label {label!r} are both given; give one of them", call)
        if not timeout > 0:
            raise ValueError(f"a timeout must be above 0 seconds, got {timeout!r}")
        sent = self._every_calls_metadata
        if metadata:
            wrong = unsendable(metadata)
            if wrong:
                raise InvalidArgument(wrong, call)
            sent = {**(sent or {}), **metadata}
        return CallOptions(call, time.monotonic() + min(timeout, LONGEST_TIMEOUT), sent)

    def predict(
        self, options: CallOptions, inputs: Inputs, outputs: Sequence[str] = (), *, check: bool = False
    ) -> Steps[Prediction]:
        """See `tfserving.clients.client.Client.predict`."""
        if isinstance(outputs, str):
            raise TypeError(f"outputs must be a sequence of names, got the str {outputs!r}")
        try:
            arrays = yield from self._signatures.arrays(options, inputs)
            if check:
                yield from self._signatures.check(options, arrays)
            return (yield from self._predict(options, arrays, tuple(outputs)))
        except (InvalidArgument, FailedPrecondition, NotFound) as error:
            error.hint = error.hint or (yield from hint(error, options, inputs, self._signatures, self.status))
            raise

    def classify(
        self,
        options: CallOptions,
        examples: Iterable[ExampleLike],
        context: ExampleLike | None = None,
        *,
        check: bool = False,
    ) -> Steps[Classification]:
        """See `tfserving.clients.client.Client.classify`."""
        read = _examples(options, examples, context)
        if check:
            yield from self._signatures.check_examples(options)
        return (yield from self._classify(options, read))

    def regress(
        self,
        options: CallOptions,
        examples: Iterable[ExampleLike],
        context: ExampleLike | None = None,
        *,
        check: bool = False,
    ) -> Steps[Regression]:
        """See `tfserving.clients.client.Client.regress`."""
        read = _examples(options, examples, context)
        if check:
            yield from self._signatures.check_examples(options)
        return (yield from self._regress(options, read))

    def multi_inference(
        self,
        options: CallOptions,
        tasks: Mapping[str, Task],
        examples: Iterable[ExampleLike],
        context: ExampleLike | None = None,
    ) -> Steps[dict[str, Classification | Regression]]:
        """See `tfserving.clients.client.Client.multi_inference`."""
        for signature, task in tasks.items():
            if task not in ("classify", "regress"):
                raise InvalidArgument(
                    f"tasks[{signature!r}]: got {task!r}, expected 'classify' or 'regress'", options.call
                )
        if not tasks:
            raise InvalidArgument("tasks is empty; name at least one signature", options.call)
        return (yield from self._multi_inference(options, tasks, _examples(options, examples, context)))

    def metadata(self, options: CallOptions) -> Steps[Metadata]:
        """See `tfserving.clients.client.Client.metadata`."""
        return self._signatures.metadata(options)

    def status(self, options: CallOptions) -> Steps[tuple[VersionStatus, ...]]:
        """See `tfserving.clients.client.Client.status`."""
        received: dict[str, str] = {}
        found = yield from self._get_status(options, received)
        device = printable(received.get(DEVICE_HEADER, ""), _MOST_DEVICE)
        return tuple(replace(status, device=device) for status in sorted(found, key=lambda one: -one.version))

    @abstractmethod
    def reload_config(self, options: CallOptions, config: Any) -> Steps[None]:
        """See `tfserving.clients.client.Client.reload_config`."""

    def wait_until_available(self, options: CallOptions, timeout: float) -> Steps[int]:
        """See `tfserving.clients.client.Client.wait_until_available`."""
        return wait_until_available(options, timeout, self.status, self.metadata)

    @abstractmethod
    def _predict(
        self, options: CallOptions, arrays: Mapping[str, Array], outputs: tuple[str, ...]
    ) -> Steps[Prediction]: ...

    @abstractmethod
    def _classify(self, options: CallOptions, examples: Examples) -> Steps[Classification]: ...

    @abstractmethod
    def _regress(self, options: CallOptions, examples: Examples) -> Steps[Regression]: ...

    @abstractmethod
    def _multi_inference(
        self, options: CallOptions, tasks: Mapping[str, Task], examples: Examples
    ) -> Steps[dict[str, Classification | Regression]]: ...

    @abstractmethod
    def _get_metadata(self, options: CallOptions) -> Steps[Metadata]: ...

    @abstractmethod
    def _get_status(self, options: CallOptions, received: dict[str, str]) -> Steps[list[VersionStatus]]:
        """Return the versions, and add the headers of the response to `received`."""

    def _send(
        self,
        options: CallOptions,
        path: str,
        body: bytes | None = None,
        *,
        repeatable: bool = True,
        received: dict[str, str] | None = None,
    ) -> Steps[bytes]:
        call, deadline, metadata = options.call, options.deadline, options.metadata
        return self._sender(Request(path, body, call, deadline, metadata, repeatable, received))


def classification(
    call: Call, version: int | None, rows: Sequence[Sequence[tuple[str, float]]], signature: str | None = None
) -> Classification:
    """Return the result with the classes of each example in `rows`. Raises Internal when their numbers differ."""
    try:
        labels, scores = class_arrays(rows)
    except ValueError as error:
        raise Internal(f"the response can't be read: {error}", call) from None
    return Classification(call.model, version, signature or call.signature or DEFAULT_SIGNATURE, labels, scores)


def _examples(options: CallOptions, examples: Iterable[ExampleLike], context: ExampleLike | None) -> Examples:
    try:
        return read_examples(examples, context)
    except ValueError as error:
        raise InvalidArgument(str(error), options.call) from None

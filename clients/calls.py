"""The calls that both protocols know: what they check before they ask, and what they do when they are refused.

Nothing here waits: every call is a generator of steps, which a client runs, blocking or on an event loop.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from tfserving.clients.answers import Classification, Metadata, Prediction, Regression, VersionStatus
from tfserving.clients.asked import DEFAULT_SIGNATURE, Asked, unsendable
from tfserving.clients.availability import wait_until_available
from tfserving.clients.errors import Call, FailedPrecondition, Internal, InvalidArgument, NotFound
from tfserving.clients.hints import hint
from tfserving.clients.inputs import Inputs
from tfserving.clients.limits import LONGEST_TIMEOUT, MAX_RESPONSE_BYTES
from tfserving.clients.signatures import Signatures
from tfserving.clients.steps import Ask, Asking, Retries, Steps
from tfserving.foundation.examples import ExampleLike, Examples, class_arrays, read_examples
from tfserving.foundation.tensors import Array

Task: TypeAlias = Literal["classify", "regress"]


class Calls(ABC):
    """The calls to the server at `server`, over one protocol, whose answers may have `largest` bytes.

    Can be used by several threads at once.
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
        self._asking = Asking(retries)
        self._signatures = Signatures(self._get_metadata)

    def asked(
        self,
        model: str | None,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        timeout: float,
        metadata: Mapping[str, str] | None = None,
    ) -> Asked:
        """What a call asks; without a model, the server as a whole.

        Raises InvalidArgument, or ValueError for a timeout, when that can't be meant.
        """
        call = Call(self.protocol, self.server, model or "", version, label, signature)
        if model == "":
            raise InvalidArgument("the name of a model is needed, '' is none", call)
        if version is not None and label is not None:
            raise InvalidArgument(f"version {version} and label {label!r} can't both be asked for, only one", call)
        if not timeout > 0:
            raise ValueError(f"a timeout is a number of seconds above 0, not {timeout!r}")
        along = self._every_calls_metadata
        if metadata:
            wrong = unsendable(metadata)
            if wrong:
                raise InvalidArgument(wrong, call)
            along = {**(along or {}), **metadata}
        return Asked(call, time.monotonic() + min(timeout, LONGEST_TIMEOUT), along)

    def predict(
        self, asked: Asked, inputs: Inputs, outputs: Sequence[str] = (), *, check: bool = False
    ) -> Steps[Prediction]:
        """See `tfserving.clients.client.Client.predict`."""
        if isinstance(outputs, str):
            raise TypeError(f"outputs is a sequence of names, not the str {outputs!r}")
        try:
            arrays = yield from self._signatures.arrays(asked, inputs)
            if check:
                yield from self._signatures.check(asked, arrays)
            return (yield from self._predict(asked, arrays, tuple(outputs)))
        except (InvalidArgument, FailedPrecondition, NotFound) as error:
            error.hint = error.hint or (yield from hint(error, asked, inputs, self._signatures, self.status))
            raise

    def classify(
        self, asked: Asked, examples: Iterable[ExampleLike], context: ExampleLike | None = None, *, check: bool = False
    ) -> Steps[Classification]:
        """See `tfserving.clients.client.Client.classify`."""
        read = _examples(asked, examples, context)
        if check:
            yield from self._signatures.check_takes_examples(asked)
        return (yield from self._classify(asked, read))

    def regress(
        self, asked: Asked, examples: Iterable[ExampleLike], context: ExampleLike | None = None, *, check: bool = False
    ) -> Steps[Regression]:
        """See `tfserving.clients.client.Client.regress`."""
        read = _examples(asked, examples, context)
        if check:
            yield from self._signatures.check_takes_examples(asked)
        return (yield from self._regress(asked, read))

    def multi_inference(
        self,
        asked: Asked,
        tasks: Mapping[str, Task],
        examples: Iterable[ExampleLike],
        context: ExampleLike | None = None,
    ) -> Steps[dict[str, Classification | Regression]]:
        """See `tfserving.clients.client.Client.multi_inference`."""
        for signature, task in tasks.items():
            if task not in ("classify", "regress"):
                raise InvalidArgument(f"tasks[{signature!r}] is 'classify' or 'regress', not {task!r}", asked.call)
        if not tasks:
            raise InvalidArgument("tasks is empty; at least one signature is needed", asked.call)
        return (yield from self._multi_inference(asked, tasks, _examples(asked, examples, context)))

    def metadata(self, asked: Asked) -> Steps[Metadata]:
        """See `tfserving.clients.client.Client.metadata`."""
        return self._signatures.metadata(asked)

    def status(self, asked: Asked) -> Steps[tuple[VersionStatus, ...]]:
        """See `tfserving.clients.client.Client.status`."""
        found = yield from self._get_status(asked)
        return tuple(sorted(found, key=lambda status: -status.version))

    @abstractmethod
    def reload_config(self, asked: Asked, config: Any) -> Steps[None]:
        """See `tfserving.clients.client.Client.reload_config`."""

    def wait_until_available(self, asked: Asked, timeout: float) -> Steps[int]:
        """See `tfserving.clients.client.Client.wait_until_available`."""
        return wait_until_available(asked, timeout, self.status, self.metadata)

    @abstractmethod
    def _predict(self, asked: Asked, arrays: Mapping[str, Array], outputs: tuple[str, ...]) -> Steps[Prediction]: ...

    @abstractmethod
    def _classify(self, asked: Asked, examples: Examples) -> Steps[Classification]: ...

    @abstractmethod
    def _regress(self, asked: Asked, examples: Examples) -> Steps[Regression]: ...

    @abstractmethod
    def _multi_inference(
        self, asked: Asked, tasks: Mapping[str, Task], examples: Examples
    ) -> Steps[dict[str, Classification | Regression]]: ...

    @abstractmethod
    def _get_metadata(self, asked: Asked) -> Steps[Metadata]: ...

    @abstractmethod
    def _get_status(self, asked: Asked) -> Steps[list[VersionStatus]]: ...

    def _ask(self, asked: Asked, path: str, body: bytes | None = None, *, repeatable: bool = True) -> Steps[bytes]:
        return self._asking(Ask(path, body, asked.call, asked.deadline, asked.metadata, repeatable))


def classification(
    call: Call, version: int | None, rows: Sequence[Sequence[tuple[str, float]]], signature: str | None = None
) -> Classification:
    """The answer whose examples have the classes in `rows`. Raises Internal when not all have as many."""
    try:
        labels, scores = class_arrays(rows)
    except ValueError as error:
        raise Internal(f"the answer can't be read: {error}", call) from None
    return Classification(call.model, version, signature or call.signature or DEFAULT_SIGNATURE, labels, scores)


def _examples(asked: Asked, examples: Iterable[ExampleLike], context: ExampleLike | None) -> Examples:
    try:
        return read_examples(examples, context)
    except ValueError as error:
        raise InvalidArgument(str(error), asked.call) from None

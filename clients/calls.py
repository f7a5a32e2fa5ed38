"""The calls that both protocols know: what they do before they ask, between two questions, and when they are refused.

Nothing here waits: every call is a generator of steps, which a client runs, blocking or on an event loop.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias

from tfserving.clients.answers import Classification, Metadata, Prediction, Regression, Signature, VersionStatus
from tfserving.clients.errors import (
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
from tfserving.clients.inputs import Inputs, mismatches, needs_signature, to_arrays
from tfserving.clients.steps import Ask, Asking, Pause, Retries, Steps
from tfserving.foundation.examples import ExampleLike, Examples, class_arrays, read_examples
from tfserving.foundation.tensors import STRING, Array

DEFAULT_SIGNATURE = "serving_default"
# One question of `wait_until_available` may not use up all its time: the server behind an address can change.
POLL_TIMEOUT = 5.0
LONGEST_PAUSE = 0.5
# Servers that explain themselves do it so: the embedded one, and this client where it refuses by itself.
_EXPLAINED = re.compile(r"(^|; )(inputs\[|inputs sent|model '|no model)")
_METADATA_NAME, _METADATA_VALUE = re.compile(r"[0-9A-Za-z_.-]+"), re.compile(r"[ -~]*")
# The signatures in SavedModels that nobody can call.
_INTERNAL_SIGNATURE = "__saved_model_init_op"

Task: TypeAlias = Literal["classify", "regress"]


class Asked(NamedTuple):
    """What one call asks, until when, and what goes along with everything it sends."""

    call: Call
    deadline: float
    metadata: Mapping[str, str] | None = None

    def without_signature(self) -> Asked:
        """The same, of the model as a whole."""
        return self._replace(call=self.call._replace(signature=None))

    @property
    def signature(self) -> str:
        """The name of the signature that is asked for."""
        return self.call.signature or DEFAULT_SIGNATURE


class Calls(ABC):
    """The calls to the server at `server`, over one protocol. Can be used by several threads at once."""

    protocol: str

    def __init__(self, server: str, retries: Retries, metadata: Mapping[str, str]) -> None:
        self.server = server
        wrong = unsendable(metadata)
        if wrong:
            raise ValueError(wrong)
        self._every_calls_metadata = dict(metadata) or None
        self._asking = Asking(retries)
        self._metadata: dict[tuple[str, int | None, str | None], Metadata] = {}

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
        return Asked(call, time.monotonic() + timeout, along)

    def predict(
        self, asked: Asked, inputs: Inputs, outputs: Sequence[str] = (), *, check: bool = False
    ) -> Steps[Prediction]:
        """See `tfserving.clients.client.Client.predict`."""
        if isinstance(outputs, str):
            raise TypeError(f"outputs is a sequence of names, not the str {outputs!r}")
        try:
            arrays = yield from self._arrays(asked, inputs)
            if check:
                yield from self._check(asked, arrays)
            return (yield from self._predict(asked, arrays, tuple(outputs)))
        except (InvalidArgument, FailedPrecondition, NotFound) as error:
            error.hint = error.hint or (yield from self._hint(error, asked, inputs))
            raise

    def classify(
        self, asked: Asked, examples: Iterable[ExampleLike], context: ExampleLike | None = None, *, check: bool = False
    ) -> Steps[Classification]:
        """See `tfserving.clients.client.Client.classify`."""
        read = _examples(asked, examples, context)
        if check:
            yield from self._check_takes_examples(asked)
        return (yield from self._classify(asked, read))

    def regress(
        self, asked: Asked, examples: Iterable[ExampleLike], context: ExampleLike | None = None, *, check: bool = False
    ) -> Steps[Regression]:
        """See `tfserving.clients.client.Client.regress`."""
        read = _examples(asked, examples, context)
        if check:
            yield from self._check_takes_examples(asked)
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
        found = yield from self._get_metadata(asked.without_signature())
        callable_ones = {
            name: signature for name, signature in sorted(found.signatures.items()) if name != _INTERNAL_SIGNATURE
        }
        found = replace(found, signatures=callable_ones)
        self._metadata[asked.call.model, asked.call.version, asked.call.label] = found
        return found

    def status(self, asked: Asked) -> Steps[tuple[VersionStatus, ...]]:
        """See `tfserving.clients.client.Client.status`."""
        found = yield from self._get_status(asked)
        return tuple(sorted(found, key=lambda status: -status.version))

    @abstractmethod
    def reload_config(self, asked: Asked, config: Any) -> Steps[None]:
        """See `tfserving.clients.client.Client.reload_config`."""

    def wait_until_available(self, asked: Asked, timeout: float) -> Steps[int]:
        """See `tfserving.clients.client.Client.wait_until_available`."""
        seen, pause = "nothing was heard from it", 0.02
        while True:
            remaining = asked.deadline - time.monotonic()
            try:
                if remaining > 0:
                    once = asked._replace(deadline=time.monotonic() + min(remaining, POLL_TIMEOUT))
                    statuses = yield from self.status(once._replace(call=asked.call._replace(version=None, label=None)))
                    seen = ", ".join(map(str, statuses)) or "it has no version"
                    available = available_version(statuses, asked.call)
                    if available is not None and asked.call.label is None:
                        return available
                    if available is not None:
                        # What a label means, only a request that uses it tells.
                        return (yield from self.metadata(once)).version
            except DeadlineExceeded:
                # Says less than what was seen before.
                pass
            except (Unavailable, NotFound) as error:
                seen = f"{error.code}: {error.text}"
            except (InvalidArgument, FailedPrecondition) as error:
                if asked.call.label is None:
                    raise
                seen = f"{seen}; {error.code}: {error.text}"
            remaining = asked.deadline - time.monotonic()
            if remaining <= 0:
                raise DeadlineExceeded(f"not available after {timeout:g} s; last seen of it: {seen}", asked.call)
            yield Pause(min(pause, remaining))
            pause = min(pause * 1.5, LONGEST_PAUSE)

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

    def _arrays(self, asked: Asked, inputs: Inputs) -> Steps[dict[str, Array]]:
        signature = None
        if needs_signature(inputs):
            signature, cached = yield from self._signature(asked)
            if cached and isinstance(inputs, Mapping) and set(inputs) != set(signature.inputs):
                # Perhaps a newer version's.
                signature, _ = yield from self._signature(asked, fresh=True)
        try:
            return to_arrays(inputs, asked.signature, signature)
        except ValueError as error:
            raise InvalidArgument(str(error), asked.call) from None

    def _check(self, asked: Asked, arrays: Mapping[str, Array], *, shapes: bool = True) -> Steps[Signature]:
        """The signature that is asked for; refuses arrays that don't fit it, after it was asked for anew."""
        signature, known = yield from self._signature(asked)
        wrong = mismatches(arrays, asked.signature, signature, shapes=shapes)
        if wrong and known:
            signature, _ = yield from self._signature(asked, fresh=True)
            wrong = mismatches(arrays, asked.signature, signature, shapes=shapes)
        if wrong:
            raise InvalidArgument("; ".join(wrong), asked.call)
        return signature

    def _check_takes_examples(self, asked: Asked) -> Steps[None]:
        signature, known = yield from self._signature(asked)
        if known and not _takes_examples(signature):
            signature, _ = yield from self._signature(asked, fresh=True)
        if not _takes_examples(signature):
            wants = ", ".join(f"{name!r}: {info}" for name, info in signature.inputs.items()) or "no inputs"
            text = (
                f"signature {asked.signature!r} takes no tf.Examples, which are one input of strings; it wants {wants}"
            )
            raise InvalidArgument(text, asked.call)

    def _signature(self, asked: Asked, *, fresh: bool = False) -> Steps[tuple[Signature, bool]]:
        """The signature that is asked for, and whether it was known from an earlier call.

        Raises FailedPrecondition when the model, asked anew, doesn't have it.
        """
        name, call = asked.signature, asked.call
        known = self._metadata.get((call.model, call.version, call.label))
        if known and name in known.signatures and not fresh:
            return known.signatures[name], True
        found = yield from self.metadata(asked)
        if name not in found.signatures:
            raise FailedPrecondition(f"Serving signature key {name!r} not found.", call, _signatures(name, found))
        return found.signatures[name], False

    def _hint(self, error: ServingError, asked: Asked, inputs: Inputs) -> Steps[str]:
        """What the server's metadata says about why it refused a call.

        Nothing when the error says it itself, or when the reason is not one that metadata shows.
        """
        call = asked.call
        if time.monotonic() >= asked.deadline or _EXPLAINED.search(error.text):
            return ""
        try:
            if isinstance(error, NotFound):
                every_version = asked._replace(call=Call(call.protocol, call.server, call.model))
                known = ", ".join(map(str, (yield from self.status(every_version))))
                return f"the server's versions of {call.model}: {known}"
            signature, _ = yield from self._signature(asked, fresh=True)
            return "\n".join(mismatches(to_arrays(inputs, asked.signature, signature), asked.signature, signature))
        except FailedPrecondition as missing:
            return missing.hint
        except NotFound:
            return f"{call.server} serves no model called {call.model!r}" if isinstance(error, NotFound) else ""
        except (ServingError, ValueError):
            return ""


def unsendable(metadata: Mapping[str, str]) -> str:
    """What in `metadata` neither gRPC nor HTTP can carry; nothing if they can.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests
    """
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(name) or name.lower().endswith("-bin"):
            return f"metadata can't be called {name!r}: letters, digits and _-. make its name, which -bin doesn't end"
        if not (isinstance(value, str) and _METADATA_VALUE.fullmatch(value)):
            return f"metadata {name!r} can't be sent: its value is printable ASCII"
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


def _takes_examples(signature: Signature) -> bool:
    return [info.dtype for info in signature.inputs.values()] == [STRING.name]


def _signatures(name: str, metadata: Metadata) -> str:
    names = ", ".join(metadata.signatures) or "none"
    return f"{metadata.model} version {metadata.version} has no signature {name!r}; it has {names}"

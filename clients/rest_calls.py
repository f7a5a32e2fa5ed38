"""The calls as REST carries them: TensorFlow Serving's HTTP API.

Answers don't say which version gave them, so a prediction's `version` is the one asked for. Their numbers become what
the metadata says, which is asked once for each model, version and label, and again when an answer doesn't fit it. A
model whose newest version changes only an output's float type is decoded as before: pin the version there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from tfserving.clients.answers import (
    Classification,
    Metadata,
    Prediction,
    Regression,
    Signature,
    VersionStatus,
)
from tfserving.clients.asked import Asked
from tfserving.clients.calls import Calls, Task, classification
from tfserving.clients.errors import Call, Internal, InvalidArgument, ResourceExhausted, Unimplemented
from tfserving.clients.limits import BYTES_PER_VALUE, RAISE_IT, description_bytes
from tfserving.clients.rest_answers import read_classes, read_metadata, read_status, read_values
from tfserving.clients.rest_json import MisfitError, examples_request, outputs_of, parse, predict_request
from tfserving.clients.steps import Steps
from tfserving.foundation.examples import Examples
from tfserving.foundation.tensors import Array

Results = TypeVar("Results")


class RestCalls(Calls):
    """The calls over REST."""

    protocol = "rest"

    def reload_config(self, asked: Asked, config: Any) -> Steps[None]:  # noqa: ARG002 - whatever it is
        """TensorFlow Serving takes a config over gRPC alone."""
        raise Unimplemented("TensorFlow Serving's REST API can't reload a config, gRPC can", asked.call)

    def _predict(self, asked: Asked, arrays: Mapping[str, Array], outputs: tuple[str, ...]) -> Steps[Prediction]:
        # Names and element types are compared here because JSON would hide them: the server ignores names it doesn't
        # know, and can't see what type a number had. Shapes it checks by itself.
        signature = yield from self._signatures.check(asked, arrays, shapes=False)
        call, name = asked.call, asked.signature
        _check_outputs(outputs, signature, call)
        try:
            body = predict_request(name, arrays)
        except TypeError as error:
            raise Unimplemented(str(error), call) from None
        answer = yield from self._json(asked, model_path(call) + ":predict", body)
        try:
            decoded = outputs_of(answer, signature)
        except (MisfitError, RecursionError):
            signature, _ = yield from self._signatures.find(asked, fresh=True)
            try:
                decoded = outputs_of(answer, signature, shapes=False)
            except (MisfitError, RecursionError) as error:
                raise Internal(f"the answer does not fit its signature: {error}", call) from None
        chosen = {output: decoded[output] for output in sorted(outputs or decoded)}
        return Prediction(call.model, call.version, name, chosen)

    def _classify(self, asked: Asked, examples: Examples) -> Steps[Classification]:
        rows = yield from self._results("classify", asked, examples, read_classes)
        return classification(asked.call, asked.call.version, rows)

    def _regress(self, asked: Asked, examples: Examples) -> Steps[Regression]:
        values = yield from self._results("regress", asked, examples, read_values)
        return Regression(asked.call.model, asked.call.version, asked.signature, values)

    def _multi_inference(
        self,
        asked: Asked,
        tasks: Mapping[str, Task],  # noqa: ARG002 - whatever they are
        examples: Examples,  # noqa: ARG002
    ) -> Steps[dict[str, Classification | Regression]]:
        raise Unimplemented("TensorFlow Serving's REST API has no multi-inference, gRPC has", asked.call)

    def _results(self, verb: str, asked: Asked, examples: Examples, read: Callable[[Any], Results]) -> Steps[Results]:
        body = examples_request(asked.signature, examples)
        answer = yield from self._json(asked, f"{model_path(asked.call)}:{verb}", body)
        return _read("answer", lambda: read(answer), asked.call)

    def _get_metadata(self, asked: Asked) -> Steps[Metadata]:
        answer = yield from self._json(asked, model_path(asked.call) + "/metadata", description=True)
        return _read("metadata", lambda: read_metadata(answer, asked.call.model), asked.call)

    def _get_status(self, asked: Asked) -> Steps[list[VersionStatus]]:
        answer = yield from self._json(asked, model_path(asked.call), description=True)
        return _read("status", lambda: read_status(answer), asked.call)

    def _json(self, asked: Asked, path: str, body: bytes | None = None, *, description: bool = False) -> Steps[Any]:
        """The JSON that the server answers; a `description` of a model is smaller than what the model computed."""
        answer = yield from self._ask(asked, path, body)
        most = description_bytes(self._largest) if description else self._largest
        values = answer.count(b",") + answer.count(b"[") + answer.count(b"{")
        if len(answer) > most or values > most // BYTES_PER_VALUE:
            raise ResourceExhausted(
                f"the response is too large: it has {len(answer)} bytes and {values} values, the limits are {most} and "
                f"{most // BYTES_PER_VALUE}",
                asked.call,
                RAISE_IT,
            )
        return _read("answer", lambda: parse(answer), asked.call, "is no JSON")


def _read(what: str, read: Callable[[], Results], call: Call, wrong: str = "can't be read") -> Results:
    try:
        return read()
    except (ValueError, RecursionError, MemoryError) as error:
        raise Internal(f"the {what} {wrong}: {str(error) or type(error).__name__}", call) from None


def model_path(call: Call) -> str:
    """The path of the model, version or label that `call` asks."""
    path = f"/v1/models/{quote(call.model, safe='')}"
    if call.version is not None:
        return f"{path}/versions/{call.version}"
    if call.label is not None:
        return f"{path}/labels/{quote(call.label, safe='')}"
    return path


def _check_outputs(outputs: tuple[str, ...], signature: Signature, call: Call) -> None:
    """Refuses what gRPC's output filter refuses; REST has no such filter, its answers hold every output."""
    for position, output in enumerate(outputs):
        if output not in signature.outputs:
            known = ", ".join(signature.outputs)
            raise InvalidArgument(f"outputs[{position}] is {output!r}, the signature's outputs are {known}", call)
        if output in outputs[:position]:
            raise InvalidArgument(f"outputs has {output!r} twice", call)

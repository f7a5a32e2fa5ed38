"""The calls over REST: TensorFlow Serving's HTTP API.

Responses don't contain the version, so a prediction's `version` is the requested one. Numbers get the dtypes in the
model's metadata, which is requested once for each model, version and label, and again when a response doesn't match it.
A new version that changes only the float type of an output goes unnoticed: select the version there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from tfserving.clients.call_options import CallOptions
from tfserving.clients.calls import Calls, Task, classification
from tfserving.clients.errors import Call, Internal, InvalidArgument, ResourceExhausted, Unimplemented
from tfserving.clients.limits import BYTES_PER_VALUE, RAISE_IT, description_bytes
from tfserving.clients.rest_json import MisfitError, examples_request, outputs_of, parse, predict_request
from tfserving.clients.rest_responses import read_classes, read_metadata, read_status, read_values
from tfserving.clients.results import (
    Classification,
    Metadata,
    Prediction,
    Regression,
    Signature,
    VersionStatus,
)
from tfserving.clients.steps import Steps
from tfserving.foundation.examples import Examples
from tfserving.foundation.tensors import Array

Results = TypeVar("Results")


class RestCalls(Calls):
    """The calls over REST."""

    protocol = "rest"

    def reload_config(self, options: CallOptions, config: Any) -> Steps[None]:  # noqa: ARG002 - of any kind
        """TensorFlow Serving accepts a config over gRPC only."""
        raise Unimplemented("TensorFlow Serving's REST API can't reload a config; use gRPC", options.call)

    def _predict(
        self, options: CallOptions, arrays: Mapping[str, Array], outputs: tuple[str, ...]
    ) -> Steps[Prediction]:
        # Names and dtypes are compared here because JSON would hide them: the server ignores unknown names, and JSON
        # has no dtypes. The server checks shapes.
        signature = yield from self._signatures.check(options, arrays, shapes=False)
        call, name = options.call, options.signature
        _check_outputs(outputs, signature, call)
        try:
            body = predict_request(name, arrays)
        except TypeError as error:
            raise Unimplemented(str(error), call) from None
        response = yield from self._json(options, model_path(call) + ":predict", body)
        try:
            decoded = outputs_of(response, signature)
        except (MisfitError, RecursionError):
            signature, _ = yield from self._signatures.find(options, fresh=True)
            try:
                decoded = outputs_of(response, signature, shapes=False)
            except (MisfitError, RecursionError) as error:
                raise Internal(f"the response doesn't match the signature: {error}", call) from None
        chosen = {output: decoded[output] for output in sorted(outputs or decoded)}
        return Prediction(call.model, call.version, name, chosen)

    def _classify(self, options: CallOptions, examples: Examples) -> Steps[Classification]:
        rows = yield from self._results("classify", options, examples, read_classes)
        return classification(options.call, options.call.version, rows)

    def _regress(self, options: CallOptions, examples: Examples) -> Steps[Regression]:
        values = yield from self._results("regress", options, examples, read_values)
        return Regression(options.call.model, options.call.version, options.signature, values)

    def _multi_inference(
        self,
        options: CallOptions,
        tasks: Mapping[str, Task],  # noqa: ARG002 - of any kind
        examples: Examples,  # noqa: ARG002
    ) -> Steps[dict[str, Classification | Regression]]:
        raise Unimplemented("TensorFlow Serving's REST API has no multi-inference; use gRPC", options.call)

    def _results(
        self, verb: str, options: CallOptions, examples: Examples, read: Callable[[Any], Results]
    ) -> Steps[Results]:
        body = examples_request(options.signature, examples)
        response = yield from self._json(options, f"{model_path(options.call)}:{verb}", body)
        return _read("response", lambda: read(response), options.call)

    def _get_metadata(self, options: CallOptions) -> Steps[Metadata]:
        response = yield from self._json(options, model_path(options.call) + "/metadata", description=True)
        return _read("metadata", lambda: read_metadata(response, options.call.model), options.call)

    def _get_status(self, options: CallOptions, received: dict[str, str]) -> Steps[list[VersionStatus]]:
        response = yield from self._json(options, model_path(options.call), description=True, received=received)
        return _read("status", lambda: read_status(response), options.call)

    def _json(
        self,
        options: CallOptions,
        path: str,
        body: bytes | None = None,
        *,
        description: bool = False,
        received: dict[str, str] | None = None,
    ) -> Steps[Any]:
        """Return the JSON of the response. A `description` of a model has a lower limit than outputs."""
        response = yield from self._send(options, path, body, received=received)
        most = description_bytes(self._largest) if description else self._largest
        values = response.count(b",") + response.count(b"[") + response.count(b"{")
        if len(response) > most or values > most // BYTES_PER_VALUE:
            raise ResourceExhausted(
                f"the response is too large: it has {len(response)} bytes and {values} values, "
                f"the limits are {most} and {most // BYTES_PER_VALUE}",
                options.call,
                RAISE_IT,
            )
        try:
            return _read("response", lambda: parse(response), options.call, "is not JSON")
        except Internal as error:
            error.hint = f"check that {options.call.server} is the REST port of a model server"
            raise


def _read(what: str, read: Callable[[], Results], call: Call, wrong: str = "can't be read") -> Results:
    try:
        return read()
    except (ValueError, RecursionError, MemoryError) as error:
        raise Internal(f"the {what} {wrong}: {str(error) or type(error).__name__}", call) from None


def model_path(call: Call) -> str:
    """Return the path of the model, version or label of `call`."""
    path = f"/v1/models/{quote(call.model, safe='')}"
    if call.version is not None:
        return f"{path}/versions/{call.version}"
    if call.label is not None:
        return f"{path}/labels/{quote(call.label, safe='')}"
    return path


def _check_outputs(outputs: tuple[str, ...], signature: Signature, call: Call) -> None:
    """Reject what gRPC's output filter rejects. REST has no such filter, its responses hold every output."""
    for position, output in enumerate(outputs):
        if output not in signature.outputs:
            known = ", ".join(signature.outputs)
            raise InvalidArgument(f"outputs[{position}]: got {output!r}, the signature has {known}", call)
        if output in outputs[:position]:
            raise InvalidArgument(f"outputs contains {output!r} twice", call)

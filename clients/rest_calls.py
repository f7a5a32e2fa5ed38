"""The calls as REST carries them: TensorFlow Serving's HTTP API.

Answers don't say which version gave them, so a prediction's `version` is the one asked for. Their numbers become what
the metadata says, which is asked once for each model, version and label, and again when an answer doesn't fit it. A
model whose newest version changes only an output's float type is decoded as before: pin the version there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from tfserving.clients.answers import (
    Classification,
    Metadata,
    Prediction,
    Regression,
    Signature,
    TensorInfo,
    VersionStatus,
)
from tfserving.clients.asked import Asked
from tfserving.clients.calls import Calls, Task, classification
from tfserving.clients.errors import Call, Internal, InvalidArgument, Unimplemented
from tfserving.clients.rest_json import MisfitError, examples_request, outputs_of, parse, predict_request
from tfserving.clients.steps import Steps
from tfserving.foundation.examples import Examples
from tfserving.foundation.tensors import BY_WIRE_NAME, Array


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
        except MisfitError:
            signature, _ = yield from self._signatures.find(asked, fresh=True)
            try:
                decoded = outputs_of(answer, signature, shapes=False)
            except MisfitError as error:
                raise Internal(f"the answer does not fit its signature: {error}", call) from None
        chosen = {output: decoded[output] for output in sorted(outputs or decoded)}
        return Prediction(call.model, call.version, name, chosen)

    def _classify(self, asked: Asked, examples: Examples) -> Steps[Classification]:
        results = yield from self._results("classify", asked, examples)
        try:
            rows = [[(str(label), float(score)) for label, score in row] for row in results]
        except (TypeError, ValueError) as error:
            raise Internal(f"the answer can't be read: {error}", asked.call) from None
        return classification(asked.call, asked.call.version, rows)

    def _regress(self, asked: Asked, examples: Examples) -> Steps[Regression]:
        results = yield from self._results("regress", asked, examples)
        try:
            values = np.array(results, np.float32).reshape(len(results))
        except (TypeError, ValueError) as error:
            raise Internal(f"the answer can't be read: {error}", asked.call) from None
        return Regression(asked.call.model, asked.call.version, asked.signature, values)

    def _multi_inference(
        self,
        asked: Asked,
        tasks: Mapping[str, Task],  # noqa: ARG002 - whatever they are
        examples: Examples,  # noqa: ARG002
    ) -> Steps[dict[str, Classification | Regression]]:
        raise Unimplemented("TensorFlow Serving's REST API has no multi-inference, gRPC has", asked.call)

    def _results(self, verb: str, asked: Asked, examples: Examples) -> Steps[Any]:
        body = examples_request(asked.signature, examples)
        answer = yield from self._json(asked, f"{model_path(asked.call)}:{verb}", body)
        if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
            raise Internal("the answer has no list under 'results'", asked.call)
        return answer["results"]

    def _get_metadata(self, asked: Asked) -> Steps[Metadata]:
        answer = yield from self._json(asked, model_path(asked.call) + "/metadata")
        try:
            definitions = answer["metadata"]["signature_def"]["signature_def"]
            return Metadata(
                model=asked.call.model,
                version=int(answer["model_spec"]["version"]),
                signatures={name: _signature(definition) for name, definition in definitions.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Internal(f"the metadata can't be read: {type(error).__name__}: {error}", asked.call) from None

    def _get_status(self, asked: Asked) -> Steps[list[VersionStatus]]:
        answer = yield from self._json(asked, model_path(asked.call))
        try:
            return [
                VersionStatus(
                    version=int(status["version"]),
                    state=str(status["state"]),
                    code=str(status["status"]["error_code"]),
                    message=str(status["status"]["error_message"]),
                )
                for status in answer["model_version_status"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise Internal(f"the status can't be read: {type(error).__name__}: {error}", asked.call) from None

    def _json(self, asked: Asked, path: str, body: bytes | None = None) -> Steps[Any]:
        """The JSON that the server answers."""
        answer = yield from self._ask(asked, path, body)
        try:
            return parse(answer)
        except ValueError as error:
            raise Internal(f"the answer is no JSON: {error}", asked.call) from None


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


def _signature(definition: Mapping[str, Any]) -> Signature:
    return Signature(
        method=str(definition["method_name"]),
        inputs={name: _info(info) for name, info in sorted(definition["inputs"].items())},
        outputs={name: _info(info) for name, info in sorted(definition["outputs"].items())},
        optional=frozenset(definition.get("defaults", ())),
    )


def _info(info: Mapping[str, Any]) -> TensorInfo:
    shape, wire_name = info["tensor_shape"], str(info["dtype"])
    sizes = (int(dim["size"]) for dim in shape["dim"])
    return TensorInfo(
        dtype=BY_WIRE_NAME[wire_name].name if wire_name in BY_WIRE_NAME else wire_name.removeprefix("DT_").lower(),
        shape=None if shape["unknown_rank"] else tuple(None if size < 0 else size for size in sizes),
    )

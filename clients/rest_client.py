"""The REST client: TensorFlow Serving's HTTP API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np

from clients.answers import (
    Classification,
    Metadata,
    Prediction,
    Regression,
    Signature,
    TensorInfo,
    VersionStatus,
)
from clients.client import DEFAULT_SIGNATURE, Client, classification, remaining_seconds
from clients.errors import (
    Call,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ServingError,
    Unavailable,
    Unimplemented,
    from_http,
)
from clients.examples import Examples
from clients.inputs import mismatches
from clients.rest_json import MisfitError, examples_request, outputs_of, parse, predict_request
from clients.tensors import BY_WIRE_NAME, Array


class RestClient(Client):
    """Calls to the server at `url`, `http://HOST:PORT`, over REST.

    Answers don't say which version gave them, so a prediction's `version` is the one asked for. Their numbers become
    what the metadata says, which is asked once for each model, version and label, and again when an answer doesn't fit
    it. A model whose newest version changes only an output's float type is decoded as before: pin the version there.
    """

    protocol = "rest"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._http = httpx2.Client(trust_env=False, headers={"content-type": "application/json"})

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _predict(
        self, call: Call, arrays: Mapping[str, Array], outputs: tuple[str, ...], deadline: float
    ) -> Prediction:
        name = call.signature or DEFAULT_SIGNATURE
        signature = self._fitting_signature(call, arrays, deadline)
        _check_outputs(outputs, signature, call)
        try:
            body = predict_request(name, arrays)
        except TypeError as error:
            raise Unimplemented(str(error), call) from None
        answer = self._ask("POST", _path(call) + ":predict", call, deadline, body)
        try:
            decoded = outputs_of(answer, signature)
        except MisfitError:
            signature, _ = self._signature(call, deadline, fresh=True)
            try:
                decoded = outputs_of(answer, signature, shapes=False)
            except MisfitError as error:
                raise Internal(f"the answer does not fit its signature: {error}", call) from None
        chosen = {output: decoded[output] for output in sorted(outputs or decoded)}
        return Prediction(call.model, call.version, name, chosen)

    def _classify(self, call: Call, examples: Examples, deadline: float) -> Classification:
        results = self._results("classify", call, examples, deadline)
        try:
            rows = [[(str(label), float(score)) for label, score in row] for row in results]
        except (TypeError, ValueError) as error:
            raise Internal(f"the answer can't be read: {error}", call) from None
        return classification(call, call.version, rows)

    def _regress(self, call: Call, examples: Examples, deadline: float) -> Regression:
        results = self._results("regress", call, examples, deadline)
        try:
            values = np.array(results, np.float32).reshape(len(results))
        except (TypeError, ValueError) as error:
            raise Internal(f"the answer can't be read: {error}", call) from None
        return Regression(call.model, call.version, call.signature or DEFAULT_SIGNATURE, values)

    def _results(self, verb: str, call: Call, examples: Examples, deadline: float) -> Any:
        body = examples_request(call.signature or DEFAULT_SIGNATURE, examples)
        answer = self._ask("POST", f"{_path(call)}:{verb}", call, deadline, body)
        if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
            raise Internal("the answer has no list under 'results'", call)
        return answer["results"]

    def _fitting_signature(self, call: Call, arrays: Mapping[str, Array], deadline: float) -> Signature:
        """The signature that `call` asks for, asked again when `arrays` don't fit the one that is known.

        Names and element types are compared here because JSON would hide them: the server ignores names it doesn't
        know, and can't see what type a number had. Shapes it checks by itself.
        """
        name = call.signature or DEFAULT_SIGNATURE
        signature, known = self._signature(call, deadline)
        wrong = mismatches(arrays, name, signature, shapes=False)
        if wrong and known:
            signature, _ = self._signature(call, deadline, fresh=True)
            wrong = mismatches(arrays, name, signature, shapes=False)
        if wrong:
            raise InvalidArgument("; ".join(wrong), call)
        return signature

    def _get_metadata(self, call: Call, deadline: float) -> Metadata:
        answer = self._ask("GET", _path(call) + "/metadata", call, deadline)
        try:
            definitions = answer["metadata"]["signature_def"]["signature_def"]
            return Metadata(
                model=call.model,
                version=int(answer["model_spec"]["version"]),
                signatures={name: _signature(definition) for name, definition in definitions.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Internal(f"the metadata can't be read: {type(error).__name__}: {error}", call) from None

    def _get_status(self, call: Call, deadline: float) -> list[VersionStatus]:
        answer = self._ask("GET", _path(call), call, deadline)
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
            raise Internal(f"the status can't be read: {type(error).__name__}: {error}", call) from None

    def _ask(self, method: str, path: str, call: Call, deadline: float, body: bytes | None = None) -> Any:
        """The JSON that the server answers."""
        try:
            status, answer = self._exchange(method, path, call, deadline, body)
        except httpx2.TimeoutException:
            raise DeadlineExceeded("no answer came within the timeout", call) from None
        except httpx2.TransportError as error:
            raise _unreachable(error, call) from None
        if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's successes
            raise from_http(status, answer, call)
        try:
            return parse(answer)
        except ValueError as error:
            raise Internal(f"the answer is no JSON: {error}", call) from None

    def _exchange(self, method: str, path: str, call: Call, deadline: float, body: bytes | None) -> tuple[int, bytes]:
        """Status and body of the answer, read in pieces: HTTP timeouts count from the last one, ours from the start."""
        timeout = remaining_seconds(deadline, call)
        with self._http.stream(method, self.server + path, content=body, timeout=timeout) as response:
            pieces = []
            for piece in response.iter_bytes():
                if time.monotonic() > deadline:
                    raise DeadlineExceeded("the answer was not complete within the timeout", call)
                pieces.append(piece)
            return response.status_code, b"".join(pieces)


def _unreachable(error: httpx2.TransportError, call: Call) -> ServingError:
    if isinstance(error, httpx2.ConnectError):
        hint = f"nobody answers HTTP on {call.server}; is the server running, with --rest_api_port set to this port?"
        return Unavailable(f"failed to connect: {error}", call, hint)
    hint = ""
    if isinstance(error, httpx2.RemoteProtocolError):
        hint = f"is {call.server} the server's REST port, not its gRPC port?"
    return Unavailable(f"the connection broke: {error}", call, hint)


def _path(call: Call) -> str:
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

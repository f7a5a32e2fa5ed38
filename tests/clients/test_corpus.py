"""The client against a real TensorFlow Serving's recorded answers: tests/conformance/README.md.

Whatever of the recorded requests the client's calls can express is asked through them. What goes out is compared with
the recorded request as messages, and what comes of the recorded answer with what it holds.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

from tests.clients.test_errors import Refused
from tfserving.clients import Client, Retries
from tfserving.clients.calls import Calls
from tfserving.clients.errors import Internal, ServingError, from_grpc, from_http
from tfserving.clients.grpc_calls import GrpcCalls
from tfserving.clients.rest_calls import RestCalls
from tfserving.clients.steps import Request
from tfserving.foundation.messages import message
from tfserving.foundation.tensors import BY_WIRE_NAME, Array, from_proto

PUBLIC = Path(__file__).parents[1] / "conformance/public"
ONCE = Retries(attempts=1)


def exchanges(kind: str) -> Iterator[dict[str, Any]]:
    for path in sorted(PUBLIC.glob("*.jsonl")):
        for line in path.read_text().splitlines()[1:]:
            exchange = json.loads(line)
            if exchange["kind"] == kind:
                yield exchange


METHODS = ("tensorflow/serving/classify", "tensorflow/serving/regress")


class Recorded:
    """A transport whose server answers what was recorded."""

    def __init__(self, answer: Callable[[Request], bytes]) -> None:
        self._answer = answer
        self.asked: list[Request] = []

    def send(self, request: Request) -> bytes:
        self.asked.append(request)
        return self._answer(request)

    def close(self) -> None:
        pass


def client(calls: Calls, answer: Callable[[Request], bytes]) -> tuple[Client, Recorded]:
    transport = Recorded(answer)
    return Client(calls, transport, 10), transport


class TestGrpc:
    """Every recorded request to the services."""

    MESSAGES: ClassVar = {
        "Predict": "Predict",
        "Classify": "Classification",
        "Regress": "Regression",
        "MultiInference": "MultiInference",
        "GetModelMetadata": "GetModelMetadata",
        "GetModelStatus": "GetModelStatus",
        "HandleReloadConfigRequest": "ReloadConfig",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def played(cls) -> Counter[str]:
        """How many requests of each method were expressed, and compared."""
        counts: Counter[str] = Counter()
        for exchange in exchanges("grpc"):
            method = exchange["method"].rsplit("/", 1)[1]
            if method in cls.MESSAGES and "text" in exchange["request"]:
                counts[method if cls().play(method, exchange) else "not expressible"] += 1
        return counts

    def play(self, method: str, exchange: dict[str, Any]) -> bool:
        name = f"tensorflow.serving.{self.MESSAGES[method]}"
        wanted = text_format.Parse(exchange["request"]["text"], message(f"{name}Request")())
        response = exchange["response"]

        def answer(request: Request) -> bytes:
            if response["code"] != "OK":
                raise from_grpc(Refused(grpc.StatusCode[response["code"]], response["details"]), request.call)
            return base64.b64decode(response["b64"])

        asking, transport = client(GrpcCalls("server", ONCE, {}), answer)
        call = self.expressed(method, wanted, asking)
        if call is None:
            return False
        got = outcome(call)
        if not isinstance(got, ServingError):
            assert response["code"] == "OK", exchange["id"]
            self.compare(method, got, message(f"{name}Response").FromString(base64.b64decode(response["b64"])))
        elif response["code"] != "OK":
            assert got.code == response["code"], exchange["id"]
            assert got.text == (response["details"] or "the server gave no reason"), exchange["id"]
        else:
            assert method == "HandleReloadConfigRequest" or unreadable(response), (exchange["id"], got)
        sent = next(request for request in transport.asked if request.path == exchange["method"])
        assert same_request(message(f"{name}Request").FromString(sent.body), wanted), exchange["id"]
        return True

    def expressed(self, method: str, wanted: Any, asking: Client) -> Callable[[], Any] | None:
        """The call that sends `wanted`; None when there is none."""
        if method == "HandleReloadConfigRequest":
            return None if wanted.metric_names else lambda: asking.reload_config(wanted.config)
        spec = wanted.tasks[0].model_spec if method == "MultiInference" and wanted.tasks else None
        spec = spec or getattr(wanted, "model_spec", None)
        if spec is None or not spec.name:
            return None
        pinned: dict[str, Any] = {"version": spec.version.value if spec.HasField("version") else None}
        pinned["label"] = spec.version_label if spec.HasField("version_label") else None
        if method == "GetModelStatus":
            plain = pinned.pop("label") is None and not spec.signature_name
            return (lambda: asking.status(spec.name, **pinned)) if plain else None
        if method == "GetModelMetadata":
            plain = list(wanted.metadata_field) == ["signature_def"] and not spec.signature_name
            return (lambda: asking.metadata(spec.name, **pinned)) if plain else None
        if method == "Predict":
            return self.predict(wanted, asking, pinned)
        examples = self.examples(wanted.input)
        if examples is None:
            return None
        if method == "MultiInference":
            tasks = {task.model_spec.signature_name: task.method_name.rsplit("/", 1)[-1] for task in wanted.tasks}
            methods = {task.method_name for task in wanted.tasks}
            models = {
                (it.name, it.version.value, it.version_label) for it in (task.model_spec for task in wanted.tasks)
            }
            if len(tasks) < len(wanted.tasks) or len(models) > 1 or methods - set(METHODS):
                return None
            return lambda: asking.multi_inference(spec.name, tasks, **examples, **pinned)
        verb = asking.classify if method == "Classify" else asking.regress
        return lambda: verb(spec.name, **examples, signature=spec.signature_name, **pinned)

    def predict(self, wanted: Any, asking: Client, pinned: dict[str, Any]) -> Callable[[], Any] | None:
        try:
            arrays = {name: from_proto(tensor) for name, tensor in wanted.inputs.items()}
        except ValueError:
            return None  # no array is such a tensor
        spec = wanted.model_spec
        return lambda: asking.predict(
            spec.name, arrays, signature=spec.signature_name, outputs=list(wanted.output_filter), **pinned
        )

    def examples(self, sent: Any) -> dict[str, Any] | None:
        kind = sent.WhichOneof("kind")
        if kind is None or not getattr(sent, kind).examples:
            return None
        found = getattr(sent, kind)
        context = found.context if kind == "example_list_with_context" else None
        return {"examples": list(found.examples), "context": context}

    def compare(self, method: str, got: Any, wanted: Any) -> None:
        if method == "Predict":
            assert list(got.outputs) == sorted(wanted.outputs)
            for name, array in got.outputs.items():
                same_array(array, from_proto(wanted.outputs[name]))
            assert (got.version, got.signature) == (wanted.model_spec.version.value, wanted.model_spec.signature_name)
        elif method == "Classify":
            rows = [[(it.label, it.score) for it in row.classes] for row in wanted.result.classifications]
            assert got.labels.tolist() == [[label for label, _ in row] for row in rows]
            same_array(got.scores, np.array([[score for _, score in row] for row in rows], np.float32))
        elif method == "Regress":
            same_array(got.values, np.array([it.value for it in wanted.result.regressions], np.float32))
        elif method == "MultiInference":
            for answer, result in zip(got.values(), wanted.results, strict=True):
                assert answer.signature == result.model_spec.signature_name
                if result.HasField("regression_result"):
                    values = [it.value for it in result.regression_result.regressions]
                    same_array(answer.values, np.array(values, np.float32))
        elif method == "GetModelStatus":
            versions = {status.version: status.state for status in got}
            states = type(wanted).DESCRIPTOR.fields_by_name["model_version_status"].message_type.enum_types_by_name
            names = states["State"].values_by_number
            assert versions == {it.version: names[it.state].name for it in wanted.model_version_status}
        elif method == "GetModelMetadata":
            assert got.version == wanted.model_spec.version.value

    def test_nearly_all_can_be_expressed_and_all_that_can_are_equal(self, played: Counter[str]) -> None:
        assert played.total() > 500
        assert played["not expressible"] < 0.2 * played.total(), played

    @pytest.mark.parametrize("method", MESSAGES)
    def test_each_method_is_among_them(self, played: Counter[str], method: str) -> None:
        assert played[method] >= 10


def outcome(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the error that it raises."""
    try:
        return call()
    except ServingError as error:
        return error


def unreadable(response: dict[str, Any]) -> bool:
    """Whether an answer is none of a client's: a label that is not UTF-8, which protobuf refuses."""
    return b"\xff" in base64.b64decode(response["b64"])


def same_array(got: Array, wanted: Array) -> None:
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape or got.size == wanted.size == 0
    if got.dtype == np.object_:
        assert got.tolist() == wanted.tolist()
    else:
        assert got.tobytes() == wanted.tobytes()


def same_request(sent: Any, wanted: Any) -> bool:
    """Whether two requests are one message, tensors compared by what they hold: each can be written in two ways."""
    for name in sorted({*getattr(sent, "inputs", ()), *getattr(wanted, "inputs", ())}):
        if name not in wanted.inputs:
            return False
        same_array(from_proto(sent.inputs[name]), from_proto(wanted.inputs[name]))
        sent.inputs[name].Clear()
        wanted.inputs[name].Clear()
    return bool(sent == wanted)


class TestRest:
    """Recorded requests in the form that the client sends: columns for predict, examples with features."""

    @pytest.fixture(scope="class")
    @classmethod
    def metadata(cls) -> dict[str, bytes]:
        """The newest metadata that was recorded of each model."""
        found = {}
        for exchange in exchanges("rest"):
            path, response = exchange["request"]["path"], exchange["response"]
            parts = path.split("/")
            if response["status"] == 200 and exchange["request"]["method"] == "GET" and path.endswith("/metadata"):
                found[parts[3]] = text_of(response).encode()
        return found

    def test_answers_to_predict_are_the_arrays_they_hold(self, metadata: Mapping[str, bytes]) -> None:
        compared, refused = 0, 0
        for exchange in exchanges("rest"):
            model, _, verb = exchange["request"]["path"].removeprefix("/v1/models/").partition(":")
            if verb != "predict" or model not in metadata or exchange["request"]["method"] != "POST":
                continue
            body = columns(exchange["request"])
            if body is None:
                continue
            signature = body.get("signature_name", "serving_default")
            try:
                asked, got, known = self.predict(metadata[model], model, signature, body["inputs"], exchange)
            except ServingError:
                refused += 1  # it is stricter than the server: values that the type does not hold, say
                continue
            if isinstance(got, ServingError):
                assert got.http_status in (exchange["response"]["status"], 400), exchange["id"]
                continue
            assert json.loads(asked.body or b"")["signature_name"] == signature
            answer = json.loads(text_of(exchange["response"]))["outputs"]
            for name, info in known.items():
                value = answer[name] if len(known) > 1 else answer
                wire = BY_WIRE_NAME[info["dtype"]]
                if wire.name != "string":
                    exact = np.object_ if wire.numpy.kind in "iu" else np.float64
                    same_array(got[name], np.array(value, exact).astype(wire.numpy))
            compared += 1
        assert compared > 60, (compared, refused)

    def predict(
        self, metadata: bytes, model: str, signature: str, inputs: Any, exchange: dict[str, Any]
    ) -> tuple[Request, Any, Any]:
        """What is asked, what comes of the answer, and what the metadata says of the outputs."""

        def answer(request: Request) -> bytes:
            if request.path.endswith("/metadata"):
                return metadata
            response = exchange["response"]
            if response["status"] != 200:
                raise from_http(response["status"], text_of(response).encode(), request.call)
            return text_of(response).encode()

        asking, transport = client(RestCalls("server", ONCE, {}), answer)
        signatures = json.loads(metadata)["metadata"]["signature_def"]["signature_def"]
        got = outcome(lambda: asking.predict(model, inputs, signature=signature).outputs)
        if not any(request.path.endswith(":predict") for request in transport.asked):
            raise got
        assert not isinstance(got, Internal) or exchange["response"]["status"] != 200, (exchange["id"], got)
        asked = transport.asked[-1] if transport.asked[-1].body else transport.asked[-2]
        return asked, got, signatures[signature]["outputs"]

    def test_answers_to_status_are_the_versions_they_hold(self) -> None:
        compared = 0
        for exchange in exchanges("rest"):
            request, response = exchange["request"], exchange["response"]
            parts = request["path"].split("/")
            if request["method"] != "GET" or len(parts) != 4 or response["status"] != 200 or "?" in request["path"]:
                continue
            if parts[:3] != ["", "v1", "models"] or "%" in parts[3] or "model_version_status" not in text_of(response):
                continue
            asking, transport = client(RestCalls("server", ONCE, {}), answering(response))
            versions = [status.version for status in asking.status(parts[3])]
            assert transport.asked[0].path == request["path"]
            wanted = json.loads(text_of(response))["model_version_status"]
            assert versions == sorted((int(it["version"]) for it in wanted), reverse=True)
            compared += 1
        assert compared > 30, compared

    @pytest.mark.parametrize("verb", ["classify", "regress"])
    def test_answers_to_examples_are_the_values_they_hold(self, verb: str) -> None:
        compared = 0
        for exchange in exchanges("rest"):
            request, response = exchange["request"], exchange["response"]
            model, _, asked_verb = request["path"].removeprefix("/v1/models/").partition(":")
            if asked_verb != verb or response["status"] != 200 or "/" in model or "body" not in request:
                continue
            try:
                body = json.loads(request["body"])
            except ValueError:
                continue  # the real server takes more than JSON
            if set(body) - {"signature_name", "examples", "context"} or not plain(body.get("examples")):
                continue
            asking, transport = client(RestCalls("server", ONCE, {}), answering(response))
            results = json.loads(text_of(response))["results"]
            call = asking.classify if verb == "classify" else asking.regress
            got: Any = call(model, body["examples"], signature=body.get("signature_name", "serving_default"))
            if verb == "regress":
                same_array(got.values, np.array(results, np.float32))
            else:
                assert got.labels.tolist() == [[label for label, _ in row] for row in results]
                same_array(got.scores, np.array([[score for _, score in row] for row in results], np.float32))
            assert len(json.loads(transport.asked[0].body or b"")["examples"]) == len(body["examples"])
            compared += 1
        assert compared >= 10, compared


def answering(response: dict[str, Any]) -> Callable[[Request], bytes]:
    return lambda _: text_of(response).encode()


def text_of(response: dict[str, Any]) -> str:
    return str(response["body"]) if "body" in response else base64.b64decode(response["body_b64"]).decode("latin-1")


def columns(request: dict[str, Any]) -> Any:
    """The body of a request in columns; None for another one."""
    try:
        body = json.loads(request["body"])
    except (KeyError, ValueError):
        return None
    if not isinstance(body, dict) or "inputs" not in body or set(body) - {"inputs", "signature_name"}:
        return None
    return body if isinstance(body.get("signature_name", ""), str) else None


def plain(examples: Any) -> bool:
    """Whether all features are numbers, strings or lists of them: no base64."""
    values = [value for example in examples or () for value in example.values()]
    lists = [value if isinstance(value, list) else [value] for value in values]
    return bool(examples) and all(isinstance(one, (int, float, str)) for value in lists for one in value)

"""A hostile or broken server can't hurt a client: its answer is a value or a ServingError, soon, in little memory."""

from __future__ import annotations

import asyncio
import copy
import gzip
import json
import random
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest

from tests.clients.hostile import for_ever, grpc_server, gzip_bomb, head, http_server, whole
from tfserving.clients import Client, Retries, connect, connect_async
from tfserving.clients.errors import (
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    ServingError,
    Unavailable,
)
from tfserving.foundation.messages import (
    ClassificationResponse,
    GetModelMetadataResponse,
    GetModelStatusResponse,
    MultiInferenceResponse,
    PredictResponse,
    RegressionResponse,
    ReloadConfigResponse,
    SignatureDefMap,
    TensorProto,
)
from tfserving.foundation.tensors import to_proto

MOST = 16 << 20
ROWS = np.ones((2, 1), np.float32)
CHUNKED = "transfer-encoding: chunked"
GZIP = "content-encoding: gzip"
JSON_GZIP = gzip.compress(b'{"model_version_status": []}')
# What a server sends for the status of a model, the error it is, and a word of it.
HTTP: dict[str, tuple[Any, type[ServingError], str]] = {
    "a gzip bomb of 4 GB": (whole(gzip_bomb(4 << 30), GZIP), ResourceExhausted, "too large: .* bytes of gzip inflate"),
    "gzip in gzip": (whole(JSON_GZIP, "content-encoding: gzip, gzip"), Internal, "was not requested"),
    "brotli": (whole(b"\x8b\x02\x80{}\x03", "content-encoding: br"), Internal, "content encoding 'br'"),
    "deflate": (whole(zlib.compress(b"{}"), "content-encoding: deflate"), Internal, "content encoding 'deflate'"),
    "gzip that is none": (whole(b"{}", GZIP), Internal, "is not gzip data"),
    "gzip that ends early": (whole(JSON_GZIP[:20], GZIP), Internal, "is truncated"),
    "bytes after gzip's end": (for_ever(bytes(1000), head(GZIP) + JSON_GZIP), Internal, "after the end of its gzip"),
    "a declared petabyte": (head("content-length: 1000000000000000"), ResourceExhausted, "1000000000000000 bytes"),
    "a length of 30 digits": (head("content-length: " + "9" * 30), Unavailable, "broke"),
    "a negative length": (head("content-length: -5") + b"{}", Unavailable, "broke"),
    "two lengths": (head("content-length: 2", "content-length: 3") + b"{}", Unavailable, "broke"),
    "a longer length": (head("content-length: 9") + b"{}", Unavailable, "broke"),
    "a chunk of garbage": (head(CHUNKED) + b"zz\r\n{}\r\n0\r\n\r\n", Unavailable, "broke"),
    "a chunk of exabytes": (for_ever(b"x" * 99999, head(CHUNKED) + b"ffffffffffffff\r\n"), ResourceExhausted, "large"),
    "chunks for ever": (for_ever(b"5\r\n[0,0,\r\n" * 9999, head(CHUNKED)), DeadlineExceeded, "timeout"),
    "bytes for ever": (for_ever(b" " * 99999, head()), ResourceExhausted, "more bytes were received"),
    "a byte now and then": (for_ever(b" ", head(), pause=0.1), DeadlineExceeded, "timeout"),
    "headers for ever": (for_ever(b"x-y: " + b"z" * 999 + b"\r\n", b"HTTP/1.1 200 OK\r\n"), Unavailable, "too long"),
    "a header now and then": (for_ever(b"x", b"HTTP/1.1 200 OK\r\nx: ", pause=0.1), DeadlineExceeded, "timeout"),
    "100 Continue for ever": (for_ever(b"HTTP/1.1 100 Continue\r\n\r\n" * 99), DeadlineExceeded, "timeout"),
    "nothing, for ever": (for_ever(b"", pause=0.1), DeadlineExceeded, "timeout"),
    "an end at once": (b"", Unavailable, "disconnected"),
    "no HTTP": (b"220 mail.example ESMTP\r\n", Unavailable, "broke"),
    "a TLS alert": (b"\x15\x03\x01\0\x02\x02\x46", Unavailable, "https://"),
    "a redirect": (whole(b"", "location: /elsewhere", status="302 Found"), Internal, "HTTP 302"),
    "another protocol": (head("upgrade: h2c", "connection: upgrade", status="101 Switching"), Unavailable, "broke"),
    "an endless error": (for_ever(b"\x1b[2J" * 999, head(status="500 No")), Internal, "HTTP 500"),
    "a bomb of an error": (whole(gzip_bomb(4 << 30), GZIP, status="500 No"), Internal, "HTTP 500"),
    "an empty answer": (whole(b""), Internal, "is not JSON"),
    "lists in lists": (whole(b"[" * 9999), Internal, "is not JSON"),
    "objects in objects": (whole(b'{"a":' * 9999), Internal, "is not JSON"),
    "a number of many digits": (whole(b"9" * 100_000), Internal, "can't be read|is not JSON"),
    "an error that is nested": (whole(b'{"error":' * 60000, status="404 No"), ServingError, "HTTP 404"),
    "more values than its limit lets": (
        whole(b'{"a":[' + b"[]," * 20_000 + b"0]}"),
        ResourceExhausted,
        "40002 values",
    ),
}


@pytest.mark.parametrize("name", HTTP)
def test_an_http_answer_is_an_error_in_time_and_in_little_memory(name: str) -> None:
    send, kind, said = HTTP[name]
    options: dict[str, Any] = {"retries": Retries(attempts=1), "max_response_bytes": MOST}
    options["timeout"] = 0.5 if kind is DeadlineExceeded else 10

    async def asked(url: str) -> None:
        async with connect_async(url, compression="gzip", **options) as client:
            await client.status("m")

    with http_server() as server:
        server.answers[""] = send
        for ask in (
            lambda: connect(server.url, **options).status("m"),
            lambda: asyncio.run(asked(server.url)),
        ):
            tracemalloc.start()
            start = time.monotonic()
            with pytest.raises(kind, match=said) as caught:
                ask()
            assert time.monotonic() - start < 8
            # The server's own memory counts, too.
            assert tracemalloc.get_traced_memory()[1] < 80 << 20
            tracemalloc.stop()
            assert type(caught.value).__module__ == ServingError.__module__
            assert len(str(caught.value)) < 10_000
            assert all(line.isprintable() for line in str(caught.value).splitlines())
        assert not any("elsewhere" in path for path in server.asked)


INFO = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}
SIGNATURE = {"inputs": {"x": INFO}, "outputs": {"y": INFO}, "method_name": "predict", "defaults": {}}
SIGNATURE["outputs"] = {"y": INFO, "t": {**INFO, "dtype": "DT_STRING"}}
METADATA = {
    "model_spec": {"name": "m", "signature_name": "", "version": "3"},
    "metadata": {"signature_def": {"signature_def": {"serving_default": SIGNATURE}}},
}
STATUS = {
    "model_version_status": [
        {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
}
# Calls by the end of their path, and a right answer to each.
CALLS: dict[str, tuple[Callable[[Client], Any], Any]] = {
    "/m": (lambda client: client.status("m"), STATUS),
    "/metadata": (lambda client: client.metadata("m"), METADATA),
    ":predict": (
        lambda client: client.predict("m", {"x": [1.0]}),
        {"outputs": {"y": [1.0, 2], "t": ["a", {"b64": "YQ=="}]}},
    ),
    ":classify": (lambda client: client.classify("m", [{}]), {"results": [[["a", 0.5], ["b", 1]]]}),
    ":regress": (lambda client: client.regress("m", [{}, {}]), {"results": [1.5, 2]}),
}
WRONG: list[Any] = [
    *(None, True, -1, 1.5, 10**30, "x", "", "9" * 5000, [], [[]], [[1], [2, 3]], {}, {"b64": "?"}, {"b64": 1}),
    *([None], ["a", 1], [[]] * 3, {"": {}}, "\udcff", "\x1b]0;x\x07", float("inf"), float("nan")),
]


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every value in `value`."""
    yield ()
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        for place in places(inner):
            yield (key, *place)


def replaced(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    if not place:
        return other
    changed = copy.copy(value)
    changed[place[0]] = replaced(value[place[0]], place[1:], other)
    return changed


def is_refused(call: Callable[[], Any]) -> bool:
    """Whether the call raises a ServingError; any other exception is the test's failure."""
    try:
        repr(call())
    except ServingError as error:
        shown = str(error)
        return shown.splitlines()[0].isprintable()
    return False


def nested(depth: int) -> bytes:
    return b"[" * depth + b"1" + b"]" * depth


@pytest.mark.parametrize("path", CALLS)
def test_every_value_of_a_rest_answer_may_be_of_another_type(path: str) -> None:
    call, right = CALLS[path]
    with http_server(keep=True) as server, connect(server.url, timeout=5, retries=Retries(attempts=1)) as client:
        server.answers = {end: whole(json.dumps(answer).encode()) for end, (_, answer) in CALLS.items()}
        wanted = repr(call(client))
        refused = 0
        for place in places(right):
            bodies = [json.dumps(replaced(right, place, wrong)).encode() for wrong in WRONG]
            marked = json.dumps(replaced(right, place, "HERE")).encode()
            # Too deep for orjson, for the json module, for numpy.
            bodies += [marked.replace(b'"HERE"', nested(depth)) for depth in (70, 970, 1023, 5000)]
            bodies += [marked.replace(b'"HERE"', text) for text in (b"1e999", b"-" + b"9" * 5000, b'"\xff\xfe"', b"")]
            for body in bodies:
                server.answers[path] = whole(body)
                # Anew: a signature is remembered.
                with connect(server.url, timeout=5, retries=Retries(attempts=1)) as other:
                    refused += is_refused(partial(call, other))
        assert refused > 20
        server.answers[path] = whole(json.dumps(right).encode())
        assert repr(call(client)) == wanted


def tensor(dims: list[int], dtype: int = 1, **more: Any) -> Any:
    return TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": size} for size in dims]}, **more)


def prediction(*tensors: Any) -> bytes:
    answer = PredictResponse()
    for number, value in enumerate(tensors):
        answer.outputs[f"y{number}"].CopyFrom(value)
    return bytes(answer.SerializeToString())


def compressed(context: grpc.ServicerContext) -> bytes:
    context.set_compression(grpc.Compression.Gzip)
    return bytes(32 << 20)  # of which 32 kB go out


def refusing(code: grpc.StatusCode, text: str) -> Callable[[grpc.ServicerContext], bytes]:
    def refuse(context: grpc.ServicerContext) -> bytes:
        context.abort(code, text)
        return b""

    return refuse


def hanging(context: grpc.ServicerContext) -> bytes:
    while context.is_active():
        time.sleep(0.02)
    return b""


EVIL = "\x1b]0;evil\x07\u202e\r\n OK"
GRPC: dict[str, tuple[Any, type[ServingError], str]] = {
    "17 bytes for 381 MB": (prediction(tensor([100_000_000])), Internal, "400000000 bytes, 16777216 are the most"),
    "strings for 2 GB": (prediction(tensor([10**8], 7, string_val=[b"x"])), Internal, "are the most"),
    "a billion strings in a byte": (prediction(tensor([10**9], 7, tensor_content=b"x")), Internal, "need more"),
    "many small ones": (prediction(*[tensor([500_000], float_val=[1.0])] * 30), Internal, "are the most"),
    "a product past 2**63": (prediction(tensor([2**62, 2**62, 2**62], float_val=[1])), Internal, "are the most"),
    "an empty one of huge sides": (prediction(tensor([0, 2**62, 2**62])), Internal, "can't be read"),
    "the same, in place": (prediction(tensor([0, 2**62, 2**62], tensor_content=b"")), Internal, "can't be read"),
    "a negative dimension": (prediction(tensor([-1], float_val=[1])), Internal, "fully known shape"),
    "300 dimensions": (prediction(tensor([1] * 300, float_val=[1])), Internal, "300 dimensions"),
    "65 dimensions": (prediction(tensor([1] * 65, tensor_content=bytes(4))), Internal, "can't be read"),
    "no known type": (prediction(tensor([1], 99)), Internal, "type number 99"),
    "no type": (prediction(tensor([1], 0)), Internal, "type number 0"),
    "a resource": (prediction(tensor([1], 20)), Internal, "type number 20"),
    "content of another length": (prediction(tensor([3], tensor_content=b"12")), Internal, "tensor_content has 2"),
    "too many outputs": (prediction(*[tensor([])] * 10_001), Internal, "10001 outputs"),
    "no message": (b"\xff" * 99, Internal, "can't be read"),
    "a name that is no UTF-8": (b"\x0a\x05\x0a\x01\xff\x12\x00", Internal, "can't be read"),
    "a group that never ends": (b"\x0b" * 9999, Internal, "can't be read"),
    "more bytes than its limit lets": (bytes(MOST + 1), ResourceExhausted, "larger than max"),
    "a message that inflates": (compressed, ResourceExhausted, "larger than max"),
    "two answers": ([b"", b""], ServingError, ""),
    "none": ([], ServingError, ""),
    "a text with escapes": (
        refusing(grpc.StatusCode.INTERNAL, "\x1b]0;evil\x07\u202e\r\n OK"),
        Internal,
        r"\\x1b\]0;evil",
    ),
    "a long text": (refusing(grpc.StatusCode.NOT_FOUND, "x" * 15_000), ServingError, "more characters"),
    "silence": (hanging, DeadlineExceeded, ""),
}


def test_a_grpc_answer_is_an_error_in_time_and_in_little_memory() -> None:
    async def asked(url: str) -> None:
        async with connect_async(url, retries=Retries(attempts=1), max_response_bytes=MOST, timeout=2) as client:
            await client.predict("m", {"x": ROWS})

    with grpc_server() as (url, server):
        server.answers["GetModelMetadata"] = server.answers["GetModelStatus"] = b""
        for name, (answer, kind, said) in GRPC.items():
            server.answers["Predict"] = answer
            with connect(url, retries=Retries(attempts=1), max_response_bytes=MOST, timeout=2) as client:
                for ask in (lambda: client.predict("m", {"x": ROWS}), lambda: asyncio.run(asked(url))):
                    tracemalloc.start()
                    start = time.monotonic()
                    with pytest.raises(ServingError) as caught:
                        ask()
                    assert isinstance(caught.value, kind), (name, caught.value)
                    assert caught.match(said), name
                    assert time.monotonic() - start < 5, name
                    # The server's 32 MB are here, too.
                    assert tracemalloc.get_traced_memory()[1] < 100 << 20, name
                    tracemalloc.stop()
                    assert all(line.isprintable() for line in str(caught.value).splitlines()), name


def metadata_answer() -> Any:
    signatures = SignatureDefMap()
    info = {"dtype": 1, "tensor_shape": {"dim": [{"size": -1}]}}
    signatures.signature_def["serving_default"].inputs["x"].MergeFrom(
        type(signatures.signature_def["serving_default"].inputs["x"])(**info)
    )
    answer = GetModelMetadataResponse()
    answer.model_spec.version.value = 3
    answer.metadata["signature_def"].value = signatures.SerializeToString()
    return answer


def right_answers() -> dict[str, tuple[Callable[[Client], Any], bytes]]:
    """The calls by gRPC's name for them, and a right answer to each."""
    predicted = PredictResponse()
    predicted.outputs["y"].CopyFrom(to_proto(np.arange(6, dtype=np.float32).reshape(2, 3)))
    predicted.outputs["t"].CopyFrom(to_proto(np.array([b"a", b"bc"], np.object_)))
    predicted.outputs["n"].CopyFrom(to_proto(np.arange(3), typed=True))
    classes = {"classifications": [{"classes": [{"label": "a", "score": 0.5}, {"label": "b"}]}]}
    regressions = {"regressions": [{"value": 1.5}]}
    both = [{"classification_result": classes}, {"regression_result": regressions}]
    tasks: Any = {"a": "classify", "b": "regress"}
    made: dict[str, tuple[Callable[[Client], Any], Any]] = {
        "Predict": (lambda client: client.predict("m", {"x": ROWS}), predicted),
        "Classify": (lambda client: client.classify("m", [{}]), ClassificationResponse(result=classes)),
        "Regress": (lambda client: client.regress("m", [{}]), RegressionResponse(result=regressions)),
        "MultiInference": (
            lambda client: client.multi_inference("m", tasks, [{}]),
            MultiInferenceResponse(results=both),
        ),
        "GetModelMetadata": (lambda client: client.metadata("m"), metadata_answer()),
        "GetModelStatus": (
            lambda client: client.status("m"),
            GetModelStatusResponse(
                model_version_status=[{"version": 3, "state": 30, "status": {"error_message": "x"}}]
            ),
        ),
        "HandleReloadConfigRequest": (
            lambda client: client.reload_config(""),
            ReloadConfigResponse(status={"error_code": 3, "error_message": "no"}),
        ),
    }
    return {name: (call, answer.SerializeToString()) for name, (call, answer) in made.items()}


def damaged(data: bytes, randomly: random.Random) -> bytes:
    """`data` with a few bytes changed, left out, repeated or put in."""
    changed = bytearray(data)
    for _ in range(randomly.randint(1, 3)):
        at = randomly.randrange(len(changed) + 1)
        piece = bytes(
            randomly.choice((0, 1, 0x7F, 0x80, 0xFF, randomly.randrange(256)))
            for _ in range(randomly.choice((1, 1, 9)))
        )
        changed[at : at + randomly.choice((0, 1, 1, 4))] = randomly.choice((piece, b"", changed[at : at + 8] * 2))
    return bytes(changed)


def test_damaged_messages_are_errors_or_values() -> None:
    randomly = random.Random(7)  # noqa: S311 - no secret
    with grpc_server() as (url, server), connect(url, retries=Retries(attempts=1), timeout=10) as client:
        right = right_answers()
        server.answers = {name: data for name, (_, data) in right.items()}
        counts = {"values": 0, "errors": 0}
        for name, (call, data) in right.items():
            for _ in range(150):
                server.answers[name] = damaged(data, randomly)
                counts["errors" if is_refused(partial(call, client)) else "values"] += 1
            server.answers[name] = data
        assert min(counts.values()) > 30, counts


def test_what_becomes_many_objects_has_a_smaller_limit() -> None:
    with grpc_server() as (url, server), connect(url, retries=Retries(attempts=1), max_response_bytes=MOST) as client:
        many = GetModelStatusResponse(model_version_status=[{"version": number} for number in range(90_000)])
        server.answers["GetModelStatus"] = many.SerializeToString()
        with pytest.raises(
            ResourceExhausted, match=r"too large: its GetModelStatusResponse has \d+ bytes, the limit is 262144"
        ):
            client.status("m")
        texts = tensor([500_000], 7, string_val=[b"0123456789"] * 500_000)
        server.answers["Predict"] = prediction(texts)
        with pytest.raises(ResourceExhausted, match="with strings or integers, the limit is 4194304"):
            client.predict("m", {"x": ROWS})
        server.answers["Regress"] = RegressionResponse(result={"regressions": [{}] * 600_000}).SerializeToString()
        with pytest.raises(ResourceExhausted, match="--max-response-bytes"):
            client.regress("m", [{}])


def test_a_limit_can_be_raised_and_is_a_number_above_0() -> None:
    rows = np.zeros(1 << 20, np.float32)
    with grpc_server() as (url, server):
        server.answers["Predict"] = prediction(to_proto(rows))
        with (
            connect(url, max_response_bytes=1 << 20) as client,
            pytest.raises(ResourceExhausted, match="raise the limit"),
        ):
            client.predict("m", {"x": ROWS})
        with connect(url) as client:
            assert client.predict("m", {"x": ROWS}).outputs["y0"].size == rows.size
        with connect(url, max_response_bytes=1 << 40) as client:
            assert client.predict("m", {"x": ROWS}).outputs["y0"].size == rows.size
    with pytest.raises(ValueError, match="max_response_bytes must be above 0"):
        connect("grpc://127.0.0.1", max_response_bytes=0)


def test_an_endless_timeout_is_a_long_one() -> None:
    with http_server() as server:
        server.answers[""] = whole(json.dumps(STATUS).encode())
        with connect(server.url, timeout=float("inf")) as client:
            assert client.status("m")[0].version == 3
    with pytest.raises(ValueError, match="above 0 seconds, got nan"):
        connect("http://127.0.0.1:1", timeout=float("nan")).status("m")


@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs"])
def test_a_server_that_takes_a_connection_and_nothing_else_is_given_up_in_time(scheme: str) -> None:
    """Neither its TLS nor its HTTP begins, and nobody reads what is sent."""
    large = [{"x": [0.5] * 1_000_000}] if scheme == "http" else [{}]

    async def asked(url: str) -> None:
        async with connect_async(url, timeout=1, retries=Retries(attempts=1)) as client:
            await client.regress("m", large)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with connect(url, timeout=1, retries=Retries(attempts=1)) as client:
            for ask in (lambda: client.regress("m", large), lambda: asyncio.run(asked(url))):
                start = time.monotonic()
                with pytest.raises((DeadlineExceeded, Unavailable)):
                    ask()
                assert time.monotonic() - start < 15


def test_a_server_that_speaks_no_grpc_is_an_error() -> None:
    for send in (for_ever(b"\0" * 9999), whole(b"{}"), b"", b"\x15\x03\x01\0\x02\x02\x46", for_ever(b"x", pause=0.1)):
        with http_server() as server, connect(server.url.replace("http", "grpc"), timeout=2) as client:
            server.answers[""] = send
            with pytest.raises((DeadlineExceeded, Unavailable)) as caught:
                client.status("m")
            assert all(line.isprintable() for line in str(caught.value).splitlines())

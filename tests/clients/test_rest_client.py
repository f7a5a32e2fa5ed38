"""What is the REST client's own: deadlines, odd answers, signatures that change. Its server here is Python's own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tfserving.clients import Client, connect
from tfserving.clients.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)

ROWS = np.ones((2, 1), np.float32)


class Answers(BaseHTTPRequestHandler):
    """Answers with what the server's `paths` say for a path: JSON, or a function that writes the answer itself."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        server: Any = self.server
        server.asked.append((self.path, body))
        found = server.paths.get(self.path, (404, {"error": f"nothing at {self.path}"}))
        if callable(found):
            found(self)
            return
        status, content = found
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass


class Server(ThreadingHTTPServer):
    """A server whose answers a test sets; `asked` are the paths and bodies it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.paths: dict[str, Any] = {}
        self.asked: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def counts(self, path: str) -> int:
        return [asked for asked, _ in self.asked].count(path)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with connect(server.url) as made:
        yield made


def metadata(version: int, **outputs: tuple[str, list[int]]) -> tuple[int, Any]:
    def info(dtype: str, shape: list[int]) -> Any:
        dims = [{"size": str(size), "name": ""} for size in shape]
        return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}}

    signature = {
        "inputs": {"x": info("DT_FLOAT", [-1, 1])},
        "outputs": {name: info(*output) for name, output in outputs.items()},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    definition = {"signature_def": {"serving_default": signature}}
    return 200, {"model_spec": {"name": "m", "version": str(version)}, "metadata": {"signature_def": definition}}


def test_metadata_is_asked_once(server: Server, client: Client) -> None:
    server.paths = {
        "/v1/models/m/metadata": metadata(1, y=("DT_FLOAT", [-1])),
        "/v1/models/m:predict": (200, {"outputs": [1.0, 2.0]}),
    }
    for _ in range(3):
        assert client.predict("m", {"x": ROWS}).outputs["y"].dtype == np.float32
    assert server.counts("/v1/models/m/metadata") == 1
    assert server.counts("/v1/models/m:predict") == 3
    sent = json.loads(server.asked[1][1])
    assert sent == {"signature_name": "serving_default", "inputs": {"x": [[1.0], [1.0]]}}


@pytest.mark.parametrize(
    ("outputs", "answer"),
    [
        pytest.param(
            {"z": ("DT_FLOAT", [-1]), "y": ("DT_FLOAT", [-1])}, {"z": [1.0, 2.0], "y": [1.0, 2.0]}, id="names"
        ),
        pytest.param({"y": ("DT_FLOAT", [-1, 1])}, [[1.0], [2.0]], id="rank"),
        pytest.param({"y": ("DT_STRING", [-1])}, ["a", "b"], id="type"),
    ],
)
def test_a_new_version_with_another_signature_is_decoded_by_it(
    server: Server, client: Client, outputs: Any, answer: Any
) -> None:
    server.paths = {
        "/v1/models/m/metadata": metadata(1, y=("DT_FLOAT", [-1])),
        "/v1/models/m:predict": (200, {"outputs": [1.0, 2.0]}),
    }
    client.predict("m", {"x": ROWS})
    server.paths = {
        "/v1/models/m/metadata": metadata(2, **outputs),
        "/v1/models/m:predict": (200, {"outputs": answer}),
    }
    assert list(client.predict("m", {"x": ROWS}).outputs) == sorted(outputs)
    assert server.counts("/v1/models/m/metadata") == 2
    assert server.counts("/v1/models/m:predict") == 2, "the request is not sent again for it"


def test_a_new_version_that_wants_another_name_is_asked_with_it(server: Server, client: Client) -> None:
    server.paths = {
        "/v1/models/m/metadata": metadata(1, y=("DT_FLOAT", [-1])),
        "/v1/models/m:predict": (200, {"outputs": [1.0, 2.0]}),
    }
    client.predict("m", {"x": ROWS})
    status, renamed = metadata(2, y=("DT_FLOAT", [-1]))
    definition = renamed["metadata"]["signature_def"]["signature_def"]["serving_default"]
    definition["inputs"] = {"rows": definition["inputs"]["x"]}
    server.paths["/v1/models/m/metadata"] = status, renamed
    assert client.predict("m", {"rows": ROWS}).outputs["y"].tolist() == [1, 2]
    with pytest.raises(InvalidArgument, match=r"inputs\['x'\] is not an input"):
        client.predict("m", {"x": ROWS})


def test_an_answer_that_fits_no_signature_is_an_error(server: Server, client: Client) -> None:
    server.paths = {
        "/v1/models/m/metadata": metadata(1, y=("DT_INT32", [-1])),
        "/v1/models/m:predict": (200, {"outputs": [1.5]}),
    }
    with pytest.raises(Internal, match=r"outputs\['y'\], expected int32 \(\?,\): got values of type float64"):
        client.predict("m", {"x": ROWS})


def test_a_shape_the_signature_does_not_say_is_taken_as_it_is(server: Server, client: Client) -> None:
    server.paths = {
        "/v1/models/m/metadata": metadata(1, y=("DT_FLOAT", [-1, 3])),
        "/v1/models/m:predict": (200, {"outputs": [[1.0, 2.0]]}),
    }
    assert client.predict("m", {"x": ROWS}).outputs["y"].shape == (1, 2)


def test_types_that_json_cannot_carry_name_the_protocol_that_can(server: Server, client: Client) -> None:
    status, answer = metadata(1, y=("DT_FLOAT", [-1]))
    answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["x"]["dtype"] = "DT_COMPLEX64"
    server.paths["/v1/models/m/metadata"] = status, answer
    with pytest.raises(Unimplemented, match="use gRPC"):
        client.predict("m", {"x": ROWS.astype(np.complex64)})
    server.paths["/v1/models/m/metadata"] = metadata(1, y=("DT_FLOAT", [-1]))
    server.paths["/v1/models/m:predict"] = 501, {"error": "Conversion of JSON Value: 1 to type: half"}
    with pytest.raises(Unimplemented, match="use gRPC, which carries every dtype"):
        connect(server.url).predict("m", {"x": ROWS})


def test_names_are_escaped_in_the_url(server: Server, client: Client) -> None:
    with pytest.raises(NotFound):
        client.metadata("sub/model name?", label="ä:b")
    with pytest.raises(NotFound):
        client.status("m", version=-7)
    assert [path for path, _ in server.asked] == [
        "/v1/models/sub%2Fmodel%20name%3F/labels/%C3%A4%3Ab/metadata",
        "/v1/models/m/versions/-7",
    ]


def test_a_slow_server_is_given_up_at_the_deadline(server: Server, client: Client) -> None:
    release = threading.Event()
    server.paths["/v1/models/m"] = lambda _: release.wait(20)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.status("m", timeout=0.3)
    release.set()
    assert time.monotonic() - start < 5


def test_an_answer_that_drips_is_given_up_at_the_deadline(server: Server, client: Client) -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b" ")

    server.paths["/v1/models/m"] = drip
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.status("m", timeout=0.5)
    stop.set()
    assert time.monotonic() - start < 5


def test_a_connection_that_breaks_is_unavailable(server: Server, client: Client) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b"{")
        handler.close_connection = True

    server.paths["/v1/models/m"] = cut
    with pytest.raises(Unavailable, match="the connection broke"):
        client.status("m")


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((200, b"<HTML>"), Internal, "the response is not JSON"),
        (
            (200, {"something": "else"}),
            Internal,
            "an object of 1 lacks 'model_version_status'",
        ),
        ((404, b"<HTML>"), NotFound, r"is its REST port"),
        ((301, b""), Internal, "HTTP 301"),
        ((400, {"error": 'Serving signature name: "x" not found in signature def'}), FailedPrecondition, "not found"),
    ],
)
def test_answers_that_are_not_tensorflow_servings(
    server: Server, client: Client, answer: Any, kind: type[Exception], said: str
) -> None:
    server.paths["/v1/models/m"] = answer
    with pytest.raises(kind, match=said):
        client.status("m")


def test_metadata_that_cannot_be_read_is_an_error(server: Server, client: Client) -> None:
    server.paths["/v1/models/m/metadata"] = 200, {"model_spec": {"version": "1"}, "metadata": {}}
    with pytest.raises(Internal, match="the metadata can't be read"):
        client.metadata("m")


def test_a_ragged_output_hides_no_other_signature(server: Server, client: Client) -> None:
    status, answer = metadata(1, y=("DT_FLOAT", [-1]))
    ragged = {"dtype": "DT_INVALID", "name": "", "composite_tensor": {"components": []}}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    signatures["ragged"] = {**signatures["serving_default"], "outputs": {"r": ragged}}
    server.paths["/v1/models/m/metadata"] = status, answer
    server.paths["/v1/models/m:predict"] = 200, {"outputs": [1.0, 2.0]}
    assert client.metadata("m").signatures["ragged"].outputs["r"].shape is None
    assert client.predict("m", {"x": ROWS}).outputs["y"].tolist() == [1.0, 2.0]


def test_the_environments_proxy_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.paths["/v1/models/m"] = 200, {"model_version_status": []}
    with connect(server.url) as client:
        assert client.status("m") == ()

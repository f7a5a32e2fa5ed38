"""Pulling an image from a registry that an engine can't reach."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker
import pytest
from docker import DockerClient

from tfserving.foundation.command.progress import Progress
from tfserving.serving.docker import image
from tfserving.serving.engines import EngineError


class Engine(BaseHTTPRequestHandler):
    """An engine without images, whose registry is silent."""

    ended = threading.Event()

    def do_GET(self) -> None:
        self._answer(404, b'{"message": "No such image: tensorflow/serving:2.21.0"}')

    def do_POST(self) -> None:
        self.ended.wait(60)
        self._answer(500, b"")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def client() -> Iterator[DockerClient]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever).start()
        made = docker.DockerClient(f"tcp://127.0.0.1:{server.server_port}", version="1.41")
        yield made
        made.close()
        Engine.ended.set()
        server.shutdown()


def test_a_registry_that_does_not_respond_ends_a_pull_with_an_error(
    client: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "_SILENCE_SECONDS", 0.5)
    with pytest.raises(EngineError) as error:
        image.find_or_pull(client, "tensorflow/serving:2.21.0", Progress())
    assert str(error.value) == (
        "cannot pull image tensorflow/serving:2.21.0: the engine reported nothing for 0.5 s. "
        "Set server.image in models.yaml to another image"
    )


def test_attack_a_tag_that_was_moved_in_the_registry_is_not_pulled_with_trust(client: DockerClient) -> None:
    name = "tensorflow/serving:2.21.0"
    with pytest.raises(EngineError) as error:
        image.find_or_pull(client, name, Progress(), "compose.envoy.image", by_digest=True)
    assert str(error.value).startswith(f"image {name} is not on this machine. With `trust` no image is pulled by a tag")
    assert f"Set compose.envoy.image to a digest, {name}@sha256:…" in str(error.value)

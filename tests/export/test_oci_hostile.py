"""A registry that lies, and one that leads elsewhere: nothing is taken that doesn't fit, and no credentials leave."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tfserving.export.oci.errors import RegistryError
from tfserving.export.oci.layout import descriptor_of, digest_of
from tfserving.export.oci.place import Place
from tfserving.export.oci.registry import Registry
from tfserving.export.oci.session import Session

SECRET = "a-secret-that-no-other-host-may-have"  # noqa: S105


class Hostile:
    """A server that returns what `answers` has for a path: a status, headers and a body; and notes requests."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {key.lower(): value for key, value in self.headers.items()}
                outer.seen.append((self.command, self.path, headers))
                if length := int(self.headers.get("content-length") or 0):
                    self.rfile.read(length)
                found = outer.answers.get(f"{self.command} {self.path}") or outer.answers.get(self.path)
                found = found or outer.answer(self.path, headers)
                status, returned, body = found or (404, {}, b"")
                self.send_response(status)
                for key, value in {"content-length": str(len(body)), **returned}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the base class calls them so

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, _path: str, _headers: dict[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        """What is returned for a path that `answers` hasn't."""
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def authorized(self) -> list[str]:
        """The paths that were asked for with credentials."""
        return [path for _, path, headers in self.seen if "authorization" in headers]


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    made = Hostile()
    yield made
    made.close()


@pytest.fixture
def elsewhere() -> Iterator[Hostile]:
    made = Hostile()
    yield made
    made.close()


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: Hostile) -> None:
    """Docker's configuration with credentials for the hostile registry."""
    auth = base64.b64encode(f"user:{SECRET}".encode()).decode()
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {hostile.address: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


BLOBS = "/v2/models/scaled"
BASIC = (401, {"www-authenticate": 'Basic realm="registry"'}, b"")


def call(hostile: Hostile, work: Callable[[Registry], object]) -> object:
    with Session(Place(hostile.address)) as session:
        return work(Registry(session))


def test_attack_a_registry_sends_a_blob_that_does_not_fit_its_digest(hostile: Hostile) -> None:
    blob = descriptor_of(b"right")
    path = f"{BLOBS}/blobs/{blob.digest}"
    for sent, reason in ((b"wrong", "expected 5 bytes"), (b"righ", "sent 4 bytes"), (b"right!", "sent more than")):
        hostile.answers[path] = (200, {}, sent)
        with pytest.raises(RegistryError, match=reason):
            call(hostile, lambda registry: registry.blob("models/scaled", blob))
    # Compressed on its way, it isn't what the digest says either.
    hostile.answers[path] = (200, {"content-encoding": "gzip"}, gzip.compress(b"right"))
    with pytest.raises(RegistryError, match="sent more than"):
        call(hostile, lambda registry: registry.blob("models/scaled", blob))
    digest = digest_of(b"{}")
    hostile.answers[f"{BLOBS}/manifests/{digest}"] = (200, {"docker-content-digest": digest}, b'{"evil": 1}')
    with pytest.raises(RegistryError, match="the registry sent another manifest"):
        call(hostile, lambda registry: registry.manifest("models/scaled", digest))


def test_attack_a_registry_sends_without_end(hostile: Hostile) -> None:
    hostile.answers[f"{BLOBS}/manifests/1"] = (200, {}, b" " * ((4 << 20) + 1))
    with pytest.raises(RegistryError, match="sent more than 4194304 bytes"):
        call(hostile, lambda registry: registry.manifest("models/scaled", "1"))
    page = json.dumps({"tags": [str(number) for number in range(1, 1001)]}).encode()
    again = {"link": f'<{BLOBS}/tags/list?n=1000>; rel="next"'}
    hostile.answers[f"{BLOBS}/tags/list?n=1000"] = (200, again, page)
    tags: Any = call(hostile, lambda registry: registry.tags("models/scaled", 2500))
    assert (len(tags.names), tags.more) == (2500, True)


@pytest.mark.usefixtures("login")
def test_attack_a_redirect_to_another_host_gets_no_credentials(hostile: Hostile, elsewhere: Hostile) -> None:
    """A registry may keep its blobs elsewhere, so the redirect is followed, without what only the registry may have."""
    blob = descriptor_of(b"right")
    path = f"{BLOBS}/blobs/{blob.digest}"
    hostile.answers[path] = BASIC
    elsewhere.answers["/blob"] = (200, {}, b"right")

    def admit(registry: Registry) -> object:
        with pytest.raises(RegistryError, match="HTTP 401"):
            registry.blob("models/scaled", blob)
        hostile.answers[path] = (307, {"location": f"http://{elsewhere.address}/blob"}, b"")
        return registry.blob("models/scaled", blob)

    assert call(hostile, admit) == b"right"
    assert hostile.authorized() == [path, path]
    assert [path for _, path, _ in elsewhere.seen] == ["/blob"]
    assert elsewhere.authorized() == []
    # Nor does another host that asks for them.
    elsewhere.answers["/blob"] = BASIC
    with pytest.raises(RegistryError, match="HTTP 401"):
        call(hostile, lambda registry: registry.blob("models/scaled", blob))
    assert elsewhere.authorized() == []


@pytest.mark.usefixtures("login")
def test_attack_an_upload_to_another_host_gets_no_credentials(hostile: Hostile, elsewhere: Hostile) -> None:
    blob = descriptor_of(b"right")
    start = f"POST {BLOBS}/blobs/uploads/"
    hostile.answers[start] = BASIC

    def admit(registry: Registry) -> object:
        with pytest.raises(RegistryError, match="HTTP 401"):
            registry.upload("models/scaled", blob, b"right")
        hostile.answers[start] = (202, {"location": f"http://{elsewhere.address}/upload"}, b"")
        elsewhere.answers[f"PUT /upload?digest={blob.digest}"] = (201, {}, b"")
        registry.upload("models/scaled", blob, b"right")
        return None

    call(hostile, admit)
    assert [method for method, _, _ in elsewhere.seen] == ["PUT"]
    assert elsewhere.authorized() == []
    assert hostile.authorized()


@pytest.mark.usefixtures("login")
def test_attack_a_token_server_without_tls_gets_no_credentials(
    hostile: Hostile, elsewhere: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry with TLS names it: then the password would go over the network for all to read."""
    challenge = {"www-authenticate": f'Bearer realm="http://{elsewhere.address}/token",service="registry"'}
    hostile.answers[f"{BLOBS}/manifests/1"] = (401, challenge, b"")
    with Session(Place(hostile.address)) as session:
        # As it is for a registry with TLS, whose certificate would be needed here.
        monkeypatch.setattr(session, "_schemes", ("https",))
        with pytest.raises(RegistryError, match="its token server is not https://") as raised:
            Registry(session).manifest("models/scaled", "1")
    assert SECRET not in str(raised.value)
    assert elsewhere.seen == []


def test_attack_a_redirect_without_tls_or_without_end_is_not_followed(
    hostile: Hostile, elsewhere: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile.answers["/v2/a/manifests/1"] = (302, {"location": f"http://{elsewhere.address}/"}, b"")
    hostile.answers["/v2/b/manifests/1"] = (302, {"location": "/v2/b/manifests/1"}, b"")
    hostile.answers["/v2/c/manifests/1"] = (302, {"location": "file:///etc/passwd"}, b"")
    with Session(Place(hostile.address)) as session:
        registry = Registry(session)
        with pytest.raises(RegistryError, match="redirects more than 5 times"):
            registry.manifest("b", "1")
        with pytest.raises(RegistryError, match="redirects to file://, expected https://"):
            registry.manifest("c", "1")
        monkeypatch.setattr(session, "_schemes", ("https",))
        with pytest.raises(RegistryError, match="redirects to http://, expected https://"):
            registry.manifest("a", "1")
    assert elsewhere.seen == []

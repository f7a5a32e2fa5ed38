"""How questions reach a server: addresses, TLS, what goes along, compression, another try."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import re
import socket
import socketserver
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from tests.authority import Authority
from tests.clients.conftest import ON_SERVERS, Server
from tfserving.cli import tfserving
from tfserving.clients import Client, Retries, Tls, connect, connect_async
from tfserving.clients.errors import Cancelled, InvalidArgument, Unavailable
from tfserving.foundation.messages import GetModelStatusResponse

pytestmark = ON_SERVERS
AVAILABLE = GetModelStatusResponse(model_version_status=[{"version": 4, "state": 30}])
ROWS = np.array([[1, 2, 3]], np.float32)


@dataclass
class Recorder(grpc.GenericRpcHandler):
    """Answers every gRPC call with an available version, after as many failures as it is told; notes what comes."""

    version: int = 4
    failures: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)

    def service(self, details: Any) -> Any:
        metadata = dict(details.invocation_metadata)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append({"method": details.method, "metadata": metadata, "body": request})
            if len(self.asked) <= self.failures:
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            AVAILABLE.model_version_status[0].version = self.version
            return bytes(AVAILABLE.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(answer)


@contextlib.contextmanager
def grpc_server(handler: Recorder, *addresses: str) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[handler])
    ports = [server.add_insecure_port(address) for address in addresses]
    server.start()
    yield ports[0]
    server.stop(0).wait()


@contextlib.contextmanager
def rest_server(failures: int = 0) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of a server that notes what comes, and what came."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append({"path": self.path, "headers": dict(self.headers), "body": body})
            busy = len(asked) <= failures
            answer = b'{"error": "busy"}' if busy else b'{"results": [1.5]}'
            packed = "gzip" in self.headers.get("accept-encoding", "")
            self.send_response(503 if busy else 200)
            if packed:
                answer = gzip.compress(answer)
                self.send_header("content-encoding", "gzip")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def test_metadata_goes_along_with_every_call_or_with_one() -> None:
    recorder = Recorder()
    with (
        grpc_server(recorder, "127.0.0.1:0") as port,
        connect(f"grpc://127.0.0.1:{port}", metadata={"X-Team": "a"}) as client,
    ):
        client.status("m")
        client.status("m", metadata={"Authorization": "Bearer secret"})
    assert [asked["metadata"].get("x-team") for asked in recorder.asked] == ["a", "a"]
    assert [asked["metadata"].get("authorization") for asked in recorder.asked] == [None, "Bearer secret"]
    with rest_server() as (url, asked), connect(url, metadata={"X-Team": "a", "Host": "models.test"}) as client:
        client.regress("m", [{}], metadata={"Authorization": "Bearer secret"})
    sent = asked[0]["headers"]
    assert (sent["x-team"], sent["authorization"]) == ("a", "Bearer secret")
    # A gateway knows its services by their host, of which a request has one.
    assert (sent["host"], len([name for name in sent if name.lower() == "host"])) == ("models.test", 1)


@pytest.mark.parametrize("failures", [1, 2])
def test_a_busy_server_is_asked_again_over_both_protocols(failures: int) -> None:
    recorder = Recorder(failures=failures)
    quick = Retries(first_pause=0.01)
    with grpc_server(recorder, "127.0.0.1:0") as port, connect(f"grpc://127.0.0.1:{port}", retries=quick) as client:
        assert client.status("m")[0].version == 4
    assert len(recorder.asked) == failures + 1
    with rest_server(failures) as (url, asked), connect(url, retries=quick) as client:
        assert client.regress("m", [{}]).values.tolist() == [1.5]
    assert len(asked) == failures + 1


def test_a_server_that_stays_busy_raises_its_error() -> None:
    with rest_server(99) as (url, asked), connect(url, retries=Retries(attempts=2, first_pause=0.01)) as client:
        with pytest.raises(Unavailable, match="busy"):
            client.regress("m", [{}])
        assert len(asked) == 2


def test_a_reload_is_sent_once() -> None:
    recorder = Recorder(failures=1)
    with (
        grpc_server(recorder, "127.0.0.1:0") as port,
        connect(f"grpc://127.0.0.1:{port}") as client,
        pytest.raises(Unavailable),
    ):
        client.reload_config("")
    assert len(recorder.asked) == 1


def test_requests_and_answers_are_compressed_when_asked_for() -> None:
    with rest_server() as (url, asked), connect(url, compression="gzip") as client:
        assert client.regress("m", [{"x": [0.0] * 1000}]).values.tolist() == [1.5]
        client.regress("m", [{}])
    assert asked[0]["headers"]["content-encoding"] == "gzip"
    assert b'"examples"' in gzip.decompress(asked[0]["body"])
    assert "content-encoding" not in asked[1]["headers"], "a few bytes are not worth it"
    with rest_server() as (url, asked), connect(url) as client:
        client.regress("m", [{"x": [0.0] * 1000}])
    assert "content-encoding" not in asked[0]["headers"]
    with pytest.raises(ValueError, match="compression must be 'gzip' or None, got 'zip'"):
        connect("grpc://127.0.0.1", compression="zip")  # type: ignore[arg-type]


def test_a_real_server_takes_and_sends_compressed_messages(server: Server, protocol: str) -> None:
    with connect(server.url(protocol), compression="gzip") as client:
        rows = np.ones((5000, 3), np.float32)
        np.testing.assert_array_equal(client.predict("scale", {"x": rows}, version=1).outputs["scaled"], rows * 2)


def test_a_unix_socket(tmp_path: Path) -> None:
    with grpc_server(Recorder(), f"unix:{tmp_path}/socket"), connect(f"unix://{tmp_path}/socket") as client:
        assert client.status("m")[0].version == 4


class Names(socketserver.BaseRequestHandler):
    """A name server to which every name means 127.0.0.1 and 127.0.0.2."""

    def handle(self) -> None:
        data, sock = self.request
        end = data.index(b"\0", 12) + 5
        question, kind = data[12:end], struct.unpack(">H", data[end - 4 : end - 2])[0]
        addresses = ["127.0.0.1", "127.0.0.2"] if kind == 1 else []
        answers = [b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address) for address in addresses]
        counts = struct.pack(">HHHH", 1, len(answers), 0, 0)
        sock.sendto(data[:2] + b"\x81\x80" + counts + question + b"".join(answers), self.client_address)


def test_all_addresses_of_a_name_are_asked_in_turn() -> None:
    one, other = Recorder(version=1), Recorder(version=2)
    with socketserver.UDPServer(("127.0.0.1", 0), Names) as names:
        threading.Thread(target=names.serve_forever, args=(0.01,), daemon=True).start()
        with (
            grpc_server(one, "127.0.0.1:0") as port,
            grpc_server(other, f"127.0.0.2:{port}"),
            connect(f"dns://127.0.0.1:{names.server_address[1]}/models.example:{port}") as client,
        ):
            client.wait_until_available("m", timeout=20)
            seen = [client.status("m")[0].version for _ in range(40)]
        names.shutdown()
    assert seen.count(1) in range(15, 26)
    assert seen.count(2) in range(15, 26)


def test_a_server_that_is_not_trusted_is_not_asked(tls_server: Server, protocol: str, tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    assert tls_server.tls is not None
    secure, plain = tls_server.url(protocol), tls_server.url(protocol).replace("s://", "://")
    other = f"https://{tls_server.grpc}" if protocol == "rest" else f"grpcs://{tls_server.rest}"
    # By a name that has an address on which nobody listens, too.
    named = secure.replace("127.0.0.1", "localhost")
    cases: tuple[tuple[str, Tls | None, str], ...] = (
        (secure, Tls(stranger.path("ca.pem")), "isn't trusted, or is for another name"),
        (named, None, "isn't trusted, or is for another name"),
        (secure, Tls(tls_server.tls.ca, server_name="another.example"), "--tls-server-name"),
        (secure, Tls(tls_server.tls.ca), "--tls-cert and --tls-key"),
        (plain, None, f"If the server uses TLS, write {'https' if protocol == 'rest' else 'grpcs'}://"),
        (other, tls_server.tls, f"this is its {'REST' if protocol == 'rest' else 'gRPC'} port"),
    )
    for url, tls, said in cases:
        with connect(url, tls=tls, retries=Retries(attempts=1)) as client:
            with pytest.raises(Unavailable) as caught:
                client.status("scale")
            assert said in caught.value.hint, (url, tls, caught.value)


def test_a_server_without_tls_is_said_to_have_none(server: Server, protocol: str) -> None:
    url = server.url(protocol).replace("://", "s://")
    with connect(url, retries=Retries(attempts=1)) as client, pytest.raises(Unavailable) as caught:
        client.status("scale")
    assert "doesn't use TLS on this port" in caught.value.hint, caught.value


def test_a_name_that_has_no_address_is_said_to_have_none(protocol: str) -> None:
    scheme = "grpc" if protocol == "grpc" else "http"
    with connect(f"{scheme}://nowhere.invalid:5", retries=Retries(attempts=1)) as client:
        with pytest.raises(Unavailable) as caught:
            client.status("scale")
        assert "this machine can't resolve the host name" in caught.value.hint, caught.value


def test_tls_files_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ca, certificate, key = (authority.path(name) for name in ("ca.pem", "client.pem", "client.key"))
    locked = ["openssl", "rsa", "-in", key, "-aes128", "-passout", "pass:secret", "-out", authority.path("locked.key")]
    subprocess.run(locked, check=True, capture_output=True)
    (tmp_path / "empty.pem").touch()
    (tmp_path / "binary.pem").write_bytes(bytes(range(256)))
    os.mkfifo(tmp_path / "pipe.pem")
    cases: list[tuple[dict[str, str], str]] = [
        ({"ca": authority.path("ca.key")}, "ca.key (ca) contains no certificate in PEM form"),
        ({"ca": authority.path("empty.pem")}, "empty.pem (ca) contains no certificate"),
        ({"ca": authority.path("binary.pem")}, "binary.pem (ca) contains no certificate"),
        ({"ca": authority.path("nowhere.pem")}, "nowhere.pem (ca) can't be read: No such file"),
        ({"ca": authority.path("pipe.pem")}, "pipe.pem (ca) is not a regular file"),
        ({"ca": str(tmp_path)}, "(ca) is not a regular file"),
        ({"certificate": certificate, "key": authority.path("server.key")}, "is not the key of the certificate in"),
        ({"certificate": certificate, "key": authority.path("locked.key")}, "locked.key (key) is encrypted"),
        ({"certificate": certificate, "key": certificate}, "client.pem (key) contains no private key"),
        ({"certificate": key, "key": key}, "client.key (certificate) contains no certificate"),
        ({"ca": ca, "certificate": certificate}, "belong together"),
    ]
    for given, said in cases:
        with pytest.raises(ValueError, match=re.escape(said)):
            Tls(**given)
    options = ["--tls-ca", ca, "--tls-cert", certificate, "--tls-key", authority.path("server.key")]
    for command in (["metadata", "--server", "grpcs://127.0.0.1:1"], ["bench", "--server", "https://127.0.0.1:1"]):
        result = CliRunner().invoke(tfserving, [command[0], "m", *command[1:], *options])
        assert result.exit_code == 2
        assert "server.key" in result.stderr.replace("\n", "")
    result = CliRunner().invoke(tfserving, ["verify", str(tmp_path), *options])
    assert result.exit_code == 2
    assert "is not the key of" in " ".join(result.stderr.split())


def test_the_certificate_may_be_for_another_name_that_is_said(tls_server: Server, protocol: str) -> None:
    assert tls_server.tls is not None
    url = tls_server.url(protocol).replace("127.0.0.1", "127.0.0.1.nowhere.invalid")
    tls = Tls(tls_server.tls.ca, tls_server.tls.certificate, tls_server.tls.key, server_name="localhost")
    with connect(tls_server.url(protocol), tls=tls) as client:
        assert client.status("scale")[0].version == 2
    with connect(url, tls=tls, retries=Retries(attempts=1)) as client, pytest.raises(Unavailable):
        client.status("scale", timeout=5)


@pytest.mark.parametrize("use", [lambda client: client.status("scale")])
def test_a_closed_client_says_so(server: Server, protocol: str, use: Callable[[Client], object]) -> None:
    client = connect(server.url(protocol))
    use(client)
    client.close()
    with pytest.raises(Cancelled, match="the client is closed"):
        use(client)


def test_metadata_that_can_not_be_sent_is_an_invalid_argument(client: Client) -> None:
    for metadata, said in (
        ({"a name": "value"}, "metadata 'a name': a name has letters"),
        ({"trace-bin": "value"}, "metadata 'trace-bin'"),
        ({"secret": "two\nlines"}, "metadata 'secret': a value must be printable ASCII"),
    ):
        with pytest.raises(InvalidArgument, match=said) as caught:
            client.status("scale", metadata=metadata)
        assert "two" not in str(caught.value), "values may be secret"
    with pytest.raises(ValueError, match="a name has letters"):
        connect("grpc://127.0.0.1", metadata={"a name": "value"})
    assert client.status("scale")[0].version == 2


def test_many_calls_wait_at_once_on_one_event_loop(server: Server, protocol: str) -> None:
    async def ask(count: int) -> list[float]:
        async with connect_async(server.url(protocol)) as client:
            answers = await asyncio.gather(
                *(client.predict("scale", {"x": ROWS * number}, version=1) for number in range(count))
            )
        return [float(answer.outputs["total"][0]) for answer in answers]

    assert asyncio.run(ask(50)) == [12.0 * number for number in range(50)]


def test_a_task_that_is_cancelled_leaves_the_client_as_it_was(server: Server, protocol: str) -> None:
    async def ask() -> int:
        async with connect_async(server.url(protocol)) as client:
            waiting = asyncio.create_task(client.wait_until_available("scale", version=77, timeout=60))
            await client.status("scale")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            return (await client.status("scale"))[0].version

    assert asyncio.run(ask()) == 2

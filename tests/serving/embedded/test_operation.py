"""What operators need: sockets, TLS; and what TensorFlow Serving lacks: probes, a list of models, limits."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest

from tests.authority import Authority
from tests.servers import ModelServer
from tests.serving.embedded import saved_models
from tests.serving.embedded.running import (
    Asker,
    Gate,
    Process,
    Start,
    both_embedded,
    embedded_only,
    together,
    wait_until,
)
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import PredictRequest, PredictResponse
from tfserving.foundation.tensors import to_proto
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.tls import read_tls

pytestmark = together


def get(server: Process, path: str) -> httpx2.Response:
    return httpx2.get(f"http://127.0.0.1:{server.rest_port}{path}", trust_env=False)


def config(folder: Path, **models: Path) -> str:
    text = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}' for name, path in models.items()
    )
    (folder / "models.config").write_text(f"model_config_list {{ {text} }}")
    return f"--model_config_file={folder}/models.config"


@embedded_only
def test_probes_say_whether_the_server_lives_and_which_models_are_ready(
    start: Start, models: Path, tmp_path: Path
) -> None:
    saved_models.scale(tmp_path / "live", 1, 1.0)
    flags = config(tmp_path, scale=models / "scale", live=tmp_path / "live")
    server = start(flags, "--file_system_poll_wait_seconds=0.05", "--enable_model_listing").ready()

    assert (get(server, "/healthz").status_code, get(server, "/healthz").text) == (200, "ok\n")
    assert (get(server, "/readyz").status_code, get(server, "/readyz/scale").text) == (200, "ready\n")
    assert get(server, "/readyz/none").status_code == 503
    assert get(server, "/v1/models").json() == {
        "models": [{"name": "scale", "versions": ["2"]}, {"name": "live", "versions": ["1"]}]
    }

    (tmp_path / "live" / "1").rename(tmp_path / "away")
    wait_until("it is not ready", lambda: get(server, "/readyz").status_code == 503)
    assert get(server, "/readyz").text == "not ready: no version available of 'live'\n"
    assert get(server, "/readyz/scale").status_code == 200
    assert get(server, "/healthz").status_code == 200


def test_models_are_not_listed_unless_that_is_wanted(server: Process) -> None:
    assert get(server, "/v1/models").json() == {"error": "Missing model name in request."}


@both_embedded
def test_bodies_beyond_the_limit_are_refused_and_the_server_goes_on(start: Start, models: Path) -> None:
    server = start(f"--model_base_path={models}/scale", "--max_body_bytes=1000").ready()
    ask = Asker(server)
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/default:predict"
    body = json.dumps({"instances": [[1.0, 2.0, 3.0]] * 1000}).encode()

    for content in (body, iter([body[:700], body[700:]])):
        refused = httpx2.post(url, content=content, trust_env=False)
        assert (refused.status_code, refused.json()) == (413, {"error": "The body is larger than 1000 bytes"})
    code, _ = ask.error("default", {"x": np.ones((1000, 3), np.float32)})
    assert code == "RESOURCE_EXHAUSTED"
    assert ask.predict("default", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[-2, -2, -2]]
    ask.close()


@both_embedded
def test_requests_beyond_the_limit_in_flight_are_refused_at_once(start: Start, models: Path, tmp_path: Path) -> None:
    flags = ("--max_requests_in_flight=2", "--allow_file_and_python_ops")
    ask = Asker(start(f"--model_base_path={models}/gated", *flags).ready())
    for folder, send, refused in (("grpc", Gate.over_grpc, "RESOURCE_EXHAUSTED"), ("rest", Gate.over_rest, "429")):
        (tmp_path / folder).mkdir()
        gate = Gate(tmp_path / folder)
        with ThreadPoolExecutor(8) as pool:
            sent = [pool.submit(send, gate, ask) for _ in range(8)]
            try:
                wait_until("six answers", lambda sent=sent: sum(one.done() for one in sent) == 6)  # type: ignore[misc]
                assert [one.result() for one in sent if one.done()] == [refused] * 6
            finally:
                gate.open()
        assert sorted(one.result() for one in sent) == sorted([gate.OPEN] * 2 + [refused] * 6)
    ask.close()


@both_embedded
@pytest.mark.alone
def test_who_sends_slowly_or_much_keeps_nobody_waiting(server: Process, ask: Asker) -> None:
    head = b"POST /v1/models/scale:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"
    # A first request finds its connection made.
    assert ask.predict("scale", {"x": rows(1)})["version"].tolist() == [2]
    assert ask.post("scale:predict", {"instances": rows(1).tolist()})[0] == 200
    with contextlib.ExitStack() as stack:
        for port in (server.rest_port, server.grpc_port):
            for _ in range(200):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
                # The rest of it never comes; to gRPC it is nonsense, and half of that.
                connection.sendall(head if port == server.rest_port else b"PRI * HTTP/2.0\r\n")
        much = stack.enter_context(ThreadPoolExecutor(2))
        # Texts take the slow way through the parser; they come to 10 MB.
        body = json.dumps({"instances": [["not a number"] * 3] * 200_000}).encode()
        sent = time.monotonic()
        huge = [much.submit(ask.post, "scale:predict", body) for _ in range(6)]
        waited = []
        while not all(one.done() for one in huge):
            begun = time.monotonic()
            assert ask.predict("scale", {"x": rows(1)})["version"].tolist() == [2]
            assert ask.post("scale:predict", {"instances": rows(1).tolist()})[0] == 200
            waited.append(time.monotonic() - begun)
        took = time.monotonic() - sent
        assert [one.result()[0] for one in huge] == [400] * 6
    # For one body at a time Python runs nothing else.
    assert max(waited) < took / 2, f"others waited as if these were all that the server did: {waited} of {took}"


def test_a_rest_request_that_takes_too_long_is_told_so(start: Start, models: Path) -> None:
    server = start(f"--model_base_path={models}/slow", "--rest_api_timeout_in_ms=200").ready()
    ask = Asker(server)
    try:
        assert ask.post("default:predict", {"instances": [200000]}) == (
            504,
            {"error": "Timed out waiting for notification"},
        )
        # Beside the one that still computes.
        wait_until("an answer", lambda: ask.post("default:predict", {"instances": [1]})[0] == 200)
    finally:
        ask.close()
        server.process.kill()


def test_grpc_listens_on_a_unix_socket_too_with_settings_of_its_own(start: Start, models: Path, tmp_path: Path) -> None:
    (tmp_path / "session.config").write_text("inter_op_parallelism_threads: 1")
    server = start(
        f"--model_base_path={models}/scale",
        f"--grpc_socket_path={tmp_path}/grpc.sock",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=600000,grpc.primary_user_agent=mine",
        f"--tensorflow_session_config_file={tmp_path}/session.config",
    ).ready()
    with grpc.insecure_channel(f"unix:{tmp_path}/grpc.sock") as channel:
        call: Any = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
        assert call(b"\n\t\n\x07default", timeout=20)
    assert get(server, "/v1/models/default").status_code == 200


def test_a_session_configuration_that_is_none_is_refused(
    start: Start, models: Path, tmp_path: Path, engine: ModelServer
) -> None:
    (tmp_path / "session.config").write_text("threads: 1")
    flag = f"--tensorflow_session_config_file={tmp_path}/session.config"
    server = start(f"--model_base_path={models}/scale", flag)
    assert server.wait() == engine.refused(2)
    assert f"Invalid protobuf file: '{tmp_path}/session.config'" in server.output
    if engine.embedded:
        assert f"{flag}: Invalid" in server.output
        assert "Expected a text-format ConfigProto" in server.output


def over_tls(server: Process, authority: Authority, *, client: bool) -> list[float]:
    """What gRPC answers to a client with or without a certificate of its own."""
    own = (authority.text("client.key").encode(), authority.text("client.pem").encode()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.text("ca.pem").encode(), *own)
    request = PredictRequest()
    request.model_spec.name = "default"
    request.inputs["x"].CopyFrom(to_proto(np.ones((1, 3), np.float32)))
    with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        return list(call(request, timeout=20).outputs["y"].float_val)


def rest_over_tls(server: Process, authority: Authority, *, client: bool) -> int:
    """The status of REST, to such a client."""
    context = ssl.create_default_context(cafile=authority.path("ca.pem"))
    if client:
        context.load_cert_chain(authority.path("client.pem"), authority.path("client.key"))
    with httpx2.Client(verify=context, trust_env=False) as rest:
        status: int = rest.get(f"https://localhost:{server.rest_port}/v1/models/default").status_code
        return status


def rest_tls(engine: ModelServer) -> tuple[str, ...]:
    """The flag that has REST speak TLS, too; the real server's can't."""
    return ("--rest_api_enable_tls",) if engine.embedded else ()


def test_both_protocols_speak_tls(start: Start, models: Path, authority: Authority, engine: ModelServer) -> None:
    flags = (f"--model_base_path={models}/scale", f"--ssl_config_file={authority.config('tls.config')}")
    server = start(*flags, *rest_tls(engine)).ready()

    assert over_tls(server, authority, client=False) == [-2, -2, -2]
    if engine.embedded:
        assert rest_over_tls(server, authority, client=False) == 200
        with pytest.raises(httpx2.HTTPError):
            get(server, "/v1/models/default")


def test_clients_without_a_certificate_are_refused_when_that_is_wanted(
    start: Start, models: Path, authority: Authority, engine: ModelServer
) -> None:
    verified = authority.config(
        "mutual.config", f"custom_ca: {json.dumps(authority.text('ca.pem'))}", "client_verify: true"
    )
    flags = (f"--model_base_path={models}/scale", f"--ssl_config_file={verified}")
    server = start(*flags, *rest_tls(engine)).ready()

    assert over_tls(server, authority, client=True) == [-2, -2, -2]
    with pytest.raises(grpc.RpcError):
        over_tls(server, authority, client=False)
    if engine.embedded:
        assert rest_over_tls(server, authority, client=True) == 200
        with pytest.raises(httpx2.HTTPError):
            rest_over_tls(server, authority, client=False)


def test_a_configuration_of_tls_that_can_not_work_is_refused_and_not_shown(authority: Authority) -> None:
    encrypt = ("openssl", "pkey", "-in", "server.key", "-aes256", "-passout", "pass:secret", "-out", "encrypted.key")
    subprocess.run(encrypt, cwd=authority.folder, check=True, capture_output=True)
    (authority.folder / "junk").write_text("junk")
    ca = f"custom_ca: {json.dumps(authority.text('ca.key'))}"
    for key, certificate, more, why in (
        ("client.key", "server.pem", (), "server_key does not belong to server_cert"),
        ("encrypted.key", "server.pem", (), "server_key is encrypted. Decrypt it"),
        ("server.pem", "server.key", (), "server_key contains no private key in PEM"),
        ("server.key", "junk", (), "server_cert contains no certificate in PEM"),
        ("server.key", "server.pem", (ca,), "custom_ca contains no certificate in PEM"),
    ):
        with pytest.raises(StartError) as refused:
            read_tls(authority.config("wrong.config", *more, key=key, certificate=certificate))
        assert f"server_key, server_cert and custom_ca can't be used together: {why}" in str(refused.value)
    authority.config("torn.config", "nonsense")
    with pytest.raises(StartError, match=r"torn\.config'; line 3, column \d+\. Expected a text-format SSLConfig$"):
        read_tls(authority.folder / "torn.config")
    (authority.folder / "empty.config").write_text("")
    with pytest.raises(StartError, match="contains no server_key, a PEM text"):
        read_tls(authority.folder / "empty.config")
    with pytest.raises(StartError, match="client_verify requires custom_ca"):
        read_tls(authority.config("lonely.config", "client_verify: true"))

"""Changes that a server refuses, takes late, or never: the file is as it was, and the error says what is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.serving.fleets import fleet as make_fleet
from tfserving.clients.grpc_calls import RELOAD, STATUS
from tfserving.foundation.messages import GetModelStatusResponse, ReloadConfigResponse
from tfserving.serving import live, running
from tfserving.serving.config import POLL_SECONDS_WITH_TLS, models_config
from tfserving.serving.engines import EngineError
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import Running

Said = list[str]
Firsts = list[Callable[[grpc.ServicerContext], None]]
FULL = "Server Threadpool Exhausted"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return make_fleet(tmp_path)


def noted(fleet: Fleet, ports: tuple[int, int], *, tls: bool = False) -> tuple[Running, Path]:
    """A native server of the fleet that is on these ports, and the file that it reads."""
    poll_seconds = POLL_SECONDS_WITH_TLS if tls else 0
    server = Running("native", "127.0.0.1", *ports, ("digits",), tls, pid=1, poll_seconds=poll_seconds)
    path = running.config_folder(fleet, "native", ports[0]) / "models.config"
    running.write_config(path.parent, {"models.config": ""})
    running.write_models_config(path, models_config(fleet, ("digits",), server.places(fleet)))
    return server, path


@pytest.fixture
def reloads() -> Iterator[tuple[int, Firsts]]:
    """The port of a server of version 1 that takes changes, and what it does first, one item for a change.

    It knows of no label. Once an item has raised, the server is gone.
    """
    firsts: Firsts = []
    gone = threading.Event()

    def take(_request: bytes, context: grpc.ServicerContext) -> bytes:
        if firsts and not gone.is_set():
            try:
                firsts.pop(0)(context)
            except ConnectionError:
                gone.set()
        return answer(ReloadConfigResponse(), context)

    def status(_request: bytes, context: grpc.ServicerContext) -> bytes:
        response = GetModelStatusResponse()
        response.model_version_status.add(version=1, state="AVAILABLE")
        return answer(response, context)

    def answer(response: Any, context: grpc.ServicerContext) -> bytes:
        if gone.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return bytes(response.SerializeToString())

    methods = {RELOAD: take, STATUS: status}

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            method = methods.get(details.method)
            return grpc.unary_unary_rpc_method_handler(method) if method else None

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, firsts
    server.stop(0).wait()


def refuse(context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, FULL)


def test_a_busy_server_gets_the_change_again_which_is_reported(fleet: Fleet, reloads: tuple[int, Firsts]) -> None:
    port, firsts = reloads
    firsts += [refuse, refuse]
    server, path = noted(fleet, (port, port))
    said: Said = []
    config = models_config(fleet.with_labels("digits", {"stable": 1}), ("digits",), server.places(fleet))
    live.tell(server, path, config, 30, said.append)
    assert firsts == []
    assert running.read_models_config(path) == config
    busy = f"The native server on port {port} is busy ({FULL}). The change is sent again in"
    assert said == [f"{busy} 0.2 s …", f"{busy} 0.4 s …"]


def test_a_server_that_never_returns_is_left_in_time(
    fleet: Fleet, reloads: tuple[int, Firsts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that was sent a model whose folder is missing."""
    monkeypatch.setattr(live, "_BACK_SECONDS", 1.0)
    port, firsts = reloads
    released = threading.Event()

    def wait(_: grpc.ServicerContext) -> None:
        released.wait(60)

    firsts.append(wait)
    server, path = noted(fleet, (port, port))
    before = path.read_bytes()
    with pytest.raises(EngineError) as caught:
        live.apply(fleet.with_labels("digits", {"stable": 1}), server, 1, print)
    released.set()
    assert "the server did not load the new configuration within --wait: " in str(caught.value)
    assert "TensorFlow Serving waits forever for a model whose folder doesn't exist" in str(caught.value)
    assert path.read_bytes() == before


def test_a_server_that_can_not_go_back_is_told_with_the_way_out(fleet: Fleet, reloads: tuple[int, Firsts]) -> None:
    port, firsts = reloads

    def end(_: grpc.ServicerContext) -> None:
        raise ConnectionError

    firsts.append(end)
    server, path = noted(fleet, (port, port))
    before = path.read_bytes()
    with pytest.raises(EngineError) as caught:
        live.apply(fleet.with_labels("digits", {"stable": 1}), server, 5, print)
    said = str(caught.value)
    assert f"the native server on port {port} did not accept the new configuration: over gRPC: UNAVAILABLE: " in said
    assert ". Going back failed, too: " in said
    assert f". {path} has the configuration before, so a restart serves it" in said
    assert path.read_bytes() == before

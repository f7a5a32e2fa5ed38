"""A server whose threads are all busy answers probes and the metrics page, and skips requests that nobody waits for."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ModelServer
from tests.serving.embedded.rest.wire import GOOD, Wire, connected, get, post
from tests.serving.embedded.running import Gate, Process, together, wait_until

pytestmark = together

CONFIG = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
METRICS = "/monitoring/prometheus/metrics"
STATUSES = ("/healthz", "/readyz", "/readyz/scale", METRICS, "/v1/models", "/v1/models/gated")
# However slow the machine is. The requests before them wait for a file that is not there yet.
SOON = 5.0


def flags(models: Path, folder: Path) -> tuple[str, ...]:
    """Those of a server of a model whose requests wait for a `Gate`, and of another."""
    entries = "".join(CONFIG.format(name, models) for name in ("gated", "scale"))
    (folder / "models.config").write_text(f"model_config_list {{ {entries} }}")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    return (
        f"--model_config_file={folder}/models.config",
        f"--monitoring_config_file={folder}/monitoring.config",
        "--allow_file_and_python_ops",
        "--enable_model_listing",
        "--access_log",
    )


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory, prepared: ModelServer) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("busy")
    threads = (
        "--rest_api_num_threads=2",
        "--rest_api_timeout_in_ms=60000",
        "--trusted_proxies=127.0.0.0/8,10.1.0.0/16",
    )
    process = Process(*flags(models, folder), *threads, engine=prepared)
    try:
        yield process.ready()
    finally:
        process.stop()


def waits(gate: Gate) -> bytes:
    """A request that is answered when the gate is open."""
    return post("gated:predict", json.dumps({"inputs": [str(gate.path)]}).encode())


@contextlib.contextmanager
def busy(server: Process, gate: Gate, count: int) -> Iterator[list[Wire]]:
    """So many requests that wait, more than the server has threads."""
    with contextlib.ExitStack() as stack:
        sent = [stack.enter_context(connected(server, seconds=60)) for _ in range(count)]
        for one in sent:
            one.send(waits(gate))
        try:
            yield sent
        finally:
            gate.open()


def test_probes_metrics_and_statuses_are_answered_while_all_threads_are_busy(server: Process, tmp_path: Path) -> None:
    with busy(server, Gate(tmp_path), 16) as sent, connected(server) as probe:
        for path in STATUSES:
            for method in ("GET", "HEAD") if path.startswith(("/healthz", "/readyz")) else ("GET",):
                begun = time.monotonic()
                probe.send(get(path, method))
                assert probe.answer(body=method == "GET")[0] == 200
                assert time.monotonic() - begun < SOON
        for one in sent:
            one.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.socket.recv(1)
            one.socket.settimeout(60)
        Gate(tmp_path).open()
        assert [one.answer()[0] for one in sent] == [200] * 16


def served(server: Process, model: str) -> int:
    """How many requests to a model were answered."""
    with connected(server) as probe:
        probe.send(get(METRICS))
        page = probe.answer()[1].decode()
    found = re.search(rf'request_count{{model_name="{model}",status="OK"}} (\d+)', page)
    return int(found[1]) if found else 0


def logged(server: Process, path: str, status: int) -> int:
    """How many lines of the access log have this path and this status."""
    lines = [json.loads(line) for line in list(server.lines) if line.startswith("{")]
    return sum(line["path"] == path and line["status"] == status for line in lines)


def test_a_request_whose_client_has_left_is_not_begun(server: Process, tmp_path: Path) -> None:
    before = served(server, "scale")
    with busy(server, Gate(tmp_path), 2) as sent, contextlib.ExitStack() as stack:
        impatient = [stack.enter_context(connected(server)) for _ in range(20)]
        for one in impatient:
            one.send(post("scale:predict", GOOD))
        last = stack.enter_context(connected(server))
        last.send(post("scale:predict", GOOD))
        for one in impatient:
            one.socket.close()
        # What came before the probe has been seen when it is answered.
        probe = stack.enter_context(connected(server))
        probe.send(get("/healthz"))
        assert probe.answer()[0] == 200
        Gate(tmp_path).open()
        assert [one.answer()[0] for one in sent] == [200, 200]
        assert last.answer()[0] == 200
    wait_until("lines of those who left", lambda: logged(server, "/v1/models/scale:predict", 499) == 20)
    assert served(server, "scale") == before + 1


def test_the_access_log_has_the_client_that_a_trusted_proxy_names(server: Process) -> None:
    with connected(server) as proxy:
        for number, forwarded in enumerate(("1.2.3.4", "6.6.6.6, 1.2.3.4,10.1.0.7", "nonsense", "")):
            header = (f"X-Forwarded-For: {forwarded}",) if forwarded else ()
            proxy.send(post(f"scale/labels/{number}:predict", GOOD, *header))
            assert proxy.answer()[0] == 400

    def clients() -> list[str]:
        lines = [json.loads(line) for line in list(server.lines) if line.startswith("{")]
        return [line["client"].partition(":")[0] for line in lines if "/labels/" in line["path"]]

    wait_until("four lines", lambda: len(clients()) == 4)
    assert clients() == ["1.2.3.4", "1.2.3.4", "nonsense", "127.0.0.1"]

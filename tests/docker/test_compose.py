"""Compose on a real engine: the server, a real Prometheus that watches it, a real Envoy before it."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from docker import DockerClient

from tests.authority import Authority
from tests.docker.conftest import SCALED, Fleet, make_fleet, remove_all
from tests.docker.engine import COMPOSE, ENVOY
from tests.servers import free_ports, wait_for
from tfserving.clients import Tls, connect
from tfserving.serving.compose.services import DASHBOARD
from tfserving.serving.health import MEMORY_METRIC

Left = Callable[[], dict[str, set[str]]]


class Watched(Fleet):
    """A fleet that Compose runs: Grafana, which no registry in reach has, left out."""

    prometheus_port: int
    envoy_port: int

    def say_split(self, percent: int) -> None:
        split = f"split: {{scaled: {percent}}}"
        envoy = f"{{image: '{ENVOY}', port: {self.envoy_port}, certificate: server.pem, key: server.key, {split}}}"
        self.say(
            f"{SCALED}    labels: {{stable: 1, canary: 2}}\n"
            f"compose: {{{COMPOSE}, prometheus_port: {self.prometheus_port}, envoy: {envoy}}}\n"
        )

    def query(self, expression: str) -> list[Any]:
        answer = httpx2.get(
            f"http://127.0.0.1:{self.prometheus_port}/api/v1/query", params={"query": expression}
        ).json()
        assert answer["status"] == "success", (expression, answer)
        return list(answer["data"]["result"])

    def served_by(self, count: int) -> Counter[str]:
        """Which label answered, of so many requests over HTTPS."""
        url = f"https://localhost:{self.envoy_port}/v1/models/scaled:predict"
        found: Counter[str] = Counter()
        with httpx2.Client(verify=ssl.create_default_context(cafile=self.folder / "ca.pem")) as client:
            for _ in range(count):
                answer = client.post(url, json={"instances": [[1, 2, 3]]})
                label = answer.headers["x-served-label"]
                assert answer.json() == {"predictions": [{"stable": 6.0, "canary": 12.0}[label]]}
                found[label] += 1
        return found


@pytest.fixture
def watched(docker: DockerClient, docker_host: str, exported: Path, tmp_path: Path) -> Iterator[Watched]:
    made = make_fleet(docker, docker_host, exported, tmp_path)
    fleet = Watched(made.folder, made.host, made.state, made.docker, made.grpc_port, made.rest_port)
    fleet.prometheus_port, fleet.envoy_port = free_ports(2)
    Authority(fleet.folder)
    fleet.version(2)
    yield fleet
    fleet.toolkit("compose", "down", code=None)
    remove_all(fleet)


def of_all(expression: str) -> str:
    """What Grafana makes of an expression when all of each variable is chosen."""
    return re.sub(r"\$(namespace|job|model)\b", ".*", expression).replace("$__rate_interval", "1m")


def test_up_watched_split_and_down(watched: Watched, left: Left) -> None:
    before = left()
    watched.say_split(30)
    done = watched.toolkit("compose", "up", *watched.ports)
    assert "Starting server, prometheus, memory, envoy …" in done.stderr
    assert f"Prometheus  http://127.0.0.1:{watched.prometheus_port}" in done.stdout
    assert f"REST with TLS  https://127.0.0.1:{watched.envoy_port}" in done.stdout
    server = watched.container

    # TLS is verified, and the split is as it was said.
    address = f"https://localhost:{watched.envoy_port}"
    with connect(address, tls=Tls(watched.folder / "ca.pem")) as client:
        assert client.predict("scaled-canary", [[1, 2, 3]], version=2).outputs["sums"].tolist() == [12.0]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{address}/v1/models/scaled")
    found = watched.served_by(300)
    assert 50 < found["canary"] < 130, found
    with httpx2.Client(verify=ssl.create_default_context(cafile=watched.folder / "ca.pem")) as http:
        assert http.get(f"{address}/monitoring/prometheus/metrics").status_code == 404
        wrong = http.post(f"{address}/v1/models/scaled:predict", json={"instances": [["word"]]})
        assert wrong.status_code == 400

    # What the dashboard asks, a real Prometheus answers.
    wait_for(lambda: watched.query(":tensorflow:serving:request_count"), what="the server's metrics")
    wait_for(lambda: {one["metric"]["job"] for one in watched.query("up == 1")} == {"server", "memory"}, what="targets")
    panels = json.loads(DASHBOARD.read_text())["panels"]
    empty = [
        panel["title"] for panel in panels for target in panel["targets"] if not watched.query(of_all(target["expr"]))
    ]
    # No batching and no GPU here; a rate comes with a second reading.
    rates = {"Requests", "Errors", "Latency", "Latency in TensorFlow"}
    assert set(empty) <= {*rates, "Batching: wait", "Batching: runs", "Memory"}
    answered = 'sum(rate(:tensorflow:serving:request_count{status="OK"}[1m])) > 0'
    wait_for(lambda: watched.served_by(1) and watched.query(answered), what="a rate")
    wait_for(lambda: watched.query(f"{MEMORY_METRIC} > 1e8"), what="the server's memory")
    (versions,) = (panel for panel in panels if panel["title"] == "Versions")
    rows = {
        (row["metric"]["model"], row["metric"]["version"])
        for row in watched.query(of_all(versions["targets"][0]["expr"]))
    }
    # What was loaded, by the folder that it was loaded from: the canary's is the model's.
    assert rows == {("scaled", "1"), ("scaled", "2")}

    # Another split starts Envoy anew and nothing else; labels move while the server runs.
    watched.say_split(100)
    watched.toolkit("compose", "up", *watched.ports)
    assert watched.served_by(20) == {"canary": 20}
    watched.toolkit("labels", "set", "scaled", "stable=2")
    watched.toolkit("serve", "reload")
    assert watched.container.id == server.id
    assert watched.toolkit("serve", "logs").stdout == watched.container.logs().decode()
    status = json.loads(watched.toolkit("serve", "status", "--json").stdout)["servers"]
    assert [(one["engine"], one["health"], one["available"]) for one in status] == [("compose", "healthy", True)]

    done = watched.toolkit("compose", "down")
    assert "Stopping server, prometheus, memory, envoy …" in done.stderr
    assert left() == before
    assert not [path for path in watched.state.rglob("*") if path.is_file()]
    assert "No services of " in watched.toolkit("compose", "down").stderr


def test_what_ends_comes_back(watched: Watched) -> None:
    watched.say_split(50)
    watched.toolkit("compose", "up", *watched.ports)
    # Its memory is told again after a crash.
    psutil.Process(watched.container.attrs["State"]["Pid"]).children()[0].kill()
    wait_for(lambda: watched.container.attrs["RestartCount"] == 1, what="the restart")
    started = f'time() - timestamp({MEMORY_METRIC}) < 5 and {MEMORY_METRIC} > 1e8 and on() up{{job="memory"}} == 1'
    wait_for(lambda: watched.container.attrs["State"]["Health"]["Status"] == "healthy", what="its health")
    wait_for(lambda: watched.query(started), what="the server's memory")

    # One that was stopped by hand comes back.
    watched.container.stop()
    watched.toolkit("compose", "up", *watched.ports)
    assert watched.served_by(1)


def test_what_does_not_come_up_leaves_nothing(watched: Watched, left: Left) -> None:
    before = left()
    watched.say_split(10)
    broken = watched.folder / "models/scaled/2/saved_model.pb"
    broken.write_bytes(broken.read_bytes()[:100])
    done = watched.toolkit("compose", "up", *watched.ports, code=1)
    assert "tfserving labels remove scaled canary --fleet" in done.stderr
    assert left() == before
    assert not [path for path in watched.state.rglob("*") if path.is_file()]


def test_a_port_that_is_taken_is_named_by_its_setting(watched: Watched) -> None:
    watched.say_split(10)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", watched.prometheus_port))
        taken.listen()
        done = watched.toolkit("compose", "up", *watched.ports, code=2)
    assert f"compose.prometheus_port={watched.prometheus_port}: can't listen on port" in done.stderr
    assert watched.containers == []


def test_what_is_rendered_is_what_compose_takes(watched: Watched, tmp_path: Path) -> None:
    """Grafana included."""
    watched.say_split(10)
    watched.say(watched.file.read_text().replace("grafana: null, ", ""))
    there = tmp_path / "there"
    watched.toolkit("compose", "render", str(there))
    done = subprocess.run(
        ["docker-compose", "--file", str(there / "compose.yaml"), "config", "--services"],
        env=watched.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"server", "prometheus", "memory", "grafana", "envoy"}
    assert not re.search("unsupported|WARNING", done.stderr)

"""What becomes of requests when a container is told to stop: by the toolkit, by `docker stop`, by Compose."""

from __future__ import annotations

import contextlib
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from docker import DockerClient

from tests.authority import Authority
from tests.docker.conftest import SCALED, Fleet, make_fleet, remove_all
from tests.docker.engine import COMPOSE, ENVOY
from tests.docker.test_up import await_line
from tests.servers import free_ports, wait_for
from tfserving.clients import connect
from tfserving.clients.errors import ServingError

ANSWER, CUT_OFF = [6.0], "cut off"
SIGTERM = 143
PREDICT = "/v1/models/scaled:predict"
BODY = {"instances": [[1, 2, 3]]}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as made:
        yield made


@contextlib.contextmanager
def paused(container: Any) -> Iterator[psutil.Process]:
    """The server of a container, stopped as a debugger does it: it reads nothing, and answers when it goes on."""
    container.reload()
    server = psutil.Process(container.attrs["State"]["Pid"]).children(recursive=True)[-1]
    server.suspend()
    try:
        yield server
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.resume()


def predict(address: str) -> Any:
    try:
        with connect(address, timeout=60) as client:
            return client.predict("scaled", [[1, 2, 3]]).outputs["sums"].tolist()
    except ServingError:
        return CUT_OFF


def sent(fleet: Fleet, container: Any, pool: ThreadPoolExecutor) -> list[Future[Any]]:
    """Requests over both protocols that the paused server has not read."""
    tables = "cat /proc/net/tcp /proc/net/tcp6"

    def waiting() -> int:
        lines = container.exec_run(["sh", "-c", tables]).output.decode().splitlines()
        fields = [line.split() for line in lines]
        return sum(
            one[1].endswith((":2134", ":2135")) and one[3] == "01" and not one[4].endswith(":00000000")
            for one in fields
        )

    before = waiting()
    requests = [pool.submit(predict, address) for address in (fleet.grpc, fleet.rest)]
    wait_for(lambda: waiting() >= before + 2, what="the requests")
    return requests


def log(container: Any) -> str:
    return str(container.logs().decode())


def drains(container: Any) -> None:
    wait_for(lambda: "Draining: waiting for requests in flight" in log(container), what="the drain")


@pytest.mark.parametrize("command", ["down", "restart"])
def test_requests_in_flight_are_answered_before_a_container_ends(
    fleet: Fleet, pool: ThreadPoolExecutor, command: str
) -> None:
    fleet.up()
    container = fleet.container
    with paused(container) as server:
        requests = sent(fleet, container, pool)
        ended = pool.submit(fleet.toolkit, "serve", command)
        drains(container)
        server.resume()
        assert [request.result() for request in requests] == [ANSWER, ANSWER]
    ended.result()


def test_a_second_ctrl_c_removes_the_container_at_once(fleet: Fleet, pool: ThreadPoolExecutor) -> None:
    with fleet.process("serve", "--engine", "docker", *fleet.ports) as process:
        await_line(process, "Ctrl-C")
        container = fleet.container
        with paused(container):
            requests = sent(fleet, container, pool)
            process.send_signal(signal.SIGINT)
            drains(container)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.endswith("Requests in flight are cut off.\n\nStopped.\n")
    assert [request.result() for request in requests] == [CUT_OFF, CUT_OFF]
    assert fleet.containers == []


def test_a_container_without_requests_ends_soon(fleet: Fleet) -> None:
    fleet.up()
    with connect(fleet.grpc) as client:
        client.predict("scaled", [[1, 2, 3]])
        began = time.monotonic()
        fleet.container.stop(timeout=60)
        assert time.monotonic() - began < 5
    assert fleet.container.attrs["State"]["ExitCode"] == 0


def test_what_takes_longer_than_drain_seconds_is_cut_off_and_down_reports_it(
    fleet: Fleet, pool: ThreadPoolExecutor
) -> None:
    fleet.say(f"{SCALED}server: {{drain_seconds: 1}}\n")
    fleet.up()
    container = fleet.container
    with paused(container) as server:
        requests = sent(fleet, container, pool)
        down = pool.submit(fleet.toolkit, "serve", "down")
        drains(container)
        wait_for(lambda: "1 s are over" in log(container), what="the end of the time")
        # A process that is stopped ends by SIGTERM when it goes on.
        server.resume()
        assert CUT_OFF in [request.result() for request in requests]
        assert "Draining: 1 s are over. Requests in flight are cut off." in down.result().stderr


@pytest.fixture(scope="module")
def baked(
    docker: DockerClient, docker_host: str, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    made = make_fleet(docker, docker_host, exported, tmp_path_factory.mktemp("baked"))
    made.toolkit("image", "--tag", "baked:drains")
    yield made
    remove_all(made)
    docker.images.remove("baked:drains")


@contextlib.contextmanager
def running(fleet: Fleet, **how: Any) -> Iterator[Any]:
    """A container of the baked image, as `docker run` starts it: the image's entry point is process 1."""
    ports = {"8500/tcp": ("127.0.0.1", fleet.grpc_port), "8501/tcp": ("127.0.0.1", fleet.rest_port)}
    container = fleet.docker.containers.run("baked:drains", detach=True, read_only=True, ports=ports, **how)
    try:
        with connect(fleet.rest) as client:
            client.wait_until_available("scaled", timeout=60)
        yield container
    finally:
        container.remove(force=True, v=True)


@pytest.mark.parametrize("init", [False, True], ids=["process 1", "--init"])
def test_docker_stop_of_a_baked_image_waits_for_requests(baked: Fleet, pool: ThreadPoolExecutor, init: bool) -> None:
    with running(baked, init=init) as container, paused(container) as server:
        requests = sent(baked, container, pool)
        # The time that `docker stop` gives.
        stopped = pool.submit(container.stop, timeout=10)
        drains(container)
        server.resume()
        assert [request.result() for request in requests] == [ANSWER, ANSWER]
        stopped.result()
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0


@pytest.mark.parametrize(("said", "seconds"), [(None, 8), ("1", 1)])
def test_a_baked_image_ends_within_the_time_that_docker_stop_gives(
    baked: Fleet, pool: ThreadPoolExecutor, said: str | None, seconds: int
) -> None:
    with running(baked, environment={"DRAIN_SECONDS": said} if said else {}) as container, paused(container) as server:
        sent(baked, container, pool)
        stopped = pool.submit(container.stop, timeout=10)
        wait_for(lambda: f"Draining: {seconds} s are over" in log(container), what="the end of the time")
        server.resume()
        stopped.result()
        container.reload()
        # It was not killed, and cut off requests.
        assert container.attrs["State"]["ExitCode"] == SIGTERM


def test_health_checks_leave_no_zombies(baked: Fleet) -> None:
    with running(baked) as container:

        def healthy() -> bool:
            container.reload()
            return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

        wait_for(healthy, what="its health")
        wait_for(lambda: container.reload() or len(container.attrs["State"]["Health"]["Log"]) >= 2, what="two checks")
        first = psutil.Process(container.attrs["State"]["Pid"])
        assert [one.status() for one in first.children(recursive=True)].count(psutil.STATUS_ZOMBIE) == 0


def test_compose_ends_envoy_first_and_what_came_through_it_is_answered(
    docker: DockerClient, docker_host: str, exported: Path, tmp_path: Path, left: Callable[[], dict[str, set[str]]]
) -> None:
    before = left()
    fleet = make_fleet(docker, docker_host, exported, tmp_path)
    Authority(fleet.folder)
    port, prometheus = free_ports(2)
    envoy = f"{{image: '{ENVOY}', port: {port}, certificate: server.pem, key: server.key}}"
    fleet.say(f"{SCALED}compose: {{{COMPOSE}, prometheus_port: {prometheus}, envoy: {envoy}}}\n")
    trust = ssl.create_default_context(cafile=fleet.folder / "ca.pem")
    url = f"https://localhost:{port}{PREDICT}"

    def through_envoy() -> Any:
        return httpx2.post(url, json=BODY, timeout=60, verify=trust).json()["predictions"]

    def refused() -> bool:
        try:
            httpx2.get(url, timeout=1, verify=trust)
        except httpx2.ConnectError:
            return True
        except httpx2.TransportError:
            return False
        return False

    try:
        fleet.toolkit("compose", "up", *fleet.ports)
        assert through_envoy() == ANSWER
        server = fleet.container
        (proxy,) = (one for one in docker.containers.list() if "envoy" in str(one.name))
        with paused(server) as process, ThreadPoolExecutor() as pool:
            request = pool.submit(through_envoy)
            wait_for(lambda: not request.done() and active(proxy) > 0, what="a request in flight")
            down = pool.submit(fleet.toolkit, "compose", "down")
            drains(proxy)
            wait_for(refused, what="the end of new connections")
            process.resume()
            assert request.result() == ANSWER
            down.result()
        assert left() == before
    finally:
        fleet.toolkit("compose", "down", code=None)
        remove_all(fleet)


def active(proxy: Any) -> int:
    """The requests in flight that Envoy counts."""
    script = (
        "exec 3<>/dev/tcp/127.0.0.1/9901; "
        "printf 'GET /stats?filter=http.rest.downstream_rq_active HTTP/1.1\\r\\nHost: localhost\\r\\n"
        "Connection: close\\r\\n\\r\\n' >&3; cat <&3"
    )
    text = proxy.exec_run(["bash", "-c", script]).output.decode()
    return int(text.rpartition("downstream_rq_active:")[2].split()[0])

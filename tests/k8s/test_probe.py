"""The probe: what clients see and no metrics page counts, and what is no client's."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from pydantic import ValidationError

from tests.k8s.followed import phases_told
from tests.k8s.load import BY_STABLE, UNLABELLED, Load
from tests.k8s.rolled import MODELS
from tests.servers import ROOT, STAND_IN, Served, free_ports, install, serve, wait_for
from tests.stand_in.threads import POLLING, REFUSAL
from tfserving.clients import connect
from tfserving.clients.errors import ServingError
from tfserving.clients.metrics import PATH, read_metrics
from tfserving.clients.page import read_page
from tfserving.foundation.devices import Device
from tfserving.foundation.golden import Golden, GoldenRequest
from tfserving.foundation.messages import ModelServerConfig
from tfserving.foundation.model_server import VARIABLE
from tfserving.k8s.rollout.controller import Controller
from tfserving.k8s.rollout.in_place import InPlace
from tfserving.k8s.rollout.local import LocalStore
from tfserving.k8s.rollout.probe import MOST_IN_FLIGHT, SECONDS, Place, Probe
from tfserving.k8s.rollout.progress import Kind, Progress
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import GateError, Instance, RolloutError, Serve
from tfserving.serving.engines.readiness import taken
from tfserving.serving.models_yaml.fleet import read_fleet
from tfserving.serving.models_yaml.rollout import Rollout

THREADS = 2
SERVER = f"server: {{grpc_max_threads: {POLLING + THREADS}}}\n"
CONFIG = 'model_config_list {{ config {{ name: "scaled" base_path: "{}" model_platform: "tensorflow" }} }}'
QUICK = Rollout(window=0.5, longest=30, latency=1e6, error_rate=0.3, probe=20, bake=0)
ONE = Golden((GoldenRequest("serving_default", {"rows": np.ones((1, 3), np.float32)}, {}),), {})


@dataclass(eq=False)
class Refusing:
    """A fleet, and a server of it with few threads for gRPC, which refuses what exceeds them and counts none of it."""

    folder: Path
    server: Served
    # Over which a server with TLS isn't asked.
    has_grpc: bool = True
    name = "stand-in"
    device: Device | None = None

    @property
    def grpc(self) -> str | None:
        return self.server.url("grpc").removeprefix("grpc://") if self.has_grpc else None

    @property
    def rest(self) -> str:
        return self.server.url("rest").removeprefix("http://")

    def configure(self, serve: Serve, *, keep: bool = True) -> None:  # noqa: ARG002 - there is nothing to keep
        config = text_format.Parse(CONFIG.format(self.folder / "models/scaled"), ModelServerConfig())
        with connect(self.server.url("grpc")) as client:
            try:
                client.reload_config(serve.applied(config))
            except ServingError as error:
                if not taken(error):
                    raise

    def leaves(self) -> bool:
        return False

    # What else a rollout wants of where its servers are.
    def instances(self) -> list[Instance]:
        return [self]

    def keep(self, serve: Serve) -> None:
        """There is nothing to keep."""

    def finish(self, model: str, labels: Mapping[str, int]) -> None:
        """There is nothing to note."""

    def close(self) -> None:
        """There is nothing to close."""

    def strategy(self, settings: Rollout) -> InPlace:
        fleet = read_fleet(self.folder / "models.yaml")
        return InPlace(fleet.model_copy(update={"rollout": settings}), 60, Progress(), self)

    def page(self) -> str:
        return read_page(self.server.url("rest") + PATH)


@pytest.fixture(scope="module")
def refusing(scaled_versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    folder = tmp_path_factory.mktemp("probe")
    shutil.copytree(scaled_versions / "1", folder / "models/scaled/1")
    (folder / "models.yaml").write_text(MODELS + SERVER)
    fleet = ["--fleet", str(folder / "models.yaml"), "--port", "{port}", "--rest-port", "{rest_port}"]
    command = [sys.executable, "-m", "tfserving", "serve", "--engine", "native", *fleet]
    with serve(command, ROOT, {VARIABLE: str(install(STAND_IN, folder / "bin"))}) as server:
        for version in ("2", "4"):
            shutil.copytree(scaled_versions / version, folder / "models/scaled" / version)
        yield Refusing(folder, server)


def rolled_out_to(version: int) -> State:
    return State("scaled", 1, version, {"stable": 1}, (1,), (version,), phase="stable")


def test_our_own_checks_are_on_no_page(refusing: Refusing) -> None:
    """Neither those of the start, nor those of a rollout, which looks for versions and labels before they are there."""
    strategy, state = refusing.strategy(QUICK), rolled_out_to(2)
    strategy.load(state, time.sleep)
    strategy.compare(state, time.sleep)
    strategy.go_back(state)
    found = set(re.findall(r"request_(?:count|latency_count)\{model_name=\"scaled\",(.*)\}", refusing.page()))
    # Golden requests, which are timed.
    assert found == {'status="OK"', 'API="Predict",entrypoint="GRPC"'}


def test_refusals_that_no_page_counts_take_a_version_back(refusing: Refusing) -> None:
    # Slow, so that requests are in flight beside one another.
    state = rolled_out_to(4)
    refusing.strategy(QUICK).load(state, time.sleep)
    with Load((refusing.server.url("grpc"),), rate=100, kinds=(BY_STABLE,)) as sent, phases_told(sent.enters):
        wait_for(lambda: sent.versions.get(1, 0) > 5)
        store = LocalStore(read_fleet(refusing.folder / "models.yaml"), "scaled")
        ended = Controller(refusing.strategy(QUICK), store, Ending(sent)).run(state)
    assert ended.phase == "rolled-back"
    assert re.match(rf"stable: probe: .* requests to .* failed \(RESOURCE_EXHAUSTED: {REFUSAL}\)", ended.reason)
    # The server's page has nothing of it.
    (clients,) = (figure for figure in ended.figures if figure.gate == "clients")
    assert clients.numbers["new"]["requests"] > clients.numbers["new"]["failed"] == 0
    assert "RESOURCE_EXHAUSTED" not in refusing.page()
    assert all(REFUSAL in failure for failure in sent.failures)


class Ending(Progress):
    """Ends the load as soon as a version is taken back, which a server that is busy couldn't be."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load

    def __call__(self, text: str, kind: Kind = "step") -> None:  # noqa: ARG002 - as Progress has it
        if text.startswith("Rolling back"):
            self._load.end()


@pytest.mark.parametrize("through_an_address", [False, True])
def test_neither_health_checks_nor_the_probe_are_requests_of_clients(
    refusing: Refusing, through_an_address: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    address = refusing.server.url("grpc") if through_an_address else None
    strategy = refusing.strategy(QUICK.model_copy(update={"address": address}))
    state, over = rolled_out_to(2), threading.Event()

    def check() -> None:
        with connect(refusing.server.url("rest")) as client:
            while not over.wait(0.02):
                client.metadata("scaled")
                client.status("scaled")

    checks = threading.Thread(target=check)
    checks.start()
    try:
        found = strategy.do(state, time.sleep)
    finally:
        over.set()
        checks.join()
    strategy.go_back(state)
    assert "  clients: no requests to version 2" in capsys.readouterr().err
    assert {figure.gate for figure in found.figures} == {"probe", *(["address"] if address else [])}
    assert 'API="",entrypoint="REST"' in refusing.page()


@pytest.mark.parametrize("has_grpc", [True, False])
def test_a_page_without_the_probes_requests_has_those_of_clients(refusing: Refusing, has_grpc: bool) -> None:
    strategy, state = replace(refusing, has_grpc=has_grpc).strategy(QUICK), rolled_out_to(2)
    before = read_metrics(refusing.server.url("rest") + PATH, "scaled")
    urls = (refusing.server.url("grpc"), refusing.server.url("rest"))
    with Load(urls, rate=20, kinds=(UNLABELLED, BY_STABLE)) as sent:
        strategy.load(state, time.sleep)
        sent.enters(state)
        moved = strategy.do(state, time.sleep)
    strategy.go_back(state)
    figures = {figure.gate: figure.numbers for figure in moved.figures}
    own, clients = (sum(figures[gate][side]["requests"] for side in ("new", "old")) for gate in ("probe", "clients"))
    counted = read_metrics(refusing.server.url("rest") + PATH, "scaled").since(before).total
    assert counted - own >= clients
    assert sent.answered >= clients >= 10
    # The threads are few.
    assert all(REFUSAL in failure for failure in sent.failures)


def test_an_address_that_leads_nowhere_is_told_before_anything_changes(refusing: Refusing) -> None:
    address = f"grpc://127.0.0.1:{free_ports(1)[0]}"
    strategy = refusing.strategy(QUICK.model_copy(update={"address": address}))
    with pytest.raises(RolloutError, match=rf"^rollout\.address {address}: .*UNAVAILABLE"):
        strategy.check(replace(rolled_out_to(2), phase="loading"))
    # A rollout that is under way can always be taken back.
    strategy.check(rolled_out_to(2))
    # One of which it is so since then isn't judged by failures alone.
    with pytest.raises(GateError, match=r"all requests of the probe .* fail: .*UNAVAILABLE: .*`rollout\.address`"):
        strategy.move(rolled_out_to(2), time.sleep)


class Silent:
    """A server that takes every connection, and sends nothing."""

    def __enter__(self) -> Silent:
        self.connections: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in (self._socket, *self.connections):
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.connections.append(self._socket.accept()[0])


def test_what_hangs_has_failed_and_no_more_than_so_many_do() -> None:
    with Silent() as server, Probe([Place(server.url, "scaled")], ONE, 100) as probe:
        wait_for(lambda: probe.begun() == MOST_IN_FLIGHT)
        wait_for(lambda: probe.take().failures)
        assert probe.begun() <= MOST_IN_FLIGHT


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_probe_that_is_left_ends_at_once_though_requests_are_in_flight(scheme: str) -> None:
    def interrupted(server: Silent) -> None:
        with Probe([Place(server.url.replace("http", scheme), "scaled")], ONE, 20):
            wait_for(lambda: server.connections)
            raise KeyboardInterrupt

    with Silent() as server:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupted(server)
        wait_for(lambda: not any(one.name == "probe" for one in threading.enumerate()))
        assert time.monotonic() - started < SECONDS / 2
        # What is in flight keeps no program from ending.
        assert all(one.daemon for one in threading.enumerate() if one.name.startswith("probe"))


def test_a_server_that_is_down_has_failed() -> None:
    place = Place(f"grpc://127.0.0.1:{free_ports(1)[0]}", "scaled")
    with Probe([place], ONE, 20) as probe:
        failed = Counter[str]()
        wait_for(lambda: failed.update(probe.take().failed) or failed)
        (failure,) = failed
    assert failure.startswith("UNAVAILABLE: ")
    assert "Connection refused" in failure


def test_a_server_that_is_taken_away_has_not_failed_and_gets_no_more_requests() -> None:
    looked = threading.Semaphore(0)

    def leaves() -> bool:
        looked.release()
        return True

    place = Place(f"grpc://127.0.0.1:{free_ports(1)[0]}", "scaled", leaves=leaves)
    with Silent() as other, Probe([place, Place(other.url, "scaled")], ONE, 20) as probe:
        assert looked.acquire(timeout=60)
        wait_for(lambda: len(other.connections) > 5)
        while looked.acquire(timeout=0):
            pass
        wait_for(lambda: len(other.connections) > 10)
        assert not looked.acquire(timeout=0)
        assert probe.take().failures == 0


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"address": "gateway:80"}, "'gateway:80' is not a URL; write grpc"),
        ({"probe": 101}, "less than or equal to 100"),
        ({"probe": -1}, "greater than or equal to 0"),
    ],
)
def test_a_probe_that_can_not_be_is_refused(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(reason)):
        Rollout(**said)

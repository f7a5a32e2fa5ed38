"""Several processes on the same ports: to a client they are one server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from tests.servers import ModelServer
from tests.serving.embedded import saved_models
from tests.serving.embedded.running import Asker, Process, Start, embedded_only, wait_until, workers_of
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import ModelServerConfig, ReloadConfigRequest, ReloadConfigResponse

pytestmark = embedded_only
# The kernel gives each connection to one of the workers; of so many, both get some.
CONNECTIONS = 16


def stage(folder: Path, model: str, versions: Iterable[int]) -> None:
    """Writes versions where no server looks, for `add`: what is asked meanwhile is asked of a server that changes."""
    for version in versions:
        saved_models.scale(folder / "staged" / model, version, float(version))


def add(ask: Asker, folder: Path, model: str, version: int) -> None:
    """Adds a version to a model, and waits until it is served."""
    staged = folder / "staged" / model / str(version)
    if not staged.exists():
        stage(folder, model, [version])
    staged.rename(folder / model / str(version))
    wait_until(f"version {version}", lambda: ask.state(model, version) == "AVAILABLE")


def connect(server: Process, number: int = CONNECTIONS) -> list[Asker]:
    return [Asker(server) for _ in range(number)]


def versions_answered(asks: list[Asker], model: str) -> set[int]:
    """Which versions answer, over both protocols and all connections."""
    over_grpc = {int(ask.predict(model, {"x": rows(1)})["version"][0]) for ask in asks}
    over_rest = {
        ask.post(f"{model}:predict", {"instances": rows(1).tolist()})[1]["predictions"][0]["version"] for ask in asks
    }
    return over_grpc | over_rest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    for model in ("latest", "all", "broken", "new"):
        saved_models.scale(folder / model, 1, 1.0)
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    (folder / "models.config").write_text(text_format.MessageToString(config(folder)))
    return folder


def config(folder: Path, *more: str) -> Any:
    """A ModelServerConfig with the models `latest`, `broken`, `all`, of which every version is served, and `more`."""
    message = ModelServerConfig()
    for name in ("latest", "broken", "all", *more):
        model = message.model_config_list.config.add(
            name=name, base_path=str(folder / name), model_platform="tensorflow"
        )
        if name == "all":
            model.model_version_policy.all.SetInParent()
    return message


def flags(folder: Path) -> tuple[str, ...]:
    return (
        "--workers=2",
        f"--model_config_file={folder}/models.config",
        f"--monitoring_config_file={folder}/monitoring",
        "--enable_version_metrics",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=0",
    )


@pytest.fixture(scope="module")
def running(engine: ModelServer, folder: Path) -> Iterator[Callable[[], Process]]:
    """Gives the server that runs, or starts another one when it was killed."""
    servers: list[Process] = []

    def give() -> Process:
        if not servers or servers[-1].process.poll() is not None:
            servers.append(Process(*flags(folder), engine=engine).ready())
        return servers[-1]

    yield give
    for server in servers:
        server.stop()


@pytest.fixture
def server(running: Callable[[], Process]) -> Process:
    return running()


def test_versions_change_for_all_workers_in_one_moment(server: Process, folder: Path) -> None:
    asked = 0
    ended = threading.Event()

    def keep_asking(offset: int) -> None:
        nonlocal asked
        seen = {"latest": 0, "all": 0}
        connections = cycle(islice(cycle(asks), offset, offset + CONNECTIONS))
        while not ended.is_set():
            for model, before in seen.items():
                # Each request goes to another connection, so often to another worker, than the one before.
                version = int(next(connections).predict(model, {"x": rows(1)})["version"][0])
                assert version >= before, "a worker answers with what another one no longer has"
                seen[model] = version
            number = seen["all"]
            answer = next(connections).predict("all", {"x": rows(1)}, version=number)
            assert answer["version"].tolist() == [number], "a worker lacks what another one answers with"
            asked += 1

    for model in ("latest", "all"):
        stage(folder, model, range(2, 8))
    asks = connect(server)
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, 4 * number) for number in range(4)]
        try:
            for version in range(2, 8):
                for model in ("latest", "all"):
                    add(asks[0], folder, model, version)
        finally:
            ended.set()
        for one in asking:
            one.result()
    assert asked > 100
    assert versions_answered(asks, "latest") == {7}
    assert {ask.state("latest", 6) for ask in asks} <= {"UNLOADING", "END"}


def test_a_reload_holds_for_all_when_it_is_answered(server: Process, folder: Path) -> None:
    first, *others = connect(server)
    add(first, folder, "all", 8)
    for version in (1, 8, 1):
        request = ReloadConfigRequest(config=config(folder, "new"))
        request.config.model_config_list.config[2].version_labels["stable"] = version
        first.call("ModelService/HandleReloadConfigRequest", request, ReloadConfigResponse)
        for ask in others:
            assert ask.predict("all", {"x": rows(1)}, label="stable")["version"].tolist() == [version]
            assert ask.predict("new", {"x": rows(1)})["version"].tolist() == [1]
            assert ask.rest.get("/readyz").status_code == 200


def test_a_reload_that_is_refused_says_so_and_changes_nothing(server: Process, folder: Path) -> None:
    asks = connect(server)
    before = versions_answered(asks, "latest")
    request = ReloadConfigRequest()
    request.config.model_config_list.config.add(name="x", base_path=f"{folder}/none", model_platform="tensorflow")
    with pytest.raises(Exception, match=f"Could not find base path {folder}/none for servable x"):
        asks[0].call("ModelService/HandleReloadConfigRequest", request, ReloadConfigResponse)
    assert versions_answered(asks, "latest") == before


def test_what_replaces_a_killed_worker_has_what_the_others_have(server: Process, folder: Path) -> None:
    add(Asker(server), folder, "latest", 9)
    first, second = workers_of(server)
    os.kill(first, signal.SIGKILL)
    wait_until("the end of one", lambda: server.says("ended with exit code -9 and is replaced"))
    assert versions_answered(connect(server), "latest") == {9}, "the other one answers alone"
    wait_until("another", lambda: server.says("a new worker serves in its place"))
    (third,) = workers_of(server) - {first, second}
    os.kill(second, signal.SIGKILL)
    wait_until("the end of the other", lambda: server.output.count(" ended with exit code ") == 2)
    assert versions_answered(connect(server), "latest") == {9}, "what took its place answers alone"
    add(Asker(server), folder, "latest", 10)
    assert versions_answered(connect(server), "latest") == {10}
    wait_until("two again", lambda: server.output.count("a new worker serves in its place") == 2)
    assert third in workers_of(server)


def test_a_version_that_fails_to_load_fails_for_all(server: Process, folder: Path) -> None:
    saved_models.broken(folder / "broken", 2, folder / "broken" / "1")
    asks = connect(server)
    wait_until("version 2's end", lambda: asks[0].state("broken", 2) == "END")
    assert {ask.status("broken")[2][1].split(";")[0] for ask in asks} == {"Read less bytes than requested"}
    assert versions_answered(asks, "broken") == {1}
    shutil.rmtree(folder / "broken" / "2")


def test_what_all_workers_counted_is_one_page(server: Process) -> None:
    asks = connect(server)
    before = {requests(ask, "broken") for ask in asks}
    assert len(before) == 1, "who is asked makes no difference"
    versions_answered(asks, "broken")
    assert {requests(ask, "broken") for ask in asks} == {before.pop() + 2 * CONNECTIONS}


def requests(ask: Asker, model: str) -> int:
    """How many requests to a model were answered, as the page says in all, and for its only version."""
    page = ask.rest.get("/monitoring/prometheus/metrics").text
    in_all, by_version = (
        re.findall(rf'{family}{{model_name="{model}",{version}status="OK"}} (\d+)', page)
        for family, version in (("request_count", ""), ("request_count_by_version", 'version="1",'))
    )
    assert in_all == by_version
    return int(in_all[0]) if in_all else 0


def test_a_port_is_not_shared_with_another_server(server: Process, start_command: Start, folder: Path) -> None:
    other = start_command(*flags(folder), grpc_port=server.grpc_port)
    assert other.wait() == 1
    assert other.says(f"error: --port={server.grpc_port}: can't listen on port {server.grpc_port}")


def test_what_keeps_a_worker_from_starting_ends_the_server(start_command: Start, folder: Path) -> None:
    server = start_command(*flags(folder), f"--request_log={folder}/{'x' * 250}")
    assert server.wait() == 1
    assert re.search(r"^\S+ error: a worker can't start: --request_log=.*: File name too long", server.output, re.M)
    assert "is replaced" not in server.output


def test_a_server_that_is_killed_leaves_no_worker_and_serves_again_at_once(
    server: Process, start_command: Start, folder: Path
) -> None:
    workers = workers_of(server)
    assert len(workers) == 2
    # Not even one that can't notice.
    os.kill(min(workers), signal.SIGSTOP)
    server.signal(signal.SIGKILL)
    again = start_command(*flags(folder), grpc_port=server.grpc_port, rest_port=server.rest_port).ready()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert len(versions_answered(connect(again), "latest")) == 1
    ending = workers_of(again)
    again.signal(signal.SIGTERM)
    assert again.wait() == 0
    wait_until("its workers' end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in ending))

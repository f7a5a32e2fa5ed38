"""`labels` and `reload` on a server that runs, whatever engine runs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import psutil
import pytest
from click.testing import CliRunner, Result

from tests.exporting import export_scaled
from tests.nvidia_smi import H200, SECOND, write_nvidia_smi
from tests.servers import STAND_IN, ModelServer, Served, free_ports, model_servers, serve, wait_for
from tests.serving.due import ChangedLoad
from tests.serving.due import Served as Due
from tests.serving.embedded import saved_models
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.clients.errors import FailedPrecondition, NotFound, ServingError
from tfserving.foundation.model_server import VARIABLE
from tfserving.k8s.rollout.local import LocalTarget
from tfserving.k8s.rollout.target import Serve
from tfserving.serving import live
from tfserving.serving.commands.banner import banner
from tfserving.serving.engines import Plan
from tfserving.serving.models_yaml.fleet import read_fleet
from tfserving.serving.running import config_folder, read_models_config
from tfserving.serving.running import note as write_note
from tfserving.serving.running import running as running_servers
from tfserving.serving.served import Served as OneServed
from tfserving.serving.served import all_served
from tfserving.serving.steps import steps

ROOT = Path(__file__).resolve().parents[2]
SCALED = "models:\n  scaled:\n    builder: tests.scaled:build  # ours\n"


@pytest.fixture(scope="module", params=["embedded", "native"])
def engine(request: pytest.FixtureRequest, stand_in: Path) -> Iterator[ModelServer]:
    """The embedded server, and TensorFlow Serving or, where this machine has none, its stand-in."""
    there = {server.name: server for server in model_servers()}
    with pytest.MonkeyPatch.context() as patch:
        if request.param not in there:
            patch.setenv(VARIABLE, str(stand_in))
        yield there.get(request.param, STAND_IN)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models.yaml of a model whose versions 1, 2 and 3 have the scales 1, 2 and 3.

    Only the newest has a proof, of which a query is printed.
    """
    folder = tmp_path_factory.mktemp("live")
    (folder / "models.yaml").write_text(SCALED)
    for version in (1, 2):
        saved_models.sums(folder / "models" / "scaled", version, float(version))
    export_scaled(folder / "models.yaml", [3])
    return folder / "models.yaml"


@pytest.fixture(scope="module")
def running(engine: ModelServer, fleet: Path) -> Iterator[Callable[[], Served]]:
    """Gives the server of the fleet that runs, or starts another one when it was ended."""
    ports = ["--port", "{port}", "--rest-port", "{rest_port}"]
    words = ["serve", "--engine", engine.name, "--fleet", str(fleet), *ports]
    servers: list[Served] = []
    with contextlib.ExitStack() as stack:

        def give() -> Served:
            if not servers or servers[-1].process.poll() is not None:
                command = [sys.executable, "-m", "tfserving", *words]
                # All that it prints is in its log.
                servers.append(stack.enter_context(serve(command, ROOT, {"TF_CPP_MIN_LOG_LEVEL": "0"})))
            return servers[-1]

        yield give


@pytest.fixture
def server(running: Callable[[], Served], fleet: Path) -> Served:
    """A server of version 3, without labels."""
    fleet.write_text(SCALED)
    served = running()
    toolkit(fleet, "serve", "reload")
    return served


def run(fleet: Path, *words: str) -> Result:
    """Runs `tfserving WORDS`."""
    return CliRunner().invoke(tfserving, [*words, "--fleet", str(fleet)])


def toolkit(fleet: Path, *words: str, code: int = 0) -> str:
    """Runs `tfserving WORDS`, which must exit with `code`; returns its stderr."""
    done = run(fleet, *words)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit | None)
    return done.stderr


def toolkit_prints(fleet: Path, *words: str) -> str:
    """Runs `tfserving WORDS`; returns its stdout."""
    done = run(fleet, *words)
    assert done.exit_code == 0, done.output
    return done.stdout


def scale(server: Served, label: str | None = None) -> float:
    """Which version answers, by its scale, over both protocols."""
    found = set()
    for protocol in ("grpc", "rest"):
        with connect(server.url(protocol)) as client:
            found.add(float(client.predict("scaled", [[1, 0, 0]], label=label).outputs["sums"][0]))
    (one,) = found
    return one


def test_labels_move_while_the_server_runs(server: Served, fleet: Path, engine: ModelServer) -> None:
    said = toolkit(fleet, "labels", "set", "scaled", "live=1", "next=3")
    assert f"The {engine.name} server on port {server.grpc_port} is up to date." in said
    assert "Labels of scaled: live=1, next=3." in said
    assert "builder: tests.scaled:build  # ours" in fleet.read_text()
    assert [scale(server, label) for label in ("live", "next", None)] == [1, 3, 3]
    toolkit(fleet, "labels", "set", "scaled", "next=2")
    assert [scale(server, label) for label in ("live", "next", None)] == [1, 2, 3]
    # The old version goes.
    toolkit(fleet, "labels", "set", "scaled", "live=2")
    with connect(server.url("rest")) as client:
        assert {one.version for one in client.status("scaled") if one.state == "AVAILABLE"} == {2, 3}
    toolkit(fleet, "labels", "remove", "scaled", "next", "live")
    with connect(server.url("rest")) as client:
        assert [one.version for one in client.status("scaled") if one.state == "AVAILABLE"] == [3]
        with pytest.raises(ServingError):
            client.predict("scaled", [[1, 2, 3]], label="live")


def test_clients_without_a_label_get_what_is_stable_through_every_change_and_restart(
    server: Served, running: Callable[[], Served], fleet: Path
) -> None:
    """Versions 2 and 3 are on disk all the time."""
    said = toolkit(fleet, "labels", "set", "scaled", "stable=1")
    assert "Clients get" not in said
    with ChangedLoad((server.url("grpc"), server.url("rest"))) as load:
        load.serves(20)
        with load.becomes(1, canary=2):
            said = toolkit(fleet, "labels", "set", "scaled", "canary=2")
            assert "Clients get version 2 as model scaled-canary.\n" in said
        with load.becomes(3, canary=3):
            toolkit(fleet, "labels", "set", "scaled", "stable=3", "canary=3")
        with load.becomes(2, 1, canary=3):
            toolkit(fleet, "labels", "set", "scaled", "stable=2", "previous=1")
    assert not load.failures
    assert {kind for kind, *_ in load.counts} == {*load.kinds}
    shown = json.loads(toolkit_prints(fleet, "serve", "status", "--json"))["servers"][0]["models"]
    assert (shown["scaled"]["clients_get"], shown["scaled"]["because"]) == (2, "stable")
    assert shown["scaled"]["newer_on_disk"] == []
    assert (shown["scaled-canary"]["clients_get"], shown["scaled-canary"]["because"]) == (3, "canary")
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    again = running()
    assert "  scaled         version 2, stable; previous → 1\n  scaled-canary  version 3, canary\n" in again.output
    with ChangedLoad((again.url("grpc"), again.url("rest")), served=Due(2, frozenset({1, 2}), 3)) as load:
        load.serves(20)
        with load.becomes(1):
            fleet.write_text(f"{SCALED}    labels: {{stable: 1}}\n    versions: all\n")
            toolkit(fleet, "serve", "reload")
    assert not load.failures
    assert "; 2 newer versions, up to 3, are on disk but not stable\n" in toolkit_prints(fleet, "serve", "status")


def test_a_version_that_does_not_load_changes_nothing(server: Served, fleet: Path) -> None:
    """Neither as the canary, a model that is new to the server, nor as a version of one that it has."""
    toolkit(fleet, "labels", "set", "scaled", "stable=1")
    before = fleet.read_text()
    broken = fleet.parent / "models/scaled/4"
    saved_models.broken(fleet.parent / "models/scaled", 4, fleet.parent / "models/scaled/3")
    try:
        for label, name in (("canary", "scaled-canary"), ("stable", "scaled")):
            said = toolkit(fleet, "labels", "set", "scaled", f"{label}=4", code=1)
            assert f"model '{name}': version 4 END (" in said
            assert said.endswith(". The server serves the same versions as before\n")
            assert fleet.read_text() == before
            assert [scale(server, label) for label in ("stable", None)] == [1, 1]
    finally:
        shutil.rmtree(broken)
    # The server still shows what failed. It is no failure of the same version, put right.
    shutil.copytree(fleet.parent / "models/scaled/3", broken)
    try:
        for label in ("canary", "stable"):
            toolkit(fleet, "labels", "set", "scaled", f"{label}=4")
        assert scale(server) == 3
        toolkit(fleet, "labels", "set", "scaled", "stable=1", "canary=1")
    finally:
        shutil.rmtree(broken)


def test_it_goes_back_to_versions_that_are_unloaded_already(server: Served, fleet: Path) -> None:
    """A label that moves needs a loaded version, on the way back, too."""
    toolkit(fleet, "labels", "set", "scaled", "stable=1")
    old = read_fleet(fleet)
    new = old.with_labels("scaled", {"stable": 3, "canary": 2})
    (running,) = running_servers(old, lambda _: False)
    path = config_folder(old, running.engine, running.grpc_port) / "models.config"
    before, served = read_models_config(path), all_served(old, ("scaled",))
    live.apply(new, running, 60, print)
    assert scale(server, "stable") == 3
    wanted = read_models_config(path)
    told = [(before, served)]
    told += [
        (live._written(step.served, before, wanted), step.served)
        for step in steps(served, all_served(new, ("scaled",)))
    ]
    with connect(running.url) as client:
        live._go_back(running, path, client, told, print)
    assert read_models_config(path) == before
    assert [scale(server, label) for label in ("stable", None)] == [1, 1]


def test_a_rollout_changes_the_server_too_and_what_it_refuses_is_not_kept(
    server: Served, fleet: Path, engine: ModelServer
) -> None:
    (instance,) = LocalTarget(read_fleet(fleet), "scaled", lambda _: False).instances()
    (path,) = Path(os.environ["XDG_STATE_HOME"]).rglob(f"{engine.name}-{server.grpc_port}/config/models.config")

    def serve(versions: tuple[int, ...], labels: dict[str, int]) -> Serve:
        return Serve("scaled", (OneServed("scaled", "scaled", versions, labels),))

    instance.configure(serve((1, 3), {}))
    with connect(server.url("grpc")) as client:
        client.wait_until_available("scaled", version=1)
        instance.configure(serve((1, 3), {"stable": 1}))
        client.wait_until_available("scaled", label="stable")
    assert scale(server, "stable") == 1
    if not engine.embedded:
        before = path.read_text()
        # A label can't move to a version that isn't loaded.
        with pytest.raises(FailedPrecondition):
            instance.configure(serve((2, 3), {"stable": 2}))
        assert path.read_text() == before
        assert scale(server, "stable") == 1


def test_the_log_is_shown_and_followed_as_long_as_the_server_lives(
    server: Served, fleet: Path, engine: ModelServer
) -> None:
    def calls() -> int:
        return toolkit_prints(fleet, "serve", "logs").count("Adding/updating models.")

    before = calls()
    toolkit(fleet, "labels", "set", "scaled", "live=1")
    if not engine.embedded:
        # Once at the start and for each step of a change, the version and the label: it does not poll the file.
        assert before >= 1
        assert calls() == before + 2
    printed = toolkit_prints(fleet, "serve", "logs").splitlines()
    loading = "{name: scaled version: 3}" if not engine.embedded else "loading model 'scaled' version 3"
    assert any(loading in line for line in printed)
    assert toolkit_prints(fleet, "serve", "logs", "--tail", "2").splitlines() == printed[-2:]
    (log,) = Path(os.environ["XDG_STATE_HOME"]).rglob(f"{engine.name}-{server.grpc_port}/server.log")
    assert log.stat().st_mode & 0o777 == 0o600
    command = [sys.executable, "-m", "tfserving", "serve", "logs", "--follow", "--fleet", str(fleet)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline()
        toolkit(fleet, "labels", "set", "scaled", "live=2")
        loading = loading.replace("3", "2")
        assert any(loading in line for line in process.stdout)
        server.process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0
    assert server.process.wait(60) == 0
    assert not log.parent.exists()


def test_our_own_checks_are_no_requests_on_the_metrics_page(server: Served, fleet: Path) -> None:
    def counted() -> list[str]:
        page = httpx2.get(f"{server.url('rest')}/monitoring/prometheus/metrics").text
        return [line for line in page.splitlines() if line.startswith(":tensorflow:serving:request_")]

    before = counted()
    toolkit(fleet, "labels", "set", "scaled", "live=1")
    toolkit(fleet, "labels", "set", "scaled", "live=2")
    toolkit(fleet, "serve", "reload")
    assert run(fleet, "serve", "status").exit_code == 0
    assert counted() == before


def test_no_answer_is_lost_while_labels_move(server: Served, fleet: Path) -> None:
    toolkit(fleet, "labels", "set", "scaled", "live=1")
    command = [sys.executable, "-m", "tfserving", "labels", "set", "scaled", "live=3", "--fleet", str(fleet)]
    answers: list[float] = []
    with (
        connect(server.url("grpc")) as client,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        while process.poll() is None or answers[-1] != 3:
            answers.append(float(client.predict("scaled", [[1, 0, 0]], label="live").outputs["sums"][0]))
    assert process.returncode == 0
    assert answers == sorted(answers)
    assert (answers[0], answers[-1]) == (1, 3)


def test_reload_takes_what_models_yaml_says_of_versions(server: Served, fleet: Path) -> None:
    fleet.write_text(f"{SCALED}    versions: [1, 2]\n    labels: {{old: 1}}\n")
    toolkit(fleet, "serve", "reload")
    assert [scale(server, label) for label in ("old", None)] == [1, 2]
    fleet.write_text(f"{SCALED}    versions: all\n")
    toolkit(fleet, "serve", "reload")
    assert scale(server) == 3


def test_reload_serves_new_models_and_unloads_those_that_are_gone(server: Served, fleet: Path) -> None:
    more = f"{SCALED}  more:\n    builder: tests.scaled:build\n"
    fleet.write_text(more)
    # It was never exported.
    said = toolkit(fleet, "serve", "reload", code=2)
    assert "models.more: model 'more' has no version in " in said
    saved_models.sums(fleet.parent / "models/more", 1, 5.0)
    said = toolkit(fleet, "serve", "reload")
    scaled = r"\n  scaled: .*version 3 AVAILABLE.*\n    version 3: manifest sha256:.*"
    assert re.search(rf" serves:{scaled}\n  more: version 1 AVAILABLE.* get version 1,", said)
    for protocol in ("grpc", "rest"):
        with connect(server.url(protocol)) as client:
            assert client.predict("more", [[1, 0, 0]]).outputs["sums"].tolist() == [5.0]
    assert "more: version 1 AVAILABLE" in run(fleet, "serve", "status").output
    fleet.write_text(SCALED)
    said = toolkit(fleet, "serve", "reload")
    assert said.endswith("  more: unloaded, because models.yaml does not contain it any more\n")
    with connect(server.url("grpc")) as client, pytest.raises(NotFound):
        client.predict("more", [[1, 0, 0]])
    shutil.rmtree(fleet.parent / "models/more")


def test_reload_keeps_to_the_models_that_a_server_was_started_with(server: Served, fleet: Path) -> None:
    read = read_fleet(fleet)
    (note,) = running_servers(read, lambda _: False)
    assert note.whole
    # As `serve scaled` has it.
    write_note(read, replace(note, whole=False))
    try:
        fleet.write_text(f"{SCALED}  more:\n    builder: tests.scaled:build\n")
        said = toolkit(fleet, "serve", "reload")
        where = f"server on port {server.grpc_port}"
        assert re.search(rf" {where} serves:\n  scaled: .*version 3 AVAILABLE", said)
        assert re.search(rf"\nThe \w+ {where} was started without more, and still does not serve it\.\n$", said)
        fleet.write_text(SCALED.replace("scaled:\n", "more:\n", 1))
        said = toolkit(fleet, "serve", "reload", code=2)
        assert f"server on port {server.grpc_port} serves scaled, and {fleet} contains none of these" in said
    finally:
        write_note(read, note)
    assert scale(server) == 3


def test_what_does_not_check_is_never_written(server: Served, fleet: Path, engine: ModelServer) -> None:
    folder = Path(os.environ["XDG_STATE_HOME"])

    def written() -> str:
        (path,) = folder.rglob(f"{engine.name}-{server.grpc_port}/config/models.config")
        return path.read_text()

    before = written()
    assert "label 'live' is for version 9" in toolkit(fleet, "labels", "set", "scaled", "live=9", code=2)
    assert "Got 'live', expected LABEL=VERSION" in toolkit(fleet, "labels", "set", "scaled", "live", code=2)
    assert "no model is called 'scald'" in toolkit(fleet, "labels", "set", "scald", "live=1", code=2)
    assert "has no label 'live'; it has none" in toolkit(fleet, "labels", "remove", "scaled", "live", code=2)
    fleet.write_text(f"{SCALED}    versions: [1, 9]\n")
    assert "models.scaled.versions: [9] is not in" in toolkit(fleet, "serve", "reload", code=2)
    assert written() == before
    assert scale(server) == 3


def test_status_shows_the_server_and_forgets_it_when_it_has_ended(
    server: Served, fleet: Path, engine: ModelServer
) -> None:
    def status(code: int) -> str:
        done = run(fleet, "serve", "status")
        assert done.exit_code == code
        return done.output

    shown = status(0)
    assert f"the {engine.name} server\n  gRPC  127.0.0.1:{server.grpc_port}\n" in shown
    assert re.search(r"  scaled: .*version 3 AVAILABLE.*\. Clients get version 3, the newest\n", shown)
    server.process.kill()
    wait_for(lambda: "no server of" in status(3) if server.process.poll() is not None else False, what="its end")
    assert not list(Path(os.environ["XDG_STATE_HOME"]).rglob(f"{engine.name}-{server.grpc_port}"))


def test_nobody_changes_what_is_served_but_by_the_file(server: Served, fleet: Path, engine: ModelServer) -> None:
    config = (
        f'model_config_list {{ config {{ name: "scaled" base_path: "{fleet.parent}/models/scaled" '
        'model_platform: "tensorflow" } }'
    )
    with connect(server.url("grpc")) as client:
        if engine.embedded:
            with pytest.raises(ServingError, match="HandleReloadConfigRequest is turned off"):
                client.reload_config(config)
        else:
            client.reload_config(config)
    assert scale(server) == 3


def test_shells_that_change_labels_at_once_all_do(server: Served, fleet: Path) -> None:
    command = [sys.executable, "-m", "tfserving", "labels", "set", "scaled"]
    pipe = subprocess.PIPE
    shells = [
        subprocess.Popen([*command, f"{label}=1", "--fleet", str(fleet)], cwd=ROOT, stderr=pipe, text=True)
        for label in "abc"
    ]
    for shell in shells:
        _, said = shell.communicate(timeout=180)
        assert shell.returncode == 0, said
    assert [scale(server, label) for label in "abc"] == [1, 1, 1]
    for label in "abc":
        assert f"{label}: 1\n" in fleet.read_text()


@pytest.mark.parametrize("text", ["model_config_list {", None])
def test_a_configuration_that_is_cut_is_told(server: Served, fleet: Path, text: str | None) -> None:
    (path,) = Path(os.environ["XDG_STATE_HOME"]).rglob(f"*-{server.grpc_port}/config/models.config")
    before = path.read_text()
    try:
        path.write_text(text) if text is not None else path.unlink()
        said = toolkit(fleet, "labels", "set", "scaled", "live=1", code=1)
    finally:
        path.write_text(before)
    assert f"Error: {path}, the server's configuration, can't be read: " in said
    assert "live" not in fleet.read_text()
    assert scale(server) == 3


def test_status_and_banner_name_the_gpu_and_the_memory_of_the_server(
    server: Served, fleet: Path, engine: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (noted,) = (one for one in running_servers(read_fleet(fleet), bool) if one.grpc_port == server.grpc_port)
    # The server is a child of the command that runs it.
    child = psutil.Process(noted.pid).children()[0].pid
    write_nvidia_smi(tmp_path, (H200, SECOND), ((SECOND[1], str(child), "server", "672"),))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    device = "NVIDIA H200 (GPU 1), 0.7 of 140.4 GiB"
    assert f"\n  Device  {device}\n" in run(fleet, "serve", "status").output
    (shown,) = json.loads(toolkit_prints(fleet, "serve", "status", "--json"))["servers"]
    assert (shown["device"], shown["gpus"][0]["used_bytes"]) == (device, 672 << 20)
    plan = Plan(read_fleet(fleet), ("scaled",), "127.0.0.1", server.grpc_port, server.rest_port)
    assert f"\nDevice  {device}; TF32 off\n" in banner(plan, engine.name, {"scaled": 3}, ())


def test_what_to_ask_a_version_without_golden_requests(fleet: Path) -> None:
    plan = Plan(read_fleet(fleet), ("scaled",), "127.0.0.1", 8500, 8501)
    shown = banner(plan, "embedded", {"scaled": 1}, ["Ctrl-C stops it."]).splitlines()
    assert shown[-2:] == ["  curl -s http://127.0.0.1:8501/v1/models/scaled/metadata", "Ctrl-C stops it."]
    assert ":predict" in banner(plan, "embedded", {"scaled": 3}, ["Ctrl-C stops it."])


def test_ctrl_c_before_it_serves_leaves_nothing(fleet: Path, engine: ModelServer) -> None:
    grpc_port, rest_port = free_ports(2)
    words = ["serve", "--engine", engine.name, "--fleet", str(fleet), "--port", str(grpc_port)]
    command = [sys.executable, "-m", "tfserving", *words, "--rest-port", str(rest_port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("Starting"):
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert said.strip() == "Stopped."
    assert not [one for one in psutil.process_iter(["cmdline"]) if f"--port={grpc_port}" in (one.info["cmdline"] or [])]
    assert not list(Path(os.environ["XDG_STATE_HOME"]).rglob(f"*-{grpc_port}"))


def test_labels_for_no_server_are_for_the_next_start(fleet: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(fleet.parent, tmp_path / "alone")) / "models.yaml"
    alone.write_text(SCALED)
    said = toolkit(alone, "labels", "set", "scaled", "stable=2")
    assert "The change takes effect when one starts, by `" in said
    assert "stable: 2" in alone.read_text()


def test_a_canary_that_does_not_load_keeps_a_server_from_starting(
    fleet: Path, engine: ModelServer, tmp_path: Path
) -> None:
    alone = Path(shutil.copytree(fleet.parent, tmp_path / "alone")) / "models.yaml"
    alone.write_text(f"{SCALED}    labels: {{stable: 1, canary: 4}}\n")
    saved_models.broken(alone.parent / "models/scaled", 4, alone.parent / "models/scaled/3")
    ports = [
        word for name, port in zip(("port", "rest-port"), free_ports(2), strict=True) for word in (f"--{name}", port)
    ]
    done = run(alone, "serve", "--engine", engine.name, *map(str, ports))
    assert done.exit_code == 1
    assert re.search(
        "scaled-canary is models.scaled.labels.canary in models.yaml, and a server starts with all of its models or "
        f"not at all. `.*tfserving labels remove scaled canary --fleet {alone}` removes it\n$",
        done.stderr,
    )


def test_any_server_can_be_looked_at_and_reloaded_without_models_yaml(
    server: Served, fleet: Path, engine: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit(fleet, "labels", "set", "scaled", "stable=1", "canary=2", "shadow=1")
    listed = toolkit_prints(fleet, "labels", "list")
    column = f"{engine.name} server on port {server.grpc_port}"
    assert re.search(rf"^model +label +models\.yaml +{column}$", listed, re.M)
    for label, version in (("stable", 1), ("canary", 2), ("shadow", 1)):
        assert re.search(rf"^scaled +{label} +{version} +{version}$", listed, re.M)

    monkeypatch.chdir(tmp_path)
    for protocol in ("grpc", "rest"):
        words = ["--server", server.url(protocol)]
        done = CliRunner().invoke(tfserving, ["serve", "status", "scaled", *words])
        assert done.exit_code == 0, done.output
        # Without models.yaml, `shadow` is not known.
        assert re.search(r"^scaled: .*version 1 AVAILABLE, stable → 1, canary → 2$", done.stdout, re.M)
        done = CliRunner().invoke(tfserving, ["labels", "list", "scaled", "--label", "shadow", *words, "--json"])
        rows = json.loads(done.stdout)["labels"]
        assert {row["label"]: row["versions"]["version"] for row in rows} == {"stable": 1, "canary": 2, "shadow": 1}
        assert CliRunner().invoke(tfserving, ["serve", "status", "nope", *words]).exit_code == 1
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "scaled" base_path: "{fleet.parent}/models/scaled" '
        'model_platform: "tensorflow" } }'
    )
    words = ["serve", "reload", "--server", server.url("grpc"), "--config", str(config)]
    done = CliRunner().invoke(tfserving, words)
    # The embedded server reads its file instead.
    assert done.exit_code == (1 if engine.embedded else 0), done.output

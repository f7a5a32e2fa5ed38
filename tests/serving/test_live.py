"""`labels` and `reload` on a server that runs, whatever engine runs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from tests.exporting import export_scaled
from tests.servers import ModelServer, Served, free_ports, serve, wait_for
from tests.serving.embedded import saved_models
from tfserving.clients import connect
from tfserving.clients.errors import ServingError
from tfserving.serving.cli import main
from tfserving.serving.commands.options import banner
from tfserving.serving.engines import Plan
from tfserving.serving.models_yaml.fleet import read_fleet

ROOT = Path(__file__).resolve().parents[2]
SCALED = "models:\n  scaled:\n    builder: tests.scaled:build  # ours\n"


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
    words = ["serve", "run", "--engine", engine.name, "--fleet", str(fleet), *ports]
    servers: list[Served] = []
    with contextlib.ExitStack() as stack:

        def give() -> Served:
            if not servers or servers[-1].process.poll() is not None:
                servers.append(stack.enter_context(serve([sys.executable, "-m", "tfserving", *words], ROOT)))
            return servers[-1]

        yield give


@pytest.fixture
def server(running: Callable[[], Served], fleet: Path) -> Served:
    """A server of version 3, without labels."""
    fleet.write_text(SCALED)
    served = running()
    toolkit(fleet, "reload")
    return served


def run(fleet: Path, *words: str) -> Result:
    """Does what `tfserving serve WORDS` does."""
    return CliRunner().invoke(main, [*words, "--fleet", str(fleet)])


def toolkit(fleet: Path, *words: str, code: int = 0) -> str:
    """`tfserving serve WORDS`, which must exit with `code`; what it said."""
    done = run(fleet, *words)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit | None)
    return done.stderr


def scale(server: Served, label: str | None = None) -> float:
    """Which version answers, by its scale, over both protocols."""
    found = set()
    for protocol in ("grpc", "rest"):
        with connect(server.url(protocol)) as client:
            found.add(float(client.predict("scaled", [[1, 0, 0]], label=label).outputs["sums"][0]))
    (one,) = found
    return one


def test_labels_move_while_the_server_runs(server: Served, fleet: Path, engine: ModelServer) -> None:
    said = toolkit(fleet, "labels", "set", "scaled", "stable=1", "canary=3")
    assert f"The {engine.name} server on port {server.grpc_port} has it." in said
    assert "Labels of scaled: stable=1, canary=3." in said
    assert "builder: tests.scaled:build  # ours" in fleet.read_text()
    assert [scale(server, label) for label in ("stable", "canary", None)] == [1, 3, 3]
    toolkit(fleet, "labels", "set", "scaled", "canary=2")
    assert [scale(server, label) for label in ("stable", "canary", None)] == [1, 2, 3]
    # Roll the canary out, and the old version goes.
    toolkit(fleet, "labels", "set", "scaled", "stable=2")
    with connect(server.url("rest")) as client:
        assert {one.version for one in client.status("scaled") if one.state == "AVAILABLE"} == {2, 3}
    toolkit(fleet, "labels", "remove", "scaled", "canary", "stable")
    with connect(server.url("rest")) as client:
        assert [one.version for one in client.status("scaled") if one.state == "AVAILABLE"] == [3]
        with pytest.raises(ServingError):
            client.predict("scaled", [[1, 2, 3]], label="stable")


def test_no_answer_is_lost_while_labels_move(server: Served, fleet: Path) -> None:
    toolkit(fleet, "labels", "set", "scaled", "live=1")
    command = [sys.executable, "-m", "tfserving", "serve", "labels", "set", "scaled", "live=3", "--fleet", str(fleet)]
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
    toolkit(fleet, "reload")
    assert [scale(server, label) for label in ("old", None)] == [1, 2]
    fleet.write_text(f"{SCALED}    versions: all\n")
    toolkit(fleet, "reload")
    assert scale(server) == 3


def test_what_does_not_check_is_never_written(server: Served, fleet: Path, engine: ModelServer) -> None:
    folder = Path(os.environ["XDG_STATE_HOME"])

    def written() -> str:
        (path,) = folder.rglob(f"{engine.name}-{server.grpc_port}/config/models.config")
        return path.read_text()

    before = written()
    assert "label 'live' is for version 9" in toolkit(fleet, "labels", "set", "scaled", "live=9", code=2)
    assert "'live' is not LABEL=VERSION" in toolkit(fleet, "labels", "set", "scaled", "live", code=2)
    assert "no model is called 'scald'" in toolkit(fleet, "labels", "set", "scald", "live=1", code=2)
    assert "has no label 'live'; it has none" in toolkit(fleet, "labels", "remove", "scaled", "live", code=2)
    fleet.write_text(f"{SCALED}    versions: [1, 9]\n")
    assert "models.scaled.versions: [9] is not in" in toolkit(fleet, "reload", code=2)
    assert written() == before
    assert scale(server) == 3


def test_status_shows_the_server_and_forgets_it_when_it_has_ended(
    server: Served, fleet: Path, engine: ModelServer
) -> None:
    def status(code: int) -> str:
        done = run(fleet, "status")
        assert done.exit_code == code
        return done.output

    shown = status(0)
    assert f"the {engine.name} server\n  gRPC  127.0.0.1:{server.grpc_port}\n" in shown
    assert "  scaled: version 3 AVAILABLE" in shown
    server.process.kill()
    wait_for(lambda: "No server of" in status(1) if server.process.poll() is not None else False, what="its end")
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
    command = [sys.executable, "-m", "tfserving", "serve", "labels", "set", "scaled"]
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
    assert f"Error: {path} is not what the server was given to read: " in said
    assert "live" not in fleet.read_text()
    assert scale(server) == 3


def test_what_to_ask_a_version_without_golden_requests(fleet: Path) -> None:
    plan = Plan(read_fleet(fleet), ("scaled",), "127.0.0.1", 8500, 8501)
    shown = banner(plan, "embedded", {"scaled": 1}, "Ctrl-C stops it.").splitlines()
    assert shown[-2:] == ["  curl -s http://127.0.0.1:8501/v1/models/scaled/metadata", "Ctrl-C stops it."]
    assert ":predict" in banner(plan, "embedded", {"scaled": 3}, "Ctrl-C stops it.")


def test_ctrl_c_before_it_serves_leaves_nothing(fleet: Path, engine: ModelServer) -> None:
    grpc_port, rest_port = free_ports(2)
    words = ["serve", "run", "--engine", engine.name, "--fleet", str(fleet), "--port", str(grpc_port)]
    command = [sys.executable, "-m", "tfserving", *words, "--rest-port", str(rest_port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("Starting"):
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert said.strip().splitlines() in (["Stopped before it served."], ["Stopped."])
    assert not [one for one in psutil.process_iter(["cmdline"]) if f"--port={grpc_port}" in (one.info["cmdline"] or [])]
    assert not list(Path(os.environ["XDG_STATE_HOME"]).rglob(f"*-{grpc_port}"))


def test_labels_for_no_server_are_for_the_next_start(fleet: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(fleet.parent, tmp_path / "alone")) / "models.yaml"
    alone.write_text(SCALED)
    said = toolkit(alone, "labels", "set", "scaled", "stable=2")
    assert "No server runs; the next one starts with it." in said
    assert "stable: 2" in alone.read_text()

"""What Compose and its services are told, and what is wrong with it, found before anything starts."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from click.testing import CliRunner, Result

from tests.authority import Authority
from tests.servers import free_ports, wait_for
from tests.serving.fleets import GOOD, fleet
from tfserving.cli import tfserving
from tfserving.serving.compose.files import files, write_new
from tfserving.serving.compose.project import problems
from tfserving.serving.docker.container import user
from tfserving.serving.engines import EngineError, Plan

LABELS = "    labels: {stable: 1, canary: 2}\n"
ENVOY = "{certificate: server.pem, key: server.key, split: {digits: 10}}"


def plan(folder: Path, compose: str = "", server: str = "", models: str = GOOD + LABELS) -> Plan:
    read = fleet(folder, f"{models}server: {{{server}}}\ncompose: {{{compose}}}\n")
    return Plan(read, read.select(()), "127.0.0.1", 8500, 8501)


def services(planned: Plan) -> dict[str, Any]:
    said: dict[str, Any] = yaml.safe_load(files(planned, 180)["."]["compose.yaml"])["services"]
    return said


@pytest.mark.usefixtures("authority")
def test_every_service_is_hardened_and_on_loopback(tmp_path: Path) -> None:
    said = services(plan(tmp_path, f"envoy: {ENVOY}"))
    assert list(said) == ["server", "prometheus", "memory", "grafana", "envoy"]
    for name, service in said.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges"], name
        assert not service["user"].startswith(("0:", "root")), name
        assert service["pids_limit"], name
        assert "privileged" not in service
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for mount in service.get("volumes", []):
            assert mount["type"] == "volume" or mount["read_only"] is True, name
    assert said["memory"]["volumes"][0]["read_only"] is True
    assert "ports" not in said["memory"]


@pytest.mark.parametrize(
    ("image", "own"),
    [
        ("tensorflow/serving:2.21.0", False),
        ("serving-embedded:2.21.0", True),
        (f"registry.example:5000/team/serving-embedded@sha256:{64 * '0'}", True),
        ("serving-embedded-not:1", False),
    ],
)
def test_only_the_embedded_server_has_flags_of_its_own(tmp_path: Path, image: str, own: bool) -> None:
    """Nothing here changes what is served but the file that is polled."""
    server = services(plan(tmp_path, server=f"image: '{image}'"))["server"]
    flags = [flag for flag in server["command"] if "reload" in flag]
    assert flags == (["--enable_reload_config=false", "--reload_base_paths=/models"] if own else [])
    # The settings of models.yaml can't turn it on.
    assert server["command"][-1] == "--enable_profiler=false"
    assert server["stop_grace_period"] == "70s"


def test_what_is_set_to_null_is_left_out(tmp_path: Path) -> None:
    planned = plan(tmp_path, "grafana: null, memory_exporter: null")
    assert list(services(planned)) == ["server", "prometheus"]
    assert "memory" not in files(planned, 180)["prometheus"]["prometheus.yml"]


def test_gpus_are_reserved(tmp_path: Path) -> None:
    for gpus, device in (
        ("all", {"count": "all"}),
        ("2", {"count": 2}),
        ("[0, 1]", {"device_ids": ["0", "1"]}),
    ):
        server = services(plan(tmp_path, server=f"gpus: {gpus}"))["server"]
        (said,) = server["deploy"]["resources"]["reservations"]["devices"]
        assert said == {"driver": "nvidia", "capabilities": ["gpu"], **device}
        assert server["image"] == "tensorflow/serving:2.21.0-gpu"
        assert server["environment"] == {
            "NVIDIA_TF32_OVERRIDE": "0",
            "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        }


def test_how_exactly_and_repeatably_a_gpu_computes_is_in_the_services_environment(tmp_path: Path) -> None:
    server = "tf32: true, deterministic: true, gpu_memory_growth: true"
    assert services(plan(tmp_path, server=server))["server"]["environment"] == {
        "TF_CUDNN_USE_AUTOTUNE": "0",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    # The embedded server has flags.
    embedded = services(plan(tmp_path, server=f"{server}, image: 'serving-embedded:2.21.0-gpu'"))["server"]
    assert "environment" not in embedded
    assert {"--enable_tf32=true", "--enable_deterministic_gpu=true", "--gpu_memory_growth=true"} <= {
        *embedded["command"]
    }


@pytest.mark.usefixtures("authority")
def test_a_service_starts_anew_when_a_file_that_it_reads_changes_and_only_then(tmp_path: Path) -> None:

    def digests(compose: str, server: str = "", models: str = GOOD + LABELS) -> dict[str, str]:
        said = services(plan(tmp_path, compose, server, models))
        return {name: service["labels"]["tensorflow-serving-toolkit.config"] for name, service in said.items()}

    before = digests(f"envoy: {ENVOY}")
    split = digests(f"envoy: {ENVOY.replace('10', '20')}")
    assert {name for name in before if before[name] != split[name]} == {"envoy"}
    batching = digests(f"envoy: {ENVOY}", "batching: {}")
    assert {name for name in before if before[name] != batching[name]} == {"server"}
    # Labels and versions are taken by the server as it runs.
    assert digests(f"envoy: {ENVOY}", models=GOOD + LABELS.replace("stable: 1", "stable: 3")) == before


def test_a_dollar_is_no_variable(tmp_path: Path) -> None:
    planned = plan(tmp_path, server="flags: {tensorflow_session_config_file: '/a$b'}")
    text = files(planned, 180)["."]["compose.yaml"]
    assert "--tensorflow_session_config_file=/a$$b" in text


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("client_ca", ["", "client_ca: ca.pem, "])
def test_envoy_takes_its_configuration(tmp_path: Path, client_ca: str) -> None:
    made = files(plan(tmp_path, f"envoy: {{{client_ca}{ENVOY[1:]}"), 180)["envoy"]
    folder = tmp_path / "envoy"
    folder.mkdir()
    for name, text in made.items():
        (folder / name).write_text(text.replace("/config/", f"{folder}/"))
    program = str(package_files("envoy") / "_bin/envoy")
    done = subprocess.run(
        [program, "--mode", "validate", "--config-path", str(folder / "envoy.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("require_client_certificate" in made["envoy.yaml"]) == bool(client_ca)


def test_envoy_takes_no_new_connections_while_it_drains_and_those_in_flight_are_answered(
    tmp_path: Path, authority: Authority
) -> None:
    made = files(plan(tmp_path, f"envoy: {ENVOY}"), 180)["envoy"]
    port, admin, health, server_port = free_ports(4)
    numbers = {"8443": port, "8501": server_port, "8081": health, "9901": admin}

    def here(text: str) -> str:
        text = re.sub(r"\baddress: [\w.]+$", "address: 127.0.0.1", text, flags=re.M)
        text = re.sub(r"\b(8443|8501|8081|9901)\b", lambda found: str(numbers[found[0]]), text)
        return text.replace("/config/", f"{tmp_path}/")

    for name, text in made.items():
        (tmp_path / name).write_text(here(text))
    program = str(package_files("envoy") / "_bin/envoy")
    options = ["--config-path", str(tmp_path / "envoy.yaml"), "--log-level", "warn", "--disable-hot-restart"]
    trust = ssl.create_default_context(cafile=authority.path("ca.pem"))

    def request() -> int:
        url = f"https://localhost:{port}/v1/models/digits/metadata"
        return httpx2.get(url, timeout=60, verify=trust).status_code

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with (
        socket.create_server(("127.0.0.1", server_port)) as server,
        subprocess.Popen(
            ["bash", str(tmp_path / "serve.sh"), program, *options],
        ) as process,
        ThreadPoolExecutor() as pool,
    ):
        try:
            wait_for(listens, what="Envoy")
            sent = pool.submit(request)
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1 << 16).startswith(b"GET /v1/models/digits/metadata")
                process.send_signal(signal.SIGTERM)
                wait_for(lambda: not listens(), what="the end of new connections")
                # It waits for this one, which nobody computes.
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(2.5)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                assert sent.result() == 200
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize(
    ("compose", "server", "problem"),
    [
        ("prometheus_port: 8500", "", "compose.prometheus_port: gRPC uses port 8500, too. Choose another"),
        ("grafana_port: 9090", "", "compose.grafana_port: compose.prometheus_port uses port 9090, too"),
        ("", "monitoring: false", "server.monitoring: Prometheus needs the metrics page"),
        ("envoy: {certificate: ca.pem, key: server.key}", "", "compose.envoy: "),
        ("envoy: {certificate: none.pem, key: server.key}", "", "compose.envoy.certificate: "),
        (
            f"envoy: {ENVOY.replace('digits', 'digit')}",
            "",
            "compose.envoy.split.digit: no model is called 'digit'; the server has digits. Did you mean",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_key(tmp_path: Path, compose: str, server: str, problem: str) -> None:
    (found,) = problems(plan(tmp_path, compose, server))
    assert str(found).startswith(problem)


@pytest.mark.usefixtures("authority")
def test_a_split_needs_both_labels(tmp_path: Path) -> None:
    found = list(problems(plan(tmp_path, f"envoy: {ENVOY}", models=f"{GOOD}    labels: {{stable: 1}}\n")))
    assert [str(problem) for problem in found] == [
        "compose.envoy.split.digits: model 'digits' has no label 'canary'. Add it to models.digits.labels"
    ]


def render(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(tfserving, ["compose", "render", *words, "--fleet", str(folder / "models.yaml")])


@pytest.mark.usefixtures("authority")
def test_rendered_files_are_for_their_owner_and_nothing_is_overwritten(tmp_path: Path) -> None:
    plan(tmp_path, f"envoy: {ENVOY}")
    there = tmp_path / "there"
    done = render(tmp_path, str(there))
    assert (done.exit_code, done.stdout) == (0, f"{there}/compose.yaml\n"), done.stderr
    assert there.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in there.iterdir()} == {"compose.yaml", "config", "prometheus", "grafana", "envoy"}
    assert json.loads((there / "grafana/dashboard.json").read_text())["title"] == "TensorFlow Serving"
    # The folder works on another machine, where it lies beside the same models.
    texts = {path: path.read_text() for path in there.rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if str(tmp_path) in text] == []
    services = yaml.safe_load(texts[there / "compose.yaml"])["services"]
    mounts = {mount["target"]: mount["source"] for mount in services["server"]["volumes"]}
    assert mounts["/models"] == "${TFSERVING_MODELS:-../models}"
    assert all(source.startswith("./") for target, source in mounts.items() if target == "/config")
    me = f"${{TFSERVING_USER:-{user()}}}"
    assert (services["server"]["user"], services["envoy"]["user"]) == (me, me)
    done = render(tmp_path, str(there))
    assert done.exit_code == 2
    assert f"{there} exists. Name a folder that does not exist" in done.stderr


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no/where can't be written: No such file or directory"):
        write_new(tmp_path / "no/where", {".": {"compose.yaml": ""}})
    with pytest.raises(EngineError):
        write_new(tmp_path / "there", {".": {"compose.yaml": ""}, "config": {"a/b": ""}})
    assert list(tmp_path.iterdir()) == []

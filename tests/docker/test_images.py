"""Images: pulled by tag and digest, baked with a fleet inside, and the embedded server's own."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from packaging.requirements import Requirement

from tests.authority import Authority
from tests.docker.conftest import ROOT, SCALED, Fleet
from tests.docker.engine import EMBEDDED_IMAGE
from tests.docker.test_up import await_line
from tests.servers import free_ports, wait_for
from tfserving.clients import connect
from tfserving.serving.models_yaml.server import IMAGE


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry on loopback, Debian's; its address."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry isn't installed (Debian: apt-get install docker-registry)")
    folder = tmp_path_factory.mktemp("registry")
    (port,) = free_ports(1)
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)

    def listens() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, what="the registry")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def small_image(docker: DockerClient, name: str) -> str:
    """An image with one file, in a registry and not here; its digest."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        data = b"FROM scratch\nCOPY Dockerfile /\nCMD nothing\n"
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    docker.images.build(fileobj=io.BytesIO(tar.getvalue()), custom_context=True, tag=name, rm=True)
    said = [json.loads(line) for line in docker.images.push(name).splitlines()]
    assert not [event for event in said if "error" in event], said
    digest = next(event["aux"]["Digest"] for event in said if "aux" in event)
    docker.images.remove(name)
    return str(digest)


def test_an_image_is_pulled_by_tag_and_by_digest(fleet: Fleet, registry: str) -> None:
    name = f"{registry}/some/serving"
    digest = small_image(fleet.docker, f"{name}:2.21.0")
    for image in (f"{name}:2.21.0", f"{name}@{digest}", f"{name}:2.21.0@{digest}"):
        fleet.say(f"{SCALED}server: {{image: '{image}'}}\n")
        done = fleet.up(code=1)
        assert f"Pulling {image} …" in done.stderr
        # It is there now, and has no server.
        assert "its command was not found. Check that the image contains TensorFlow Serving" in done.stderr
        assert fleet.containers == []
        pulled = fleet.docker.images.get(f"{name}@{digest}")
        assert pulled.attrs["RepoDigests"] == [f"{name}@{digest}"]
        fleet.docker.images.remove(str(pulled.id), force=True)
    fleet.say(f"{SCALED}server: {{image: '{name}:2.20.0'}}\n")
    done = fleet.up(code=1)
    assert (
        f"Error: {name}:2.20.0 is not in the registry. The newest release there is {name}:2.21.0. Set " in done.stderr
    )


def test_the_newest_release_that_a_registry_has_is_named(fleet: Fleet, registry: str) -> None:
    name = f"{registry}/tensorflow/serving"
    for tag in ("2.18.0", "2.19.1", "2.20.0-gpu"):
        small_image(fleet.docker, f"{name}:{tag}")
    for tag, newest in (("2.21.0", "2.19.1"), ("2.21.0-gpu", "2.20.0-gpu"), ("2.19.1-gpu", "2.20.0-gpu")):
        fleet.say(f"{SCALED}server: {{image: '{name}:{tag}'}}\n")
        error = (
            f"Error: {name}:{tag} is not in the registry. The newest release there is {name}:{newest}. Set "
            "server.image in models.yaml to another image"
        )
        for words in (("serve", "up", *fleet.ports), ("image", "--tag", "baked:none"), ("compose", "up", *fleet.ports)):
            done = fleet.toolkit(*words, code=1)
            assert f"\n{error}\n" in done.stderr
        done = fleet.toolkit("serve", "--engine", "docker", *fleet.ports, code=2)
        assert f"{error}, or use the embedded server: --engine embedded\n" in done.stderr
    assert fleet.containers == []


def test_auto_goes_on_to_the_next_engine_where_the_image_cannot_be_pulled(fleet: Fleet) -> None:
    image = f"127.0.0.1:{free_ports(1)[0]}/tensorflow/serving:2.21.0"
    fleet.say(f"{SCALED}server: {{image: '{image}'}}\n")
    with fleet.process("serve", *fleet.ports) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.startswith("docker is not used: "))
        assert f"cannot pull image {image}: " in said
        assert "connection refused. Set server.image in models.yaml" in said
        await_line(process, "Ctrl-C")
        with connect(fleet.rest) as client:
            assert client.predict("scaled", [[1, 2, 3]]).outputs["sums"].tolist() == [6.0]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_fleet_is_baked_into_an_image_that_serves_it(fleet: Fleet) -> None:
    for version in (2, 3):
        fleet.version(version)
    fleet.say(f"{SCALED}    labels: {{stable: 1, canary: 2}}\n")
    done = fleet.toolkit("image")
    tag, _, digest = done.stdout.strip().partition("  ")
    # No two contents have one name.
    assert re.fullmatch("serving-.+:[0-9a-f]{12}", tag)
    assert "Copying scaled/1, scaled/2 …" in done.stderr
    image = fleet.docker.images.get(tag)
    assert digest == image.id
    assert image.attrs["Config"]["User"] == "10001:10001"
    for version in (1, 2):
        manifest = json.loads((fleet.folder / f"models/scaled/{version}/assets.extra/manifest.json").read_text())
        assert image.labels[f"tensorflow-serving-toolkit.manifest.scaled/{version}"] == f"sha256:{manifest['digest']}"
    assert image.labels["org.opencontainers.image.base.name"] == IMAGE
    with running(fleet, tag) as container:
        with connect(fleet.grpc) as client:
            client.wait_until_available("scaled", timeout=60)
            for name, label, scale in (("scaled", None, 1), ("scaled", "stable", 1), ("scaled-canary", None, 2)):
                assert client.predict(name, [[1, 2, 3]], label=label).outputs["sums"].tolist() == [6.0 * scale]

        def healthy() -> bool:
            container.reload()
            return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

        wait_for(healthy, what="its health")
    fleet.docker.images.remove(tag)


SCRATCH = "/tmp"  # noqa: S108 - the container's own


@contextlib.contextmanager
def running(fleet: Fleet, image: str, **how: Any) -> Iterator[Any]:
    """A container as docs/docker.md says that a baked image is run."""
    ports = {"8500/tcp": ("127.0.0.1", fleet.grpc_port), "8501/tcp": ("127.0.0.1", fleet.rest_port)}
    container = fleet.docker.containers.run(
        image, detach=True, read_only=True, tmpfs={SCRATCH: ""}, cap_drop=["ALL"], ports=ports, **how
    )
    try:
        yield container
    finally:
        container.remove(force=True, v=True)


def test_what_is_not_what_its_manifest_says_is_not_baked(fleet: Fleet) -> None:
    weights = next((fleet.folder / "models/scaled/1/variables").glob("*.data*"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    done = fleet.toolkit("image", "--tag", "baked:wrong", code=1)
    assert f"variables/{weights.name}: got SHA-256 " in done.stderr
    assert not fleet.docker.images.list("baked")


def test_a_private_key_is_never_baked(fleet: Fleet) -> None:
    Authority(fleet.folder)
    fleet.say(f"{SCALED}server: {{tls: {{certificate: server.pem, key: server.key}}}}\n")
    done = fleet.toolkit("image", "--tag", "baked:key", code=1)
    assert "server.tls: an image must not contain a private key" in done.stderr
    assert not fleet.docker.images.list("baked")


def test_the_embedded_image_serves_one_model_from_its_environment(fleet: Fleet) -> None:
    """As the tensorflow/serving image does: https://www.tensorflow.org/tfx/serving/docker."""
    image = fleet.docker.images.get(EMBEDDED_IMAGE)
    assert image.attrs["Config"]["User"] == "10001:10001"
    assert set(image.attrs["Config"]["ExposedPorts"]) == {"8500/tcp", "8501/tcp"}
    mount = {str(fleet.folder / "models"): {"bind": "/models", "mode": "ro"}}
    with (
        running(fleet, EMBEDDED_IMAGE, environment={"MODEL_NAME": "scaled"}, volumes=mount),
        connect(fleet.rest) as client,
    ):
        client.wait_until_available("scaled", timeout=60)
        assert client.predict("scaled", [[1, 2, 3]]).outputs["sums"].tolist() == [6.0]


def test_the_embedded_image_has_no_more_than_it_needs(fleet: Fleet) -> None:
    history = fleet.docker.images.get(EMBEDDED_IMAGE).history()
    ours = sum(layer["Size"] for layer in history[:-1])
    assert ours < 1000 << 20
    listed = fleet.docker.containers.run(
        EMBEDDED_IMAGE, ["-c", "ls /opt/serving"], entrypoint=["sh"], remove=True
    ).decode()
    names = set(listed.split())
    assert {"tfserving", "tensorflow", "grpc"} <= names
    assert not names & {"keras", "matplotlib", "docker", "tests", "pip"}


@pytest.mark.parametrize(
    ("device", "platform"),
    [("cpu", "x86_64-manylinux_2_28"), ("cpu", "aarch64-manylinux_2_28"), ("gpu", "x86_64-manylinux_2_28")],
)
def test_the_embedded_image_can_be_built_for(device: str, platform: str, tmp_path: Path) -> None:
    """Every package has a wheel for that platform, of those whose hashes are pinned."""
    where = ["--python-platform", platform, "--python-version", "3.13", "--target", str(tmp_path / "there")]
    command = ["uv", "pip", "install", "--dry-run", "--only-binary", ":all:", "--no-deps", "--require-hashes", *where]
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:], "-r", str(lock(device))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    package = "tensorflow-cpu" if (device, platform.partition("-")[0]) == ("cpu", "x86_64") else "tensorflow"
    assert re.findall(r"^ \+ (tensorflow.*)==2\.21", done.stderr, re.M) == [package]
    assert ("nvidia-cudnn-cu12==" in done.stderr) == (device == "gpu")


def lock(device: str) -> Path:
    return ROOT / f"serving/docker/requirements-{device}.lock"


def pins(path: Path) -> set[str]:
    """`name==version` of each package, several where Pythons or machines differ."""
    return {line.split(" ")[0] for line in path.read_text().splitlines() if "==" in line and line[0].isalpha()}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_lock_of_the_embedded_image_is_the_environments(device: str) -> None:
    ours = pins(ROOT / "requirements.lock")
    for pin in pins(lock(device)):
        assert pin in ours or pin.startswith("nvidia-"), pin


def test_the_gpu_image_has_the_cuda_that_its_tensorflow_asks_for() -> None:
    """All of `tensorflow[and-cuda]`, and no more of NVIDIA's packages."""
    asked = [Requirement(one) for one in requires("tensorflow") or () if "and-cuda" in one]
    found = dict(pin.split("==") for pin in pins(lock("gpu")) if pin.startswith("nvidia-"))
    assert {one.name for one in asked} == found.keys()
    for one in asked:
        assert one.specifier.contains(found[one.name]), one


@pytest.mark.parametrize(
    ("variable", "warned"), [("all", True), ("0,1", True), ("void", False), ("none", False), (None, False)]
)
def test_an_image_for_gpus_warns_where_there_is_none(variable: str | None, warned: bool, tmp_path: Path) -> None:
    """Its entry point on this machine; NVIDIA's runtime adds the device where it finds a GPU."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    (tmp_path / "python3").write_text('#!/bin/sh\necho started "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", **({"NVIDIA_VISIBLE_DEVICES": variable} if variable else {})}
    script = ROOT / "serving/docker/tensorflow_model_server"
    done = subprocess.run(["sh", str(script), "--port=1"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "started -m tfserving.serving.embedded --host=0.0.0.0 --port=1\n")
    assert done.stderr.startswith("Warning: this image is for GPUs, and the container has none. ") == warned
    assert bool(done.stderr) == warned

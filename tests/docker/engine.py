"""A real Docker Engine for the tests, from Debian's packages, and the images that it needs, built on it.

There is no registry to pull from, so the images that the toolkit names are built here under their names: the embedded
server as `tensorflow/serving`, Debian's Prometheus and node-exporter, and Envoy from its wheel.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import docker
from docker import DockerClient

from tests.servers import wait_for
from tfserving.serving.models_yaml.server import IMAGE, Compose

ROOT = Path(__file__).resolve().parents[2]
# The mirror that this machine uses, and what it trusts.
APT_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE, PYTHON = "base:raw", "python:local"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# dockerd and iptables are where only root looks.
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:{PATH}"}
ENVOY = "envoyproxy/envoy:v1.40.0"


def unusable() -> str | None:
    """Why no engine can be started here; None when one can."""
    if os.getuid():
        return "a Docker Engine needs root to start"
    for program in ("dockerd", "mmdebstrap", "iptables"):
        if not shutil.which(program, path=ENVIRONMENT["PATH"]):
            return f"{program} isn't installed (Debian: apt-get install docker.io mmdebstrap iptables docker-compose)"
    if not APT_SOURCES.is_file():
        return f"images are built from Debian's packages, and {APT_SOURCES} isn't there"
    if Path("/sys/class/net/docker0").exists():
        return "another Docker Engine runs here, and its network is that of the tests'"
    return None


@contextlib.contextmanager
def started() -> Iterator[str]:
    """Starts an engine with nothing in it; yields what DOCKER_HOST is to be. Leaves the machine as it was."""
    # Sockets have short names.
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    rules = subprocess.run(["iptables-save"], check=True, capture_output=True, env=ENVIRONMENT).stdout
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    before = forward.read_text()
    host = f"unix://{folder}/docker.sock"
    with (folder / "log").open("wb") as log:
        places = ("--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid")
        process = subprocess.Popen(
            ["dockerd", "-H", host, *map(str, places), "--mtu", "1400", "--log-level", "warn"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=ENVIRONMENT,
        )
    try:
        wait_for(lambda: _answers(host, process, folder / "log"), what="the engine's answer")
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        subprocess.run(["ip", "link", "delete", "docker0"], check=False, capture_output=True, env=ENVIRONMENT)
        subprocess.run(["iptables-restore"], input=rules, check=True, env=ENVIRONMENT)
        forward.write_text(before)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(host: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        with contextlib.closing(DockerClient(host)) as client:
            return bool(client.ping())
    except docker.errors.DockerException:
        return False


def build_images(host: str) -> None:
    """Builds all images; a minute or two."""
    with contextlib.closing(DockerClient(host, timeout=600)) as client, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _base(client, folder / "base.tar")
        _build(client, PYTHON, _python_dockerfile(), {"ca.crt": AUTHORITIES})
        with ThreadPoolExecutor() as pool:
            others = pool.submit(_build_others, host)
            build_ours(client, "serving/docker/embedded.Dockerfile", IMAGE)
            others.result()


def build_ours(client: DockerClient, dockerfile: str, tag: str) -> None:
    """Builds an image of the repository's own Dockerfiles, on Python as it is here."""
    client.images.build(
        path=str(ROOT),
        dockerfile=dockerfile,
        tag=tag,
        buildargs={"PYTHON_IMAGE": PYTHON},
        network_mode="host",
        rm=True,
    )


def _build_others(host: str) -> None:
    """What Compose runs beside the server."""
    with contextlib.closing(DockerClient(host, timeout=600)) as client:
        compose = Compose()
        _build(client, compose.prometheus, _watching_dockerfile())
        assert compose.memory_exporter
        client.images.get(compose.prometheus).tag(compose.memory_exporter)
        envoy = Path(str(files("envoy") / "_bin/envoy"))
        _build(client, ENVOY, f"FROM {BASE}\nCOPY envoy /usr/local/bin/envoy\n", {"envoy": envoy})


def _base(client: DockerClient, tar: Path) -> None:
    """Debian with Python and apt, as `debian:bookworm` has it."""
    include = "--include=python3,python3-pip,binutils"
    done = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", include, "bookworm", str(tar), str(APT_SOURCES)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    repository, _, tag = BASE.partition(":")
    client.api.import_image_from_file(str(tar), repository=repository, tag=tag, changes=[f"ENV PATH={PATH}"])
    assert client.images.get(BASE)


def _python_dockerfile() -> str:
    """What a registry's Python image is, and this machine's authorities for pip."""
    return f"FROM {BASE}\nCOPY ca.crt {AUTHORITIES}\nENV PIP_CERT={AUTHORITIES}\n"


def _watching_dockerfile() -> str:
    return f"""\
FROM {BASE}
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends prometheus prometheus-node-exporter \\
    && ln -s prometheus-node-exporter /usr/bin/node_exporter && install -d -o 65534 /prometheus
"""


def _build(client: DockerClient, tag: str, dockerfile: str, beside: Mapping[str, Path] | None = None) -> None:
    """Builds an image of a Dockerfile and files beside it."""
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            info = tarfile.TarInfo("Dockerfile")
            info.size = len(dockerfile)
            tar.addfile(info, io.BytesIO(dockerfile.encode()))
            for name, path in (beside or {}).items():
                tar.add(path.resolve(), name)
        context.seek(0)
        client.images.build(fileobj=context, custom_context=True, tag=tag, network_mode="host", rm=True)

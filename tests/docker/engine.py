"""A real Docker Engine for the tests, from Debian's packages, and the images that it needs, built on it.

There is no registry to pull from, so the images that the toolkit names are built here under their names: the embedded
server's own, the stand-in for TensorFlow Serving as `tensorflow/serving`, Debian's Prometheus and node-exporter, and
Envoy from its wheel.

The engine's data outlives it, outside of the repository. Every run builds every image, but of a Dockerfile's steps only
those whose text or files have changed, and those after them: that is how an engine builds. What no image needs any
more is removed, so what is kept doesn't grow.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
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

from tests.docker.machine import ENVIRONMENT, Machine
from tests.servers import wait_for
from tfserving.serving.docker.image_names import EMBEDDED
from tfserving.serving.models_yaml.kubernetes import Kubernetes
from tfserving.serving.models_yaml.server import ENVOY as PINNED_ENVOY
from tfserving.serving.models_yaml.server import IMAGE, NODE_EXPORTER, PROMETHEUS, TENSORFLOW_SERVING

ROOT = Path(__file__).resolve().parents[2]
# The mirror that this machine uses, and what it trusts.
APT_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE, PYTHON = "base:raw", "python:local"
DEBIAN = ("mmdebstrap", "--quiet", "--variant=apt", "--include=python3,python3-pip,binutils", "bookworm")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLKIT = str(Kubernetes.model_fields["toolkit_image"].default)
EMBEDDED_IMAGE = f"{EMBEDDED}:{TENSORFLOW_SERVING}"
# An image that is built here can't have the digest of a registry's, so models.yaml of the tests names these.
WATCHER, MEMORY, ENVOY = (name.partition("@")[0] for name in (PROMETHEUS, NODE_EXPORTER, PINNED_ENVOY))
# Of `compose:`, without Grafana, which is not built here.
COMPOSE = f"grafana: null, prometheus: '{WATCHER}', memory_exporter: '{MEMORY}'"
# The repository's own images and their Dockerfiles.
OURS = {EMBEDDED_IMAGE: "serving/docker/embedded.Dockerfile", TOOLKIT: "k8s/Dockerfile"}
# The stand-in, with the entry point of the real image: a shell that keeps signals to itself.
STAND_IN = f"""\
FROM {EMBEDDED_IMAGE}
ENV TF_CPP_MIN_LOG_LEVEL=0
LABEL tensorflow_serving_github_branchtag={TENSORFLOW_SERVING}
COPY stand_in /opt/serving/tests/stand_in
COPY program /usr/bin/tensorflow_model_server
COPY entrypoint /usr/bin/tf_serving_entrypoint.sh
USER root
"""
PROGRAM = '#!/bin/sh\nexec python3 -m tests.stand_in "$@"\n'
ENTRYPOINT = """\
#!/bin/bash
tensorflow_model_server --port=8500 --rest_api_port=8501 \\
    --model_name=${MODEL_NAME} --model_base_path=${MODEL_BASE_PATH}/${MODEL_NAME} "$@"
"""


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


def kept() -> Path:
    """Where the engine's data stays from one run to the next."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tensorflow-serving-toolkit/engine"


@contextlib.contextmanager
def started() -> Iterator[str]:
    """Starts an engine with images of earlier runs and nothing else; yields what DOCKER_HOST is to be.

    Leaves the machine as it was, and fails when that isn't so.
    """
    with _alone():
        yield from _started()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the engine's data: another engine deletes them when it can't use them. The lock ends with the process."""
    kept().mkdir(parents=True, exist_ok=True)
    with (kept().parent / "engine.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another Docker Engine of these tests uses {kept()}") from None
        yield


def _started() -> Iterator[str]:
    # Sockets have short names.
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    before = Machine.now()
    host = f"unix://{folder}/docker.sock"
    process = _start(host, folder)
    try:
        if not _comes_up(host, process):
            # What an engine was killed at may be of no use to another.
            shutil.rmtree(kept(), ignore_errors=True)
            process = _start(host, folder)
            assert _comes_up(host, process), f"the engine doesn't start:\n{(folder / 'log').read_text()}"
        _remove_all_but_images(host)
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        subprocess.run(["ip", "link", "delete", "docker0"], check=False, capture_output=True, env=ENVIRONMENT)
        before.restore()
        before.unmount(folder, kept())
        shutil.rmtree(folder, ignore_errors=True)
    assert not (left := before.left(folder)), f"the engine left {left}"


def _start(host: str, folder: Path) -> subprocess.Popen[bytes]:
    kept().mkdir(parents=True, exist_ok=True)
    places = ("--data-root", kept(), "--exec-root", folder / "exec", "--pidfile", folder / "pid")
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            ["dockerd", "-H", host, *map(str, places), "--mtu", "1400", "--log-level", "warn"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=ENVIRONMENT,
        )


def _comes_up(host: str, process: subprocess.Popen[bytes]) -> bool:
    """Waits until the engine answers, or has ended."""
    wait_for(lambda: process.poll() is not None or _answers(host), what="the engine's answer")
    return process.poll() is None


def _answers(host: str) -> bool:
    try:
        with contextlib.closing(DockerClient(host)) as client:
            return bool(client.ping())
    except docker.errors.DockerException:
        return False


def _remove_all_but_images(host: str) -> None:
    """An engine that was killed leaves these."""
    with contextlib.closing(DockerClient(host)) as client:
        for container in client.containers.list(all=True):
            container.remove(force=True, v=True)
        client.networks.prune()
        client.volumes.prune()


def build_images(host: str) -> None:
    """Builds all images: some minutes the first time, then what has changed. Removes all others."""
    with contextlib.closing(DockerClient(host, timeout=600)) as client:
        tags = {BASE, PYTHON, _base(client)}
        _build(client, PYTHON, _python_dockerfile(), {"ca.crt": AUTHORITIES})
        with ThreadPoolExecutor() as pool:
            others = pool.submit(_build_others, host)
            for tag, dockerfile in OURS.items():
                tags |= {tag, _build_ours(client, dockerfile, tag)}
            _build_stand_in(client)
            tags.add(IMAGE)
            tags |= others.result()
        for tag in {tag for image in client.images.list() for tag in image.tags} - tags:
            client.images.remove(tag, force=True)
        client.images.prune()


def _build_ours(client: DockerClient, dockerfile: str, tag: str) -> str:
    """Builds an image of the repository's own Dockerfiles, on Python as it is here.

    Returns a tag of its packages, without which these would be nothing that an image needs.
    """
    packages = f"packages:{tag.partition(':')[0].replace('/', '-')}"
    for target, name in (("packages", packages), (None, tag)):
        client.images.build(
            path=str(ROOT),
            dockerfile=dockerfile,
            target=target,
            tag=name,
            buildargs={"PYTHON_IMAGE": PYTHON},
            network_mode="host",
            rm=True,
        )
    return packages


def _build_stand_in(client: DockerClient) -> None:
    with tempfile.TemporaryDirectory() as folder:
        beside = {"stand_in": ROOT / "tests/stand_in"}
        for name, text in (("program", PROGRAM), ("entrypoint", ENTRYPOINT)):
            beside[name] = Path(folder) / name
            beside[name].write_text(text)
            beside[name].chmod(0o755)
        _build(client, IMAGE, STAND_IN, beside)


def _build_others(host: str) -> set[str]:
    """What Compose runs beside the server; returns the tags."""
    with contextlib.closing(DockerClient(host, timeout=600)) as client:
        _build(client, WATCHER, _watching_dockerfile())
        client.images.get(WATCHER).tag(MEMORY)
        envoy = Path(str(files("envoy") / "_bin/envoy"))
        _build(client, ENVOY, f"FROM {BASE}\nCOPY envoy /usr/local/bin/envoy\n", {"envoy": envoy})
        return {WATCHER, MEMORY, ENVOY}


def _base(client: DockerClient) -> str:
    """Debian with Python and apt, as `debian:bookworm` has it; returns a tag that says what it is made of."""
    repository, _, tag = BASE.partition(":")
    made_of = "\n".join((*DEBIAN, PATH, APT_SOURCES.read_text()))
    name = f"{repository}:{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    if not client.images.list(name):
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / "base.tar"
            done = subprocess.run([*DEBIAN, str(tar), str(APT_SOURCES)], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            tagged = {"repository": repository, "tag": name.partition(":")[2]}
            client.api.import_image_from_file(str(tar), **tagged, changes=[f"ENV PATH={PATH}"])
    client.images.get(name).tag(repository, tag)
    return name


def _python_dockerfile() -> str:
    """What a registry's Python image is, and this machine's authorities for pip."""
    return f"FROM {BASE}\nCOPY ca.crt {AUTHORITIES}\nENV PIP_CERT={AUTHORITIES}\n"


def _watching_dockerfile() -> str:
    return f"""\
FROM {BASE}
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends prometheus prometheus-node-exporter \\
    && ln -s prometheus-node-exporter /usr/bin/node_exporter && install -d -o 65534 /prometheus
"""


def _without_cache(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if file.name.endswith("__pycache__") else file


def _build(client: DockerClient, tag: str, dockerfile: str, beside: Mapping[str, Path] | None = None) -> None:
    """Builds an image of a Dockerfile and files beside it."""
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            info = tarfile.TarInfo("Dockerfile")
            info.size = len(dockerfile)
            tar.addfile(info, io.BytesIO(dockerfile.encode()))
            for name, path in (beside or {}).items():
                tar.add(path.resolve(), name, filter=_without_cache)
        context.seek(0)
        client.images.build(fileobj=context, custom_context=True, tag=tag, network_mode="host", rm=True)

"""Images for the node's containerd: those of one static program, and those of a Docker Engine."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

PAUSE = "localhost/pause:tests"


def of(name: str, program: Path) -> bytes:
    """An image, as `docker save` writes them, of one static program."""
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"config.json": json.dumps(config), "manifest.json": json.dumps(manifest)}
    return _tar({"layer.tar": layer, **{name: text.encode() for name, text in files.items()}}, mode=0o644)


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def has(containerd: Path, name: str) -> bool:
    """Whether the node has an image of that name, as Docker writes it."""
    command = ["ctr", "--address", str(containerd), "--namespace", "k8s.io", "images", "list", "-q"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return any(name == one.removeprefix("docker.io/").removeprefix("library/") for one in listed)


def load(containerd: Path, image: bytes) -> None:
    subprocess.run(_import(containerd), input=image, check=True, capture_output=True)


def load_from_docker(containerd: Path, docker_host: str, name: str) -> None:
    """Gives the node an image of a Docker Engine, under the same name as far as pods are concerned."""
    with tempfile.TemporaryFile() as said:
        command = ["docker", "-H", docker_host, "save", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as save:
            done = subprocess.run(_import(containerd), stdin=save.stdout, check=False, capture_output=True, text=True)
        said.seek(0)
        if save.returncode:
            raise RuntimeError(f"{name} can't be had from {docker_host}: {said.read().decode().strip()}")
    if done.returncode:
        raise RuntimeError(f"{name} can't be given to the node: {done.stderr.strip()}")


def _import(containerd: Path) -> list[str]:
    return ["ctr", "--address", str(containerd), "--namespace", "k8s.io", "images", "import", "-"]

"""A registry of images on the node's bridge, over plain HTTP: Debian's."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import node
from tests.cluster.network import NODE
from tests.cluster.processes import Daemons
from tests.servers import free_ports, wait_for

PROGRAM = "docker-registry"


@dataclass(frozen=True)
class Registry:
    """It runs, and the nodes of `known` know that it has no TLS."""

    address: str

    def push(self, image: str, name: str) -> str:
        """Has an image of the node as NAME; returns how it is pulled: by its digest."""
        ctr = ["ctr", "--address", str(node.FOLDER / "containerd.sock"), "--namespace", "k8s.io", "images"]
        local = f"docker.io/{image}"
        listed = subprocess.run([*ctr, "list", f"name=={local}"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"sha256:[0-9a-f]{64}", listed)
        assert found, f"the node has no {local}"
        words = [*ctr, "push", "--plain-http", f"{self.address}/{name}:pushed", local]
        subprocess.run(words, check=True, capture_output=True)
        return f"{self.address}/{name}@{found[0]}"


@contextlib.contextmanager
def started(*known: Path) -> Iterator[Registry]:
    """Starts a registry; `known` are the folders of the nodes that pull from it."""
    (port,) = free_ports(1)
    address = f"{NODE}:{port}"
    daemons = Daemons(node.FOLDER / "logs")
    with tempfile.TemporaryDirectory(dir=node.FOLDER, prefix="registry-") as kept, contextlib.ExitStack() as stack:
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": kept}},
            "http": {"addr": address},
        }
        written = Path(kept, "config.yml")
        written.write_text(json.dumps(config))
        process = daemons.start(PROGRAM, PROGRAM, "serve", written)
        stack.callback(process.wait)
        stack.callback(process.kill)
        for folder in known:
            hosts = folder / "registries" / address
            hosts.mkdir(parents=True)
            stack.callback(hosts.rmdir)
            toml = hosts / "hosts.toml"
            toml.write_text(
                f'server = "http://{address}"\n[host."http://{address}"]\ncapabilities = ["pull", "resolve"]\n'
            )
            stack.callback(toml.unlink, missing_ok=True)
        wait_for(lambda: daemons.healthy(PROGRAM, process, f"http://{address}/v2/"), what="the registry's answer")
        yield Registry(address)

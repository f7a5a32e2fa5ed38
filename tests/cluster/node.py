"""A Kubernetes cluster of one node, for the tests: the real programs, on this machine.

    absent ──up()──▶ running ──down()──▶ absent
       ▲                                   │
       └── down(), after whatever up() did ┘

`down` needs nothing of the process that called `up`: what the cluster is made of has fixed names (a folder, a control
group, a bridge, chains of iptables), and what the machine was like before is written down in the folder first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import binaries, control_plane, crds, dns, gateway, images, network, processes, worker
from tests.cluster.certificates import Authority
from tests.cluster.processes import Daemons
from tests.servers import wait_for

FOLDER = Path("/var/lib/serving-cluster")
BEFORE = FOLDER / "before.json"
KUBECONFIG = FOLDER / "pki/admin.kubeconfig"
PACKAGES = "containerd containernetworking-plugins etcd-server iptables conntrack iproute2 openssl"
PROGRAMS = ("containerd", "ctr", "runc", "etcd", "iptables", "conntrack", "ip", "openssl", "nsenter", "unshare")


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs: how it is reached, and how it is given images."""

    kubeconfig: Path
    program: str = "kubectl"
    # None when it isn't of the tests: then it has its images already.
    containerd: Path | None = None

    def kubectl(self, *words: str, stdin: str | None = None, code: int | None = 0) -> str:
        """What `kubectl WORDS` prints; it must exit with `code`."""
        done = self.run(*words, stdin=stdin)
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """`kubectl WORDS`, however it ends."""
        command = [self.program, "--kubeconfig", str(self.kubeconfig), *words]
        return subprocess.run(command, input=stdin, check=False, capture_output=True, text=True)

    def apply(self, manifests: str, namespace: str = "default") -> None:
        """Applies manifests, which must have no field that the server doesn't know."""
        self.kubectl("-n", namespace, "apply", "--validate=strict", "-f", "-", stdin=manifests)

    def has_image(self, name: str) -> bool:
        """Whether pods can use the image; a cluster that isn't of the tests is believed to have it."""
        return not self.containerd or images.has(self.containerd, name)

    def load_image(self, docker_host: str, name: str) -> None:
        """Gives the node the image `name` of a Docker Engine: pods use it with any policy but Always."""
        if self.containerd:
            images.load_from_docker(self.containerd, docker_host, name)


def given() -> Cluster | None:
    """The cluster that the user's KUBECONFIG names, if any: it is used as it is."""
    if not (path := os.environ.get("KUBECONFIG")):
        return None
    return own() if Path(path) == KUBECONFIG else Cluster(Path(path))


def own() -> Cluster:
    """The cluster that `up` started."""
    return Cluster(KUBECONFIG, str(binaries.KUBERNETES.path("kubectl")), FOLDER / "containerd.sock")


def unusable() -> str | None:
    """Why no cluster can be started here; None when one can."""
    if os.getuid():
        return "a Kubernetes node needs root to start"
    if lacking := processes.lacking(PROGRAMS, network.ENVIRONMENT["PATH"]):
        return f"{', '.join(lacking)} isn't installed (Debian: apt-get install --no-install-recommends {PACKAGES})"
    if not worker.PLUGINS.is_dir():
        return f"{worker.PLUGINS} isn't there (Debian: apt-get install containernetworking-plugins)"
    if unbuilt() and not shutil.which("go"):
        return "Kubernetes is built from Go modules, and go isn't on PATH"
    if found := left():
        return (
            f"there is a cluster of the tests, or what is left of one: {found}; `python -m tests.cluster down` ends it"
        )
    if network.overlapping():
        return f"this machine has routes to the addresses of a cluster, {network.SERVICES} and {network.PODS}"
    return None


def left() -> str:
    """What this machine has of a cluster, in words; nothing after `down`."""
    parts = {
        str(FOLDER): FOLDER.exists(),
        f"the control group {processes.GROUP}": processes.exists(),
        f"the bridge {network.BRIDGE}": network.exists(),
        "chains of iptables": network.chains(),
    }
    return ", ".join(part for part, there in parts.items() if there)


def unbuilt() -> bool:
    """Whether `build` has something to do."""
    return bool(binaries.missing() or crds.missing())


def build() -> None:
    """Builds and downloads what the cluster is made of and isn't kept yet: some half an hour the first time."""
    binaries.build()
    crds.download()


@contextlib.contextmanager
def started() -> Iterator[Cluster]:
    """Starts a cluster; leaves the machine as it was."""
    cluster = up()
    try:
        yield cluster
    finally:
        down()


def up(tell: Callable[[str], object] = lambda _: None) -> Cluster:
    """Starts a cluster, whose pods can run when this returns. What is half up is taken down."""
    if reason := unusable():
        raise RuntimeError(f"no cluster can run here: {reason}")
    build()
    try:
        return _up(tell)
    except BaseException:
        tell("That failed; taking down what was started …")
        down()
        raise


def _up(tell: Callable[[str], object]) -> Cluster:
    FOLDER.mkdir(mode=0o755)
    places = worker.places(FOLDER)
    before = {"sysctls": network.sysctls(), "made": [str(place) for place in places if not place.exists()]}
    # What is there of it is whole, so that `down` can go by it.
    BEFORE.with_suffix(".tmp").write_text(json.dumps(before))
    BEFORE.with_suffix(".tmp").rename(BEFORE)
    for place, folder in places.items():
        place.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True)
    (FOLDER / "logs").mkdir()
    daemons = Daemons(FOLDER / "logs")
    processes.make_group()
    network.make()
    authority = Authority.made(FOLDER / "pki")

    tell("Starting the control plane …")
    control_plane.start(daemons, authority, FOLDER)
    cluster = own()
    tell("Starting the node …")
    worker.start(daemons, authority, FOLDER)
    wait_for(lambda: _ready(cluster), 120, "a node that is ready")
    tell("Starting the DNS and the gateway …")
    dns.start(daemons, authority, cluster.kubectl, FOLDER)
    gateway.start(daemons, authority, cluster.kubectl, FOLDER)
    crds.apply(cluster.kubectl)
    return cluster


def _ready(cluster: Cluster) -> bool:
    """Whether pods can run: the node says so, and the namespaces have their accounts."""
    condition = 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'
    node = cluster.run("get", "nodes", "-o", condition)
    return node.stdout == "True" and not cluster.run("get", "serviceaccount", "default").returncode


def down() -> None:
    """Ends and removes whatever there is of a cluster. It is no error if there is nothing."""
    processes.remove_group()
    network.remove()
    if BEFORE.exists():
        before = json.loads(BEFORE.read_text())
        network.restore_sysctls(before["sysctls"])
        for place in before["made"]:
            with contextlib.suppress(FileNotFoundError):
                Path(place).rmdir()
    shutil.rmtree(FOLDER, ignore_errors=True)
    if FOLDER.exists():
        raise RuntimeError(f"{FOLDER} can't be removed")

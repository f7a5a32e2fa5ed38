"""NetworkPolicies, enforced by kube-router's controller as a process beside the node's. The node alone enforces none.

It is for the tests that need it: as long as it runs, the policies of all namespaces are enforced. What comes from the
node itself always passes, as the kubelet's probes must; so clients of such a test are pods.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from tests.cluster import network
from tests.cluster.binaries import POLICIES
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import SERVER
from tests.cluster.network import ENVIRONMENT
from tests.cluster.node import FOLDER, Cluster
from tests.cluster.processes import Daemons
from tests.cluster.worker import FIRST
from tests.servers import wait_for

ENGINE = "policies"
# Its chains and sets; kube-proxy's have other names.
_CHAINS = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
_SETS = ("KUBE-SRC-", "KUBE-DST-", "kube-router-")


def unusable() -> str | None:
    """Why no policies can be enforced here; None when they can."""
    if not POLICIES.folder.exists():
        return "the engine of NetworkPolicies isn't built yet: `python -m tests.cluster build` does it, once"
    try:
        subprocess.run(["ipset", "list", "-name"], check=True, capture_output=True, env=ENVIRONMENT)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"ipset doesn't run (Debian: apt-get install ipset): {error}"
    return None


@contextlib.contextmanager
def enforced(cluster: Cluster) -> Iterator[None]:
    """Enforces the policies, and leaves no rule of them."""
    authority, daemons = Authority(FOLDER / "pki"), Daemons(FOLDER / "logs")
    authority.sign(ENGINE, ENGINE)
    binding = ("clusterrolebinding", ENGINE)
    cluster.run("create", *binding, "--clusterrole=cluster-admin", f"--user={ENGINE}")
    words = [
        POLICIES.path("kube-router"),
        "--run-firewall",
        "--run-router=false",
        "--run-service-proxy=false",
        "--enable-cni=false",
        "--health-port=0",
        f"--service-cluster-ip-range={network.SERVICES}",
        f"--hostname-override={FIRST.name}",
        f"--kubeconfig={authority.kubeconfig(ENGINE, SERVER)}",
    ]
    engine = daemons.start(ENGINE, *words)
    try:
        wait_for(lambda: _begun(daemons, engine), what="rules of iptables")
        yield
    finally:
        engine.terminate()
        engine.wait(30)
        remove()
        cluster.run("delete", *binding)


def _begun(daemons: Daemons, engine: subprocess.Popen[bytes]) -> bool:
    assert engine.poll() is None, daemons.tail(ENGINE)
    return network.chains(_CHAINS)


def remove() -> None:
    """Removes the rules and the sets that they look at."""
    network.forget(_CHAINS)
    listed = subprocess.run(["ipset", "list", "-name"], check=True, capture_output=True, text=True, env=ENVIRONMENT)
    for name in listed.stdout.split():
        if name.startswith(_SETS):
            subprocess.run(["ipset", "destroy", name], check=True, capture_output=True, env=ENVIRONMENT)

"""The controller of Argo Rollouts, as a process beside the node's, and its kinds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tests.cluster import crds, node
from tests.cluster.binaries import ARGO_ROLLOUTS
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import SERVER
from tests.cluster.processes import Daemons
from tests.servers import free_ports, wait_for

MODULE = "github.com/argoproj/argo-rollouts"
NAME = "argo-rollouts"


@contextlib.contextmanager
def running(kubectl: Callable[..., str]) -> Iterator[None]:
    """Runs the controller, with the rights that its own manifests give it, on the cluster of `make cluster`."""
    files = ARGO_ROLLOUTS.required(MODULE)
    kubectl("apply", "--server-side", "-k", str(files / "crds"))
    kubectl("apply", "--server-side", "-f", str(files / "role/argo-rollouts-clusterrole.yaml"))
    crds.wait_until_established(kubectl)
    kubectl("apply", "-f", "-", stdin=BINDING)
    authority = Authority(node.FOLDER / "pki")
    authority.sign(NAME, NAME)
    metrics, health = free_ports(2)
    daemons = Daemons(node.FOLDER / "logs")
    process = daemons.start(
        NAME,
        ARGO_ROLLOUTS.path("rollouts-controller"),
        f"--kubeconfig={authority.kubeconfig(NAME, SERVER)}",
        "--leader-elect=false",
        f"--metricsPort={metrics}",
        f"--healthzPort={health}",
    )
    try:
        url = f"http://127.0.0.1:{health}/healthz"
        wait_for(lambda: daemons.healthy(NAME, process, url), what="the answer of Argo Rollouts")
        yield
    finally:
        process.terminate()
        process.wait(30)


BINDING = f"""\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {NAME}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {NAME}}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {NAME}}}]
"""

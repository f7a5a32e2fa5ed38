"""A Gateway, by Contour and Envoy as processes beside the node's.

Routes name it as their parent, from any namespace. Where it answers is in its status, as on any cluster: the address of
a service that leads to Envoy.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from tests.cluster import crds
from tests.cluster.binaries import GATEWAY
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import SERVER
from tests.cluster.network import NODE
from tests.cluster.processes import Daemons
from tests.servers import free_ports, wait_for

CONTOUR = "github.com/projectcontour/contour"
CRDS = "sigs.k8s.io/gateway-api"
NAMESPACE, NAME = "projectcontour", "contour"
ADDRESS, PORT = "10.96.0.80", 80
# Contour tells Envoy to listen on a Gateway's port and this.
OFFSET = 8000
HEALTH, STATS, DEBUG = 8000, 8002, 6060

MANIFESTS = f"""\
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: contour}}
spec: {{controllerName: projectcontour.io/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {NAME}, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: contour
  listeners:
  - {{name: http, protocol: HTTP, port: {PORT}, allowedRoutes: {{namespaces: {{from: All}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: envoy, namespace: {NAMESPACE}}}
spec:
  clusterIP: {ADDRESS}
  ports: [{{name: http, port: {PORT}, targetPort: {PORT + OFFSET}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: envoy, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: envoy}}}}
addressType: IPv4
ports: [{{name: http, port: {PORT + OFFSET}, protocol: TCP}}]
endpoints: [{{addresses: [{NODE}], conditions: {{ready: true}}}}]
"""


def start(daemons: Daemons, authority: Authority, kubectl: Callable[..., str], folder: Path) -> None:
    kinds = (GATEWAY.required(CRDS), GATEWAY.required(CONTOUR) / "01-crds.yaml")
    kubectl("apply", "--server-side", *(word for path in kinds for word in ("-f", str(path))))
    crds.wait_until_established(kubectl)
    kubectl("apply", "-f", "-", stdin=MANIFESTS)
    (xds,) = free_ports(1)
    _start_contour(daemons, authority, kubectl, folder, xds)
    _start_envoy(daemons, folder, xds)
    kubectl("wait", "--for=condition=Programmed", f"gateway/{NAME}", f"--namespace={NAMESPACE}", "--timeout=60s")


def _start_contour(daemons: Daemons, authority: Authority, kubectl: Callable[..., str], folder: Path, xds: int) -> None:
    authority.sign("gateway", "gateway")
    kubectl("create", "clusterrolebinding", "gateway", "--clusterrole=cluster-admin", "--user=gateway")
    config = folder / "contour.yaml"
    config.write_text(json.dumps({"gateway": {"gatewayRef": {"namespace": NAMESPACE, "name": NAME}}}))
    # Their CRDs are in Gateway API's experimental channel only.
    absent = ("tlsroutes", "tcproutes", "backendtlspolicies")
    contour = daemons.start(
        "contour",
        GATEWAY.path("contour"),
        "serve",
        f"--config-path={config}",
        f"--kubeconfig={authority.kubeconfig('gateway', SERVER)}",
        "--disable-leader-election",
        "--insecure",
        "--xds-address=127.0.0.1",
        f"--xds-port={xds}",
        f"--http-address={NODE}",
        f"--http-port={HEALTH}",
        f"--health-address={NODE}",
        f"--health-port={HEALTH}",
        f"--stats-address={NODE}",
        f"--stats-port={STATS}",
        f"--debug-http-address={NODE}",
        f"--debug-http-port={DEBUG}",
        f"--envoy-service-http-address={NODE}",
        f"--envoy-service-https-address={NODE}",
        f"--ingress-status-address={ADDRESS}",
        *(f"--disable-feature={feature}" for feature in absent),
    )
    wait_for(lambda: daemons.healthy("contour", contour, f"http://{NODE}:{HEALTH}/healthz"), what="Contour's answer")


def _start_envoy(daemons: Daemons, folder: Path, xds: int) -> None:
    bootstrap = folder / "envoy.json"
    subprocess.run(
        [
            str(GATEWAY.path("contour")),
            "bootstrap",
            str(bootstrap),
            f"--admin-address={folder / 'envoy.sock'}",
            "--xds-address=127.0.0.1",
            f"--xds-port={xds}",
            f"--namespace={NAMESPACE}",
        ],
        check=True,
        capture_output=True,
    )
    program = files("envoy") / "_bin/envoy"
    words = ("-c", bootstrap, "--service-node", "envoy", "--service-cluster", "contour", "--log-level", "warn")
    # Envoys share memory on a machine, unless they are told not to.
    envoy = daemons.start("envoy", program, *words, "--disable-hot-restart")
    wait_for(lambda: daemons.healthy("envoy", envoy, f"http://{NODE}:{STATS}/ready"), what="Envoy's answer")

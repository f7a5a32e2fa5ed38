"""etcd, the API server, the controller manager and the scheduler."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from ssl import create_default_context

from tests.cluster.binaries import KUBERNETES
from tests.cluster.certificates import Authority
from tests.cluster.network import API_SERVICE, DOMAIN, NODE, SERVICES
from tests.cluster.processes import Daemons
from tests.servers import free_ports, wait_for

PORT = 6443
SERVER = f"https://{NODE}:{PORT}"
FRONT_PROXY = "front-proxy"


def start(daemons: Daemons, authority: Authority, folder: Path) -> None:
    """Starts them, and makes an administrator's kubeconfig."""
    etcd = _start_etcd(daemons, folder)
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}")
    addresses = (f"IP:{NODE}", f"IP:{API_SERVICE}")
    authority.sign("api", "kube-apiserver", "system:masters", (*addresses, *(f"DNS:{name}" for name in names)))
    authority.sign("admin", "admin", "system:masters")
    # What the API server hands on to others' API servers is signed by who signs nothing else.
    front = Authority.made(folder / "front-proxy")
    front.sign("front-proxy", FRONT_PROXY)
    api = daemons.start(
        "kube-apiserver",
        KUBERNETES.path("kube-apiserver"),
        f"--advertise-address={NODE}",
        f"--bind-address={NODE}",
        f"--secure-port={PORT}",
        f"--etcd-servers={etcd}",
        f"--service-cluster-ip-range={SERVICES}",
        f"--client-ca-file={authority.path('ca.pem')}",
        f"--tls-cert-file={authority.path('api.pem')}",
        f"--tls-private-key-file={authority.path('api.key')}",
        f"--kubelet-certificate-authority={authority.path('ca.pem')}",
        f"--kubelet-client-certificate={authority.path('api.pem')}",
        f"--kubelet-client-key={authority.path('api.key')}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={authority.path('accounts.pub')}",
        f"--service-account-signing-key-file={authority.path('accounts.key')}",
        f"--requestheader-client-ca-file={front.path('ca.pem')}",
        f"--requestheader-allowed-names={FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={front.path('front-proxy.pem')}",
        f"--proxy-client-key-file={front.path('front-proxy.key')}",
        "--authorization-mode=Node,RBAC",
        # A namespace's annotation gives its pods tolerations: those of a node that is a test's alone.
        "--enable-admission-plugins=NodeRestriction,PodTolerationRestriction",
        "--allow-privileged=true",
        "--profiling=false",
    )
    authority.kubeconfig("admin", SERVER)
    wait_for(lambda: _answers(daemons, api, authority), 120, "the API server's answer")
    for name in ("kube-controller-manager", "kube-scheduler"):
        authority.sign(name, f"system:{name}")
    manager = authority.kubeconfig("kube-controller-manager", SERVER)
    common = ("--leader-elect=false", f"--bind-address={NODE}", "--profiling=false")
    daemons.start(
        "kube-controller-manager",
        KUBERNETES.path("kube-controller-manager"),
        f"--kubeconfig={manager}",
        f"--root-ca-file={authority.path('ca.pem')}",
        f"--service-account-private-key-file={authority.path('accounts.key')}",
        "--use-service-account-credentials=true",
        # A test waits for these.
        "--horizontal-pod-autoscaler-sync-period=3s",
        "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
        "--horizontal-pod-autoscaler-cpu-initialization-period=10s",
        *common,
    )
    scheduler = authority.kubeconfig("kube-scheduler", SERVER)
    daemons.start("kube-scheduler", KUBERNETES.path("kube-scheduler"), f"--kubeconfig={scheduler}", *common)


def _start_etcd(daemons: Daemons, folder: Path) -> str:
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    daemons.start(
        "etcd",
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
        "--logger=zap",
    )
    return client


def _answers(daemons: Daemons, api: subprocess.Popen[bytes], authority: Authority) -> bool:
    assert api.poll() is None, daemons.tail("kube-apiserver")
    context = create_default_context(cafile=authority.path("ca.pem"))
    context.load_cert_chain(authority.path("admin.pem"), authority.path("admin.key"))
    try:
        with urllib.request.urlopen(f"{SERVER}/readyz", context=context, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False

"""CoreDNS, for the names of services and pods, as a process beside the node's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cluster.binaries import DNS
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import SERVER
from tests.cluster.network import DOMAIN, NODE
from tests.cluster.processes import Daemons
from tests.servers import wait_for

READY = 8181


def start(daemons: Daemons, authority: Authority, kubectl: Callable[..., str], folder: Path) -> None:
    authority.sign("dns", "dns")
    kubectl("create", "clusterrolebinding", "dns", "--clusterrole=view", "--user=dns")
    kubeconfig = authority.kubeconfig("dns", SERVER)
    (folder / "Corefile").write_text(f"""\
{DOMAIN}:53 in-addr.arpa:53 {{
    bind {NODE}
    errors
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
}}
# There are no other names, and who asks for one is told so, not to try again.
.:53 {{
    bind {NODE}
    errors
    ready {NODE}:{READY}
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
""")
    process = daemons.start("coredns", DNS.path("coredns"), "-conf", folder / "Corefile")
    wait_for(lambda: daemons.healthy("coredns", process, f"http://{NODE}:{READY}/ready"), what="the DNS's answer")

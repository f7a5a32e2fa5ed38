"""The node's network: a bridge that its pods are on, and what netfilter needs to know of it.

Everything that the cluster listens on is an address of the bridge, which nothing outside of this machine reaches. Pods
reach each other, services and this machine; nothing forwards them any further.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

BRIDGE = "srv0"
NODE = "10.97.0.1"
PODS = "10.97.0.0/24"
# Those of the node that a test may add.
SECOND_BRIDGE = "srv1"
SECOND_NODE = "10.97.1.1"
SECOND_PODS = "10.97.1.0/24"
# Both, the first as iptables writes it.
BRIDGES = "srv+"
ALL_PODS = "10.97.0.0/16"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DOMAIN = "cluster.local"

CHAIN = "SERVING-CLUSTER"
# Chains that Kubernetes and its plugins make. Docker's have other names.
OURS = ("KUBE-", "CNI-", CHAIN)
TABLES = ("filter", "nat", "mangle")
# iptables is where only root looks.
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"}
# What kubelet and kube-proxy change, and the plugins of CNI.
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)


def exists(bridge: str = BRIDGE) -> bool:
    return Path("/sys/class/net", bridge).exists()


def overlapping() -> bool:
    """Whether this machine has routes to what would be the cluster's addresses."""
    done = subprocess.run(["ip", "route"], check=True, capture_output=True, text=True, env=ENVIRONMENT)
    return bool(re.search(r"^10\.9[67]\.", done.stdout, re.MULTILINE))


def sysctls() -> dict[str, str]:
    """What the machine has of what the cluster changes."""
    paths = {name: Path("/proc/sys", name) for name in SYSCTLS}
    return {name: path.read_text() for name, path in paths.items() if path.exists()}


def restore_sysctls(values: dict[str, str]) -> None:
    now = sysctls()
    for name, value in values.items():
        if now.get(name) != value:
            Path("/proc/sys", name).write_text(value)


def make() -> None:
    """Makes the bridge. Its packets are seen by iptables, so that a pod reaches a service whose pod is beside it."""
    make_bridge(BRIDGE, NODE)
    for words in (
        ("iptables", "-w", "-N", CHAIN),
        # A Docker Engine has whatever isn't accepted here dropped.
        ("iptables", "-w", "-A", CHAIN, "-i", BRIDGES, "-o", BRIDGES, "-j", "ACCEPT"),
        ("iptables", "-w", "-I", "FORWARD", "-j", CHAIN),
    ):
        subprocess.run(words, check=True, capture_output=True, env=ENVIRONMENT)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")


def make_bridge(bridge: str, node: str) -> None:
    for words in (
        ("ip", "link", "add", bridge, "type", "bridge"),
        ("ip", "address", "add", f"{node}/24", "dev", bridge),
        ("ip", "link", "set", bridge, "up"),
    ):
        subprocess.run(words, check=True, capture_output=True, env=ENVIRONMENT)


def remove_bridge(bridge: str) -> None:
    if exists(bridge):
        subprocess.run(["ip", "link", "delete", bridge], check=True, capture_output=True, env=ENVIRONMENT)


def remove() -> None:
    """Removes the bridges and all that the cluster told iptables, and leaves what others told it."""
    for bridge in (BRIDGE, SECOND_BRIDGE):
        remove_bridge(bridge)
    forget(OURS)


def chains(beginnings: tuple[str, ...] = OURS) -> bool:
    """Whether iptables has chains of a cluster, or others whose names begin like this."""
    return any(line[1:].startswith(beginnings) for lines in _rules().values() for line in lines if line[:1] == ":")


def forget(beginnings: tuple[str, ...]) -> None:
    """Removes the chains whose names begin like this, and the rules that lead to them."""
    for (family, table), lines in _rules().items():
        _forget(family, table, lines, beginnings)


def _rules() -> dict[tuple[str, str], list[str]]:
    """What each table of each family has, as iptables-save writes it."""
    found = {}
    for family in ("iptables", "ip6tables"):
        for table in TABLES:
            command = [f"{family}-save", "-t", table]
            # A machine may have no IPv6.
            saved = subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT)
            found[family, table] = saved.stdout.splitlines()
    return found


def _forget(family: str, table: str, lines: list[str], beginnings: tuple[str, ...]) -> None:
    own = [line[1:].split()[0] for line in lines if line.startswith(":") and line[1:].startswith(beginnings)]
    if not own:
        return
    rules = [line.removeprefix("-A ") for line in lines if line.startswith("-A ")]
    leading = [rule for rule in rules if rule.rpartition(" -j ")[2].startswith(beginnings)]
    jumps = [f"-D {rule}" for rule in leading if not rule.startswith(beginnings)]
    emptied = [f"-F {chain}" for chain in own]
    deleted = [f"-X {chain}" for chain in own]
    script = "\n".join([f"*{table}", *jumps, *emptied, *deleted, "COMMIT", ""])
    restore = [f"{family}-restore", "--noflush", "-w"]
    subprocess.run(restore, input=script, text=True, check=True, capture_output=True, env=ENVIRONMENT)

"""containerd, the kubelet and kube-proxy: the node itself."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import images
from tests.cluster.binaries import KUBERNETES, PAUSE
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import SERVER
from tests.cluster.network import ALL_PODS, BRIDGE, DOMAIN, ENVIRONMENT, NODE, PODS
from tests.cluster.processes import Daemons
from tests.servers import wait_for

# Where Debian has the plugins of the container network interface.
PLUGINS = Path("/usr/lib/cni")


def places(folder: Path) -> dict[Path, Path]:
    """Folders that the programs write to and that no option changes, and what they are to see there instead."""
    fixed = ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")
    return {Path(place): folder / "instead" / place.strip("/").replace("/", "-") for place in fixed}


@dataclass(frozen=True)
class Worker:
    """A node: what it is called, and the bridge that it and its pods have addresses on."""

    name: str
    zone: str
    bridge: str
    address: str
    pods: str
    # Pods run there only if they tolerate it.
    taint: str = ""


FIRST = Worker("node", "one", BRIDGE, NODE, PODS)


def start(daemons: Daemons, authority: Authority, folder: Path) -> None:
    """Starts the cluster's node, and what has its services lead to pods, wherever these are on this machine."""
    start_node(daemons, authority, folder, FIRST)
    _start_proxy(daemons, authority, folder)


def start_node(daemons: Daemons, authority: Authority, folder: Path, worker: Worker) -> None:
    containerd = _start_containerd(daemons, folder, worker)
    _start_kubelet(daemons, authority, folder, containerd, worker)


def _start_containerd(daemons: Daemons, folder: Path, worker: Worker) -> subprocess.Popen[bytes]:
    network = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": worker.bridge,
                "isGateway": True,
                # A pod may reach itself through its service.
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": worker.pods, "gateway": worker.address}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(folder / "addresses"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (folder / "cni").mkdir()
    (folder / "cni/pods.conflist").write_text(json.dumps(network))
    socket = folder / "containerd.sock"
    config = folder / "containerd.toml"
    config.write_text(f"""\
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
# Scores can't be lowered on every machine.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{folder}/cni"
# How registries are reached that aren't by HTTPS: a folder for each, read with every pull.
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{folder}/registries"
""")
    containerd = daemons.start_apart("containerd", "containerd", "--config", config, instead=places(folder).items())
    wait_for(lambda: _serves(daemons, containerd, socket), what="containerd's answer")
    images.load(socket, images.of(images.PAUSE, PAUSE.path("pause")))
    return containerd


def _serves(daemons: Daemons, containerd: subprocess.Popen[bytes], socket: Path) -> bool:
    assert containerd.poll() is None, daemons.tail("containerd")
    command = ["ctr", "--address", str(socket), "version"]
    return not subprocess.run(command, check=False, capture_output=True, env=ENVIRONMENT).returncode


def _start_kubelet(
    daemons: Daemons, authority: Authority, folder: Path, containerd: subprocess.Popen[bytes], worker: Worker
) -> None:
    own = f"kubelet-{worker.name}"
    authority.sign(own, f"system:node:{worker.name}", "system:nodes", (f"DNS:{worker.name}", f"IP:{worker.address}"))
    # Pods ask the cluster's DNS, which asks nobody: there is nobody out there for them.
    (folder / "resolv.conf").write_text("")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": worker.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": authority.path("ca.pem")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": authority.path(f"{own}.pem"),
        "tlsPrivateKeyFile": authority.path(f"{own}.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{daemons.group}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        "clusterDNS": [NODE],
        "clusterDomain": DOMAIN,
        "resolvConf": str(folder / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "podLogsDir": str(folder / "pod-logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        # Its chains are kube-proxy's too.
        "makeIPTablesUtilChains": False,
        "healthzPort": 0,
        "readOnlyPort": 0,
        # The machine's disk is not the cluster's to judge: a full one must fail tests for what they say.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        # A test waits for these.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "enableControllerAttachDetach": True,
        "registerWithTaints": [{"key": worker.taint, "effect": "NoSchedule"}] if worker.taint else [],
    }
    written = _written(folder / "kubelet.json", config)
    kubeconfig = authority.kubeconfig(own, SERVER)
    daemons.start(
        "kubelet",
        KUBERNETES.path("kubelet"),
        f"--config={written}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={folder / 'kubelet'}",
        f"--hostname-override={worker.name}",
        f"--node-labels=topology.kubernetes.io/zone={worker.zone}",
        f"--node-ip={worker.address}",
        within=containerd,
    )


def _start_proxy(daemons: Daemons, authority: Authority, folder: Path) -> None:
    authority.sign("kube-proxy", "system:kube-proxy")
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "bindAddress": NODE,
        "healthzBindAddress": f"{NODE}:10256",
        "metricsBindAddress": f"{NODE}:10249",
        "clusterCIDR": ALL_PODS,
        "hostnameOverride": FIRST.name,
        "nodePortAddresses": [f"{NODE}/32"],
        "clientConnection": {"kubeconfig": str(authority.kubeconfig("kube-proxy", SERVER))},
        # What the kernel tracks is left as it is: not every machine lets it be changed.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "0s", "localhostNodePorts": False},
    }
    written = _written(folder / "kube-proxy.json", config)
    daemons.start("kube-proxy", KUBERNETES.path("kube-proxy"), f"--config={written}")


def _written(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config))
    return path

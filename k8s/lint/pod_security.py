"""The level `restricted` of the Pod Security Standards, with the controls of `baseline` that it includes.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfserving.k8s.lint.findings import Finding
from tfserving.k8s.lint.manifests import Container, Manifests, Pods

_VOLUMES = (
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"),
    *("persistentVolumeClaim", "projected", "secret"),
)
_SYSCTLS = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
)
_SELINUX = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe")

# A field, what is wrong with it, and what to do.
Broken = tuple[str, str, str]


def pod_security(manifests: Manifests) -> Iterator[Finding]:
    """Yield what the level `restricted` forbids."""
    for pods in manifests.pods:
        for field, problem, remedy in _pod(pods):
            yield Finding("pod-security", pods.object, field, problem, remedy)
        for container in pods.containers:
            for field, problem, remedy in _container(pods, container):
                yield Finding("pod-security", pods.object, f"{container.field}.{field}", problem, remedy)


def _pod(pods: Pods) -> Iterator[Broken]:
    spec, context = pods.spec, pods.spec.get("securityContext") or {}
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{pods.field}.{field}", "the pods share a namespace with their node", "Remove the field"
    for index, volume in enumerate(spec.get("volumes") or ()):
        kinds = [kind for kind in volume if kind != "name" and kind not in _VOLUMES]
        for kind in kinds:
            field = f"{pods.field}.volumes[{index}].{kind}"
            yield field, "this kind of volume is not allowed", f"Use one of {', '.join(_VOLUMES)}"
    for index, sysctl in enumerate(context.get("sysctls") or ()):
        if sysctl.get("name") not in _SYSCTLS:
            field = f"{pods.field}.securityContext.sysctls[{index}]"
            yield field, f"the sysctl {sysctl.get('name')} is not allowed", "Remove it"
    for field, problem, remedy in _both(context):
        yield f"{pods.field}.securityContext.{field}", problem, remedy


def _container(pods: Pods, container: Container) -> Iterator[Broken]:
    context, pod = container.content.get("securityContext") or {}, pods.spec.get("securityContext") or {}
    for field, problem, remedy in (*_both(context), *_rights(context, pod)):
        yield f"securityContext.{field}", problem, remedy
    for index, port in enumerate(container.content.get("ports") or ()):
        if port.get("hostPort"):
            yield f"ports[{index}].hostPort", "the container takes a port of its node", "Remove the field"
    yield from _handlers(container)


def _rights(context: dict[str, Any], pod: dict[str, Any]) -> Iterator[Broken]:
    """Yield the rights that a container has beyond those of `restricted`."""
    if context.get("privileged"):
        yield "privileged", "the container has all rights of its node", "Remove the field"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation", "a process can gain rights", "Set it to false"
    if context.get("procMount", "Default") != "Default":
        yield "procMount", f"got {context['procMount']}, expected Default", "Remove the field"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield "capabilities.drop", "the container keeps capabilities", "Set it to [ALL]"
    if added := [one for one in capabilities.get("add") or () if one != "NET_BIND_SERVICE"]:
        yield "capabilities.add", f"got {', '.join(added)}, expected NET_BIND_SERVICE at most", "Remove it"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is None:
        yield "runAsNonRoot", "the container may run as root", "Set it to true, here or for the pod"
    if not (context.get("seccompProfile") or pod.get("seccompProfile")):
        yield "seccompProfile", "system calls are not filtered", "Set its type to RuntimeDefault"


def _both(context: dict[str, Any]) -> Iterator[Broken]:
    """Yield what is forbidden for a pod and for a container."""
    if context.get("runAsUser") == 0:
        yield "runAsUser", "0 is root", "Set another user, such as 10001"
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot", "the container may run as root", "Set it to true"
    seccomp = (context.get("seccompProfile") or {}).get("type", "RuntimeDefault")
    if seccomp not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile.type", f"got {seccomp}, expected RuntimeDefault or Localhost", "Set it to RuntimeDefault"
    apparmor = (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault")
    if apparmor not in ("RuntimeDefault", "Localhost"):
        yield "appArmorProfile.type", f"got {apparmor}, expected RuntimeDefault or Localhost", "Remove it"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions", "a type, user or role of SELinux that is not allowed", "Remove it"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "windowsOptions.hostProcess", "the container runs on its node", "Remove it"


def _handlers(container: Container) -> Iterator[Broken]:
    """Yield probes and hooks that call another host than the pod: the kubelet would call it."""
    hooks = container.content.get("lifecycle") or {}
    called = {name: container.content.get(name) for name in _HANDLERS}
    called |= {f"lifecycle.{name}": hook for name, hook in hooks.items()}
    for name, handler in called.items():
        for way in ("httpGet", "tcpSocket"):
            if ((handler or {}).get(way) or {}).get("host"):
                yield f"{name}.{way}.host", "the kubelet calls a host that is not the pod", "Remove the field"

"""Rules for what objects name in each other: labels, names, ports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfserving.k8s.kubectl import Object
from tfserving.k8s.lint.findings import Finding
from tfserving.k8s.lint.manifests import Container, Manifests, Pods, matches, named

_TRACK = "/track"
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_RELABEL = "Use the labels of the pods"


def selector(manifests: Manifests) -> Iterator[Finding]:
    """Yield selectors that select nothing."""
    for pods in manifests.pods:
        own = pods.owner.get("spec", {}).get("selector")
        if pods.owner["kind"] in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet") and not (
            own and pods.selected_by(own)
        ):
            problem = "it does not select the pods of the template"
            yield Finding("selector", pods.object, "spec.selector", problem, _RELABEL)
    for one in manifests.of("Service"):
        found = one["spec"].get("selector")
        if found and not _made_later(found) and not manifests.selected({"matchLabels": found}):
            yield Finding("selector", named(one), "spec.selector", "it selects no pods", _RELABEL)
    for kind, field in (("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
        for one in manifests.of(kind):
            if not manifests.selected(one["spec"].get(field)):
                yield Finding("selector", named(one), f"spec.{field}", "it selects no pods", _RELABEL)
    for one in manifests.of("ServiceMonitor"):
        if not _watched(manifests, one):
            problem = "it selects no Service"
            yield Finding("selector", named(one), "spec.selector", problem, "Use the labels of a Service")


def _made_later(selector: dict[str, str]) -> bool:
    """Return whether a rollout makes the pods: those of its second Deployment."""
    return any(key.endswith(_TRACK) and value != "stable" for key, value in selector.items())


def _watched(manifests: Manifests, monitor: Object) -> list[Object]:
    """Return the Services that a ServiceMonitor selects."""
    return [
        one
        for one in manifests.of("Service")
        if matches(monitor["spec"].get("selector") or {}, one["metadata"].get("labels") or {})
    ]


def dangling_reference(manifests: Manifests) -> Iterator[Finding]:
    """Yield names of objects that the manifests don't contain. Secrets and claims come from elsewhere."""
    for pods in manifests.pods:
        yield from _of_pods(manifests, pods)
    for one in manifests.of("HorizontalPodAutoscaler"):
        target = one["spec"]["scaleTargetRef"]
        if not manifests.has(target["kind"], target["name"]):
            yield _missing(one, "spec.scaleTargetRef", f"{target['kind']} {target['name']}")
    yield from _of_routes(manifests)
    yield from _of_bindings(manifests)


def _of_routes(manifests: Manifests) -> Iterator[Finding]:
    for one in manifests.of("HTTPRoute", "GRPCRoute"):
        for index, rule in enumerate(one["spec"].get("rules") or ()):
            for number, backend in enumerate(rule.get("backendRefs") or ()):
                if backend.get("kind", "Service") == "Service" and not manifests.has("Service", backend["name"]):
                    field = f"spec.rules[{index}].backendRefs[{number}]"
                    yield _missing(one, field, f"Service {backend['name']}")


def _of_bindings(manifests: Manifests) -> Iterator[Finding]:
    for one in manifests.of("RoleBinding"):
        role = one["roleRef"]
        if role["kind"] == "Role" and not manifests.has("Role", role["name"]):
            yield _missing(one, "roleRef", f"Role {role['name']}")
        for index, subject in enumerate(one.get("subjects") or ()):
            if subject["kind"] == "ServiceAccount" and not manifests.has("ServiceAccount", subject["name"]):
                yield _missing(one, f"subjects[{index}]", f"ServiceAccount {subject['name']}")


def _missing(one: Object, field: str, what: str) -> Finding:
    return Finding("dangling-reference", named(one), field, f"the manifests have no {what}", "Add it, or rename")


def _of_pods(manifests: Manifests, pods: Pods) -> Iterator[Finding]:
    account = pods.spec.get("serviceAccountName", "default")
    if account != "default" and not manifests.has("ServiceAccount", account):
        yield _missing(pods.owner, f"{pods.field}.serviceAccountName", f"ServiceAccount {account}")
    volumes = pods.spec.get("volumes") or ()
    for index, volume in enumerate(volumes):
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        for config in (one["configMap"] for one in sources if one.get("configMap")):
            if not config.get("optional") and not manifests.has("ConfigMap", config["name"]):
                yield _missing(pods.owner, f"{pods.field}.volumes[{index}]", f"ConfigMap {config['name']}")
    names = {volume["name"] for volume in volumes}
    for container in pods.containers:
        for index, mount in enumerate(container.content.get("volumeMounts") or ()):
            if mount["name"] not in names:
                yield _missing(pods.owner, f"{container.field}.volumeMounts[{index}]", f"volume {mount['name']}")


def port(manifests: Manifests) -> Iterator[Finding]:
    """Yield ports that no container listens on."""
    for pods in manifests.pods:
        for container in pods.containers:
            yield from _probed(pods, container)
    for one in manifests.of("Service"):
        targets = manifests.selected({"matchLabels": one["spec"].get("selector") or {"": ""}})
        for index, given in enumerate(one["spec"].get("ports") or ()):
            wanted = given.get("targetPort", given["port"])
            for pods in targets:
                if wanted not in {value for container in pods.containers for value in _ports(container)}:
                    problem = f"no container of {pods.object} has a port {wanted}"
                    yield _port(one, f"spec.ports[{index}].targetPort", problem)
    for one in manifests.of("ServiceMonitor"):
        offered = {given.get("name") for service in _watched(manifests, one) for given in service["spec"]["ports"]}
        for index, endpoint in enumerate(one["spec"].get("endpoints") or ()):
            if "port" in endpoint and offered and endpoint["port"] not in offered:
                problem = f"no Service that it selects has a port {endpoint['port']}"
                yield _port(one, f"spec.endpoints[{index}].port", problem)


def _port(one: Object, field: str, problem: str) -> Finding:
    return Finding("port", named(one), field, problem, "Use a port of the containers")


def _ports(container: Container) -> Iterator[Any]:
    for one in container.content.get("ports") or ():
        yield one["containerPort"]
        yield one.get("name")


def _probed(pods: Pods, container: Container) -> Iterator[Finding]:
    for name in _PROBES:
        probe = container.content.get(name) or {}
        for way in ("grpc", "httpGet", "tcpSocket"):
            wanted = (probe.get(way) or {}).get("port")
            if wanted is not None and wanted not in set(_ports(container)):
                field = f"{container.field}.{name}.{way}.port"
                yield _port(pods.owner, field, f"the container has no port {wanted}")


def network_policy(manifests: Manifests) -> Iterator[Finding]:
    """Yield pods that anybody reaches, or that reach anybody."""
    for pods in manifests.pods:
        if not pods.lasting:
            continue
        for direction in ("Ingress", "Egress"):
            applied = [one for one in manifests.of("NetworkPolicy") if _applies(one, pods, direction)]
            if not applied:
                problem = f"no NetworkPolicy restricts their {direction.lower()}"
                yield Finding("network-policy", pods.object, "", problem, "Add one")
    for one in manifests.of("NetworkPolicy"):
        for index, rule in enumerate(one["spec"].get("ingress") or ()):
            if not rule.get("from") or {} in rule["from"]:
                field = f"spec.ingress[{index}]"
                yield Finding("network-policy", named(one), field, "it allows every client", "List the clients")
        for index, rule in enumerate(one["spec"].get("egress") or ()):
            if not rule.get("ports"):
                field = f"spec.egress[{index}]"
                yield Finding("network-policy", named(one), field, "it allows every port", "List the ports")


def _applies(policy: Object, pods: Pods, direction: str) -> bool:
    spec = policy["spec"]
    default = ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return pods.selected_by(spec.get("podSelector")) and direction in spec.get("policyTypes", default)

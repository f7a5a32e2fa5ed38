"""All rules of `k8s lint`. docs/kubernetes_lint.md explains each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from tfserving.k8s.kubectl import Object
from tfserving.k8s.lint import containers, gpus, references, workloads
from tfserving.k8s.lint.findings import Finding
from tfserving.k8s.lint.manifests import Manifests
from tfserving.k8s.lint.pod_security import pod_security
from tfserving.k8s.lint.trust import trust

_RULES: tuple[Callable[[Manifests], Iterator[Finding]], ...] = (
    workloads.autoscaler,
    references.dangling_reference,
    workloads.disruption_budget,
    workloads.duplicate,
    gpus.gpu_image,
    gpus.gpu_memory,
    workloads.grace_period,
    containers.image_tag,
    workloads.labels,
    references.network_policy,
    pod_security,
    references.port,
    containers.probes,
    containers.process_namespace,
    workloads.rbac,
    containers.read_only_root,
    containers.resources,
    containers.secret_env,
    references.selector,
    workloads.service_account,
    workloads.spread,
    trust,
)


def lint(objects: Iterable[Object], allowed: Collection[str] = ()) -> list[Finding]:
    """Return the findings in manifests, except those of rules that are `allowed`."""
    manifests = Manifests(tuple(objects))
    return [finding for rule in _RULES for finding in rule(manifests) if finding.rule not in allowed]

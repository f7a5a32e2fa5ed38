"""The permissions of a rollout in the cluster. They are as small as RBAC can name them.

In place, it changes what pods serve through their own ports. By pods, it also creates Deployments, so it can run any
pod that the namespace admits.
"""

from __future__ import annotations

from typing import Any

from tfserving.k8s.names import CANARY, STABLE, Names
from tfserving.serving.models_yaml.fleet import Fleet

_GATEWAY = "gateway"


def permissions(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the rules of the Role, for all models of the fleet."""
    ours = Names.of(fleet)
    states = [ours.rollout(model) for model in fleet.models]
    made = [
        _rule("", "pods", "get", "list"),
        _rule("", "configmaps", "get", "patch", "update", names=[ours.config_map(STABLE), *states]),
        _rule("coordination.k8s.io", "leases", "get", "update", names=states),
    ]
    return [*made, *_by_pods(ours)] if _GATEWAY in fleet.kubernetes.components else made


def _by_pods(ours: Names) -> list[dict[str, Any]]:
    deployments = [ours.deployment(STABLE), ours.deployment(CANARY)]
    return [
        # One of the ConfigMaps that pods mount has a name with a hash.
        _rule("", "configmaps", "create", "get", "patch", "delete", "list", "watch"),
        _rule("apps", "deployments", "create"),
        _rule("apps", "deployments", "get", "patch", "delete", "list", "watch", names=deployments),
        _rule("apps", "deployments/scale", "get", "patch", "update", names=deployments),
        # Which of the pods are new.
        _rule("apps", "replicasets", "list"),
        # The second Deployment has its own ones, and the first one's autoscaler removes no pods meanwhile.
        *(
            rule
            for group, resource in (("autoscaling", "horizontalpodautoscalers"), ("policy", "poddisruptionbudgets"))
            for rule in (
                _rule(group, resource, "create"),
                _rule(group, resource, "get", "patch", "delete", "list", "watch", names=deployments),
            )
        ),
        _rule("gateway.networking.k8s.io", "httproutes", "get", "update", names=[ours.serving]),
        _rule("gateway.networking.k8s.io", "grpcroutes", "get", "update", names=[ours.serving]),
        # Why a new pod doesn't start.
        _rule("", "pods/log", "get"),
        _rule("", "events", "list"),
    ]


def _rule(group: str, resource: str, *verbs: str, names: list[str] | None = None) -> dict[str, Any]:
    rule = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
    return {**rule, "resourceNames": names} if names else rule

"""What the user may do in a namespace, by the cluster's own rules."""

from __future__ import annotations

import json

from tfserving.k8s.kubectl import Kubectl, Object


def listable(kinds: list[str], kubectl: Kubectl) -> list[str]:
    """Return those of `kinds`, written like `httproutes.gateway.networking.k8s.io`, that the user may list.

    A cluster that doesn't know all rules, since others decide on some of them, returns an incomplete list; then no kind
    is left out (https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access).
    """
    if not kinds:
        return []
    namespace = kubectl.namespace or kubectl.run("config", "view", "--minify", "--output=jsonpath={..namespace}")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace or "default"},
    }
    # To validate a review, kubectl would read the kinds of the cluster, which few may.
    words = ("create", "--validate=false", "--filename=-", "--output=json")
    status = json.loads(kubectl.run(*words, input=json.dumps(review)))["status"]
    if status["incomplete"]:
        return kinds
    return [kind for kind in kinds if any(_lists(rule, kind) for rule in status["resourceRules"])]


def _lists(rule: Object, kind: str) -> bool:
    """Return whether a rule lets the user list all objects of a kind."""
    resource, _, group = kind.partition(".")
    return (
        not rule.get("resourceNames")
        and bool({"list", "*"} & set(rule["verbs"]))
        and bool({group, "*"} & set(rule.get("apiGroups", ())))
        and bool({resource, "*"} & set(rule.get("resources", ())))
    )

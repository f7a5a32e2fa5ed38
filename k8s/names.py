"""Names, labels and selectors of a fleet's objects in a cluster, from its settings in models.yaml."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from tfserving.serving.models_yaml.fleet import Fleet

MANAGER = "tensorflow-serving-toolkit"
# What `k8s/base` and its components contain, in the place of the settings.
BASE_NAME, BASE_DOMAIN = "serving", "tfserving.internal"
# A pod belongs to the Deployment that serves, or to the second one that a rollout creates.
STABLE, CANARY = "stable", "canary"
APP = "app.kubernetes.io"
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
_LABEL = re.compile("[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST = 40
_LONGEST_LABEL = 63


@dataclass(frozen=True)
class Names:
    """The names of one fleet. Several fleets in a namespace differ in their prefix.

    `domain` is the prefix of labels and annotations of the toolkit's own.
    """

    prefix: str = ""
    domain: str = BASE_DOMAIN

    @classmethod
    def of(cls, fleet: Fleet) -> Names:
        """Return the names for the settings `kubernetes.name_prefix` and `kubernetes.domain`."""
        return cls(fleet.kubernetes.name_prefix, fleet.kubernetes.domain)

    @property
    def serving(self) -> str:
        """The name of the Deployment, the Service, and other objects; also the label `app.kubernetes.io/instance`."""
        return f"{self.prefix}{BASE_NAME}"

    @property
    def canary(self) -> str:
        """The name of the second Deployment and of its Service."""
        return f"{self.serving}-{CANARY}"

    @property
    def predictor(self) -> str:
        """The name of the Deployment that KServe creates."""
        return f"{self.serving}-predictor"

    def deployment(self, track: str) -> str:
        """The Deployment of a track's pods."""
        return self.serving if track == STABLE else self.canary

    def config_map(self, track: str) -> str:
        """The ConfigMap that pods of a track read when they start."""
        return f"{self.serving}-models" if track == STABLE else f"{self.serving}-{track}-models"

    def rollout(self, model: str) -> str:
        """The name of the ConfigMap with the state of a model's rollouts, and of the Lease of who rolls it out.

        The name is unique. A model whose name can't be part of an object's name gets a dot and a hash, which other
        names don't contain.
        """
        if _LABEL.fullmatch(model) and len(model) <= _LONGEST:
            return f"{self.serving}-rollout-{model}"
        near = re.sub("[^a-z0-9]+", "-", model.lower()).strip("-")[:_LONGEST].rstrip("-")
        return f"{self.serving}-rollout-{near or 'model'}.{hashlib.sha256(model.encode()).hexdigest()[:16]}"

    @property
    def account(self) -> str:
        """The account of rollouts that run in the cluster, its Role and its RoleBinding."""
        return f"{self.serving}-rollout"

    def job(self, model: str) -> str:
        """The Job that rolls a model out in the cluster. Its name is also the value of a label."""
        name = self.rollout(model)
        if len(name) <= _LONGEST_LABEL and "." not in name:
            return name
        return f"{self.account}-{hashlib.sha256(model.encode()).hexdigest()[:16]}"

    def own(self, name: str) -> str:
        """The key of a label or annotation of the toolkit's own."""
        return f"{self.domain}/{name}"

    @property
    def track(self) -> str:
        """The key of the label with a pod's track."""
        return self.own("track")

    @property
    def client(self) -> str:
        """The key of the label of pods and namespaces that network policies let in."""
        return self.own("client")

    @property
    def rollout_pod(self) -> str:
        """The key of the label of pods that roll out, which reach the servers' own ports."""
        return self.own("rollout")

    @property
    def instance(self) -> dict[str, str]:
        """The label of all objects of the fleet, and of its pods."""
        return {f"{APP}/instance": self.serving}

    @property
    def rollout_labels(self) -> dict[str, str]:
        """The labels of the objects in which a rollout keeps its state."""
        return {**self.instance, f"{APP}/component": "rollout"}

    @property
    def rolls_out(self) -> str:
        """The key of the label of pods that roll out, which the NetworkPolicy allows in."""
        return self.own("rollout")

    @property
    def applied(self) -> str:
        """The selector of all objects that `apply` creates."""
        return selector({**self.instance, f"{APP}/managed-by": MANAGER})

    @property
    def rollouts(self) -> str:
        """The selector of the objects in which rollouts keep their state."""
        return selector(self.rollout_labels)

    @property
    def all_pods(self) -> str:
        """The selector of the servers' pods, of every track."""
        return selector({**self.instance, f"{APP}/name": "tensorflow-serving"})

    def pods(self, track: str) -> str:
        """The selector of a track's pods."""
        return selector({**self.instance, self.track: track})


def selector(labels: dict[str, str]) -> str:
    """Return the selector of objects that have all these labels."""
    return ",".join(f"{label}={value}" for label, value in labels.items())

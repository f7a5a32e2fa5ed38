"""The findings of `k8s lint`: a broken rule, what breaks it, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Rule = Literal[
    "admission",
    "autoscaler",
    "dangling-reference",
    "disruption-budget",
    "duplicate",
    "gpu-image",
    "gpu-memory",
    "grace-period",
    "image-tag",
    "labels",
    "network-policy",
    "pod-security",
    "port",
    "probes",
    "process-namespace",
    "rbac",
    "read-only-root",
    "resources",
    "secret-env",
    "selector",
    "service-account",
    "spread",
    "trust",
]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Finding:
    """A broken rule: the object, the field in it, the problem, and the remedy."""

    rule: Rule
    object: str
    field: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.object}: {self.field}" if self.field else self.object
        return f"[{self.rule}] {where}: {self.problem}. {self.remedy}."

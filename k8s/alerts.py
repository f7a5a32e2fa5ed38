"""The alerts of the component `monitoring`. docs/runbooks.md has a section for each.

TensorFlow Serving's own metrics have no series for pods, and none for calls that it refuses. Those come from
kube-state-metrics: https://github.com/kubernetes/kube-state-metrics/tree/main/docs
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tfserving.clients.metrics import INFERENCE
from tfserving.k8s.names import BASE_NAME, Names
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.yaml_text import as_yaml

PAGE = "docs/runbooks.md"
_COUNT, _LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
_LOADS = ":tensorflow:cc:saved_model:load_attempt_count"
# The counters also count reads of status and metadata over REST.
_INFERENCE = f'API=~"(?i)({"|".join(INFERENCE)})"'
_BY_MODEL = "sum by (namespace, job, model_name)"


@dataclass(frozen=True)
class Alert:
    """A rule of Prometheus: it fires when `expr` has held for `minutes`."""

    name: str
    expr: str
    minutes: int
    severity: Literal["critical", "warning"]
    summary: str

    @property
    def section(self) -> str:
        """The section of the runbook."""
        return self.name.lower()

    def rule(self, runbook: str | None) -> dict[str, Any]:
        """Return the rule; `runbook` is the address of the page with the runbooks."""
        annotations = {"summary": self.summary, "description": f"What to do: {PAGE}, {self.name}"}
        if runbook:
            annotations["runbook_url"] = f"{runbook}#{self.section}"
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": f"{self.minutes}m",
            "labels": {"severity": self.severity},
            "annotations": annotations,
        }


def rules(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the rules of a fleet, as a PrometheusRule has them."""
    return [alert.rule(fleet.kubernetes.monitoring.runbook_url) for alert in alerts(fleet)]


def alerts(fleet: Fleet) -> list[Alert]:
    """Return the alerts of a fleet."""
    ours, settings = _Selectors.of(fleet), fleet.kubernetes.monitoring
    return [
        Alert(
            "TensorFlowServingDown",
            f"sum by (namespace, job) (up{{{ours.job}}}) == 0 or absent(up{{{ours.job}}})",
            5,
            "critical",
            "no pod of {{ $labels.job }} in namespace {{ $labels.namespace }} responds to Prometheus",
        ),
        Alert(
            "TensorFlowServingErrors",
            ours.errors(settings.error_rate),
            5,
            "critical",
            "{{ $value | humanizePercentage }} of the requests to model {{ $labels.model_name }} fail",
        ),
        Alert(
            "TensorFlowServingSlow",
            ours.slower(settings.p99_ms),
            5,
            "warning",
            "one in a hundred requests to model {{ $labels.model_name }} takes {{ $value }} µs or longer",
        ),
        Alert(
            "TensorFlowServingPodsNotReady",
            ours.not_ready(),
            15,
            "warning",
            "{{ $value }} pods of {{ $labels.deployment }}{{ $labels.name }} are ready, fewer than it should have",
        ),
        Alert(
            "TensorFlowServingRestarts",
            f"increase(kube_pod_container_status_restarts_total{{{ours.containers}}}[30m]) > 0",
            0,
            "warning",
            "the server in pod {{ $labels.pod }} was restarted",
        ),
        Alert(
            "TensorFlowServingLoadFailures",
            ours.failed_loads(),
            0,
            "warning",
            "pod {{ $labels.pod }} could not load a version of {{ $labels.model_path }}",
        ),
        Alert(
            "TensorFlowServingAtMaximum",
            f"kube_horizontalpodautoscaler_status_current_replicas{{{ours.autoscalers}}} >= "
            f"kube_horizontalpodautoscaler_spec_max_replicas{{{ours.autoscalers}}}",
            15,
            "warning",
            "autoscaler {{ $labels.horizontalpodautoscaler }} has reached its maximum of {{ $value }} pods",
        ),
    ]


@dataclass(frozen=True)
class _Selectors:
    """The selectors of a fleet's series. Prometheus' job is the name of a Service."""

    names: Names
    namespace: str
    # Whether Argo Rollouts makes the pods, and not Deployments.
    argo: bool

    @classmethod
    def of(cls, fleet: Fleet) -> _Selectors:
        settings = fleet.kubernetes
        return cls(Names.of(fleet), f'namespace="{settings.namespace}"', "argo-rollouts" in settings.components)

    @property
    def job(self) -> str:
        return f'{self.namespace}, job="{self.names.serving}"'

    @property
    def jobs(self) -> str:
        return f'{self.namespace}, job=~"{self.names.serving}|{self.names.canary}"'

    def not_ready(self) -> str:
        """Return the PromQL for: fewer pods are ready than wanted."""
        if self.argo:
            # https://argo-rollouts.readthedocs.io/en/stable/features/controller-metrics/
            of = f'{self.namespace}, name="{self.names.serving}"'
            return f"rollout_info_replicas_available{{{of}}} < rollout_info_replicas_desired{{{of}}}"
        found = "|".join((self.names.serving, self.names.canary, self.names.predictor))
        of = f'{self.namespace}, deployment=~"{found}"'
        return f"kube_deployment_status_replicas_ready{{{of}}} < kube_deployment_spec_replicas{{{of}}}"

    @property
    def autoscalers(self) -> str:
        return f'{self.namespace}, horizontalpodautoscaler=~"{self.names.serving}|{self.names.predictor}"'

    @property
    def containers(self) -> str:
        return f'{self.namespace}, pod=~"{self.names.serving}-.+", container=~"server|kserve-container"'

    def errors(self, rate: float) -> str:
        """Return the PromQL for: more than this share of a model's inference requests fails."""
        failed = f'rate({_COUNT}{{{self.jobs}, status!="OK"}}[5m])'
        succeeded = f"rate({_LATENCY}_count{{{self.jobs}, {_INFERENCE}}}[5m])"
        return f"{_BY_MODEL} ({failed}) / {_BY_MODEL} ({failed} or {succeeded}) > {rate:g}"

    def slower(self, milliseconds: float) -> str:
        """Return the PromQL for: one in a hundred inference requests takes longer. The histogram is in µs."""
        buckets = f"rate({_LATENCY}_bucket{{{self.jobs}, {_INFERENCE}}}[5m])"
        by = "sum by (namespace, job, model_name, le)"
        return f"histogram_quantile(0.99, {by} ({buckets})) > {milliseconds * 1000:.0f}"

    def failed_loads(self) -> str:
        """Return the PromQL for: more loads have failed than 15 minutes ago. The series begins with the first one."""
        by, series = "sum by (namespace, pod, model_path)", f'{_LOADS}{{{self.jobs}, status="fail"}}'
        return f"{by} ({series}) - ({by} ({series} offset 15m) or {by} ({series}) * 0) > 0"


def manifest(fleet: Fleet) -> str:
    """Return the PrometheusRule of the component, as YAML."""
    head = "# Generated from k8s/alerts.py, for the settings of models.yaml that are the defaults.\n"
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": BASE_NAME},
        "spec": {"groups": [{"name": BASE_NAME, "rules": rules(fleet)}]},
    }
    return head + as_yaml(made, width=1 << 20)

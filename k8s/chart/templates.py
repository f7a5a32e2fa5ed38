"""The templates of a chart: the rendered manifests of a fleet with expressions in place of its settings.

models.yaml with marks ──► `k8s render` ──► marks become expressions ──► one template for each kind
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tfserving.k8s import rendering
from tfserving.k8s.chart import marks, values
from tfserving.k8s.chart.marks import Expression, merged, optional, whole
from tfserving.k8s.chart.values import Value
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.names import APP, BASE_NAME, Names
from tfserving.k8s.trust_files import NAMES, TRUST
from tfserving.serving.models_yaml.fleet import Fleet

_NAMESPACE, _PREFIX = marks.setting(99), f"{marks.setting(98)}-"
_NAME = f"{_PREFIX}{BASE_NAME}"
_VERSION = f"{APP}/version"
FULL_NAME = 'include "serving.fullname" .'
_SERVER = ("image", "The image of the server.")
_TOOLKIT = (
    "toolkitImage",
    "The image of this toolkit, which copies the models from the object store, and verifies new versions.",
)
# The values of images by the names of containers.
_IMAGES = {
    "server": _SERVER,
    "kserve-container": _SERVER,
    "golden": _SERVER,
    "sync": _TOOLKIT,
    "sync-first": _TOOLKIT,
    "verify": _TOOLKIT,
    "proxy": ("proxyImage", "The image of Envoy."),
}
# The fields of an object, and blocks among them.
_Fields = dict[Any, Any]
_TRUST_HASH = "toJson .Values.trust | sha256sum | trunc 16 | quote"
_AUTOSCALED = 'eq (include "serving.autoscaled" .) "true"'


@dataclass
class Templates:
    """Templates by their file names, and the values that they use."""

    files: dict[str, str]
    values: list[Value]


def templates(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> Templates:
    """Return the templates of the models `names`. Raises what `rendering.render` raises."""
    made = values.marked(fleet)
    settings = {"namespace": _NAMESPACE, "name_prefix": _PREFIX}
    placeless = made.fleet.kubernetes.model_copy(update=settings)
    wanted = rendering.objects(rendering.render(fleet, names, kubectl))
    found = rendering.objects(rendering.render(made.fleet.model_copy(update={"kubernetes": placeless}), names, kubectl))
    found = _with_hashes_of(wanted, found)
    assembly = _Assembly(made.values, Names.of(fleet).own(TRUST) if fleet.trust else None)
    objects = [assembly.object(one) for one in found]
    within = {
        str(mark).rpartition("/")[2]: value.expression if isinstance(mark, str) else f"{value.expression} | int"
        for mark, value in made.values.items()
    }
    within |= {_NAMESPACE: ".Release.Namespace", _NAME: FULL_NAME}
    files: dict[str, list[str]] = {}
    for one in objects:
        text = marks.template(one, within)
        if one["kind"] == "HorizontalPodAutoscaler":
            text = f"{{{{- if {_AUTOSCALED} }}}}\n{text}{{{{- end }}}}\n"
        files.setdefault(f"{one['kind'].lower()}.yaml", []).append(text)
    return Templates({name: "---\n".join(texts) for name, texts in files.items()}, assembly.used)


def _with_hashes_of(wanted: list[Object], found: list[Object]) -> list[Object]:
    """Return the objects `found` with the hashes that names of ConfigMaps have in `wanted`.

    kustomize hashes a name with its content, so the names with marks have other hashes.
    """
    hashes = {}
    for kind in ("ConfigMap", "Secret"):
        pairs = zip(*([one for one in of if one["kind"] == kind] for of in (wanted, found)), strict=True)
        for real, marked in pairs:
            hashes[_hash(marked)] = _hash(real)
    return [_mapped(one, lambda text: _replaced(text, hashes)) for one in found]


def _hash(one: Object) -> str:
    return str(one["metadata"]["name"]).rpartition("-")[2]


def _replaced(text: str, hashes: dict[str, str]) -> str:
    head, dash, last = text.rpartition("-")
    return f"{head}{dash}{hashes[last]}" if dash and last in hashes and head.startswith(_NAME) else text


def _mapped(content: Any, change: Any) -> Any:
    """Return `content` with every text in it changed, except the keys of maps."""
    if isinstance(content, dict):
        return {key: _mapped(value, change) for key, value in content.items()}
    if isinstance(content, list):
        return [_mapped(value, change) for value in content]
    return change(content) if isinstance(content, str) else content


@dataclass
class _Assembly:
    """Puts expressions into objects; `used` are the values that they need.

    With `trust`, `trust` is the pods' annotation for it.
    """

    values: dict[str | int, Value]
    trust: str | None = None
    used: list[Value] = field(default_factory=list)

    def object(self, one: Object) -> Object:
        """Return a manifest with expressions."""
        made = dict(self._expressed(one))
        for spec in list(_pod_specs(made)):
            self._images(spec)
        for holder in _server_pods(made):
            self._pod(*holder)
        if made["kind"] == "ConfigMap" and NAMES in made["data"]:
            for value in values.trust(made.pop("data")):
                self._use(value)
            made[marks.Block(("data:", '  {{- include "serving.trust" . | nindent @2 }}'))] = ""
        if made["kind"] == "ServiceAccount":
            self._account(made)
        elif made["kind"] == "Service":
            self._annotated(made["metadata"], "service.annotations", "Annotations of the Services.")
        elif made["kind"] in ("Deployment", "Rollout"):
            self._replicas(made["spec"])
        return made

    def _use(self, value: Value) -> str:
        if value not in self.used:
            self.used.append(value)
        return value.expression

    def _expressed(self, content: Any) -> Any:
        """Return `content` with expressions in place of marks that are whole values or keys."""
        if isinstance(content, list):
            return [self._expressed(one) for one in content]
        if isinstance(content, dict):
            return {
                merged(self._use(self.values[key])) if key in self.values else key: (
                    Expression('include "serving.version" .Values.image | quote')
                    if key == _VERSION
                    else self._expressed(value)
                )
                for key, value in content.items()
            }
        if isinstance(content, bool) or not isinstance(content, (str, int)):
            return content
        if content == _NAMESPACE:
            # A namespace may look like a number.
            return Expression(".Release.Namespace | quote")
        if content in self.values:
            expression = self._use(self.values[content])
            return Expression(f"{expression} | {'int' if isinstance(content, int) else 'quote'}")
        if isinstance(content, str):
            if content.isdecimal() and int(content) in self.values:
                return Expression(f"{self._use(self.values[int(content)])} | quote")
            for mark, value in self.values.items():
                if str(mark) in content:
                    self._use(value)
        return content

    def _images(self, spec: dict[str, Any]) -> None:
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            path, description = _IMAGES[container["name"]]
            value = values.image(path, container["image"], description, pinned=self.trust is not None)
            self._use(value)
            container["image"] = Expression(f'include "serving.image" {value.expression}')

    def _pod(self, metadata: _Fields, spec: _Fields) -> None:
        """Add what platforms put on pods: labels, annotations, and where they run."""
        if self.trust and any(volume["name"] == TRUST for volume in spec["volumes"]):
            # Pods are replaced when others are trusted.
            metadata["annotations"][self.trust] = Expression(_TRUST_HASH)
        self._annotated(metadata, "podAnnotations", "Annotations of the pods.")
        labels = values.strings(
            "podLabels", {}, "More labels of the pods.", (key for key in metadata["labels"] if isinstance(key, str))
        )
        metadata["labels"][merged(self._use(labels))] = ""
        for value in (
            values.strings("nodeSelector", spec.get("nodeSelector") or {}, "Labels of the nodes for the pods."),
            values.objects("tolerations", spec.get("tolerations") or [], "Taints of nodes that the pods tolerate."),
        ):
            place = whole if value.path in spec else optional
            spec.pop(value.path, None)
            spec[place(value.path, self._use(value))] = ""
        affinity = Value("affinity", {}, {"type": "object", "description": "The affinity of the pods."})
        spec[optional("affinity", self._use(affinity))] = ""
        priority = Value("priorityClassName", "", {"type": "string", "description": "The PriorityClass of the pods."})
        lines = (
            f"{{{{- with {self._use(priority)} }}}}",
            "priorityClassName: {{ . | quote }}",
            "{{- end }}",
        )
        spec[marks.Block(lines)] = ""

    def _account(self, made: _Fields) -> None:
        """Give the accounts of the pods a role in a cloud, and a registry's secret, which their pods inherit."""
        if made["metadata"]["name"] == _NAME:
            # That of rollouts needs no role.
            annotations = made["metadata"].pop("annotations", {})
            description = "Annotations of the pods' ServiceAccount, such as `eks.amazonaws.com/role-arn`."
            self._annotated(made["metadata"], "serviceAccount.annotations", description, annotations)
        secrets = values.objects(
            "imagePullSecrets", [], "Secrets with access to the registry of the images, such as `{name: registry}`."
        )
        made[optional("imagePullSecrets", self._use(secrets))] = ""

    def _annotated(self, metadata: _Fields, path: str, description: str, default: dict[str, str] | None = None) -> None:
        taken = [key for key in metadata.get("annotations", ()) if isinstance(key, str)]
        expression = self._use(values.strings(path, default or {}, description, taken))
        if "annotations" in metadata:
            metadata["annotations"][merged(expression)] = ""
        else:
            metadata[optional("annotations", expression)] = ""

    def _replicas(self, spec: _Fields) -> None:
        """Set the number of pods where no autoscaler does."""
        spec.pop("replicas", None)
        lines = (f"{{{{- if not ({_AUTOSCALED}) }}}}", "replicas: {{ .Values.replicas | int }}", "{{- end }}")
        spec[marks.Block(lines)] = ""


def _pod_specs(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the spec of pods in an object."""
    if isinstance(content, dict):
        if isinstance(content.get("containers"), list):
            yield content
        else:
            for value in content.values():
                yield from _pod_specs(value)
    elif isinstance(content, list):
        for value in content:
            yield from _pod_specs(value)


def _server_pods(one: Object) -> Iterator[tuple[_Fields, _Fields]]:
    """Yield the metadata and the spec of the servers' pods; an InferenceService has both in one map."""
    if one["kind"] == "InferenceService":
        predictor = one["spec"]["predictor"]
        yield predictor, predictor
    elif template := one.get("spec", {}).get("template") if one["kind"] in ("Deployment", "Rollout") else None:
        yield template["metadata"], template["spec"]

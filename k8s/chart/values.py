"""The values of a chart: settings of models.yaml that differ between installations, and what pods may have besides."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tfserving.k8s.chart import marks
from tfserving.k8s.names import APP
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.kubernetes import Kubernetes

# Keys of `kubernetes` in models.yaml. Others change more than
# a value, such as the files of a ConfigMap: they need a chart of their own.
_SETTINGS = (
    "replicas",
    "max_replicas",
    "autoscaling.cpu_percent",
    "autoscaling.scale_down_seconds",
    "cpu",
    "memory",
    "claim",
    "labels",
    "gpu.count",
    "object_store.url",
    "object_store.secret",
    "monitoring.namespace",
    "monitoring.labels",
    "monitoring.runbook_url",
    "gateway.name",
    "gateway.namespace",
    "gateway.hostname",
    "gateway.grpc_hostname",
)
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_TAG = r"^[\w][\w.-]{0,127}$|^$"
_DIGEST = r"^sha256:[0-9a-f]{64}$|^$"
_REPOSITORY = r"^[\w][\w.:/+-]*$"


@dataclass(frozen=True)
class Value:
    """A value: its path in values.yaml, its default, and its JSON Schema with a description."""

    path: str
    default: Any
    schema: dict[str, Any]

    @property
    def expression(self) -> str:
        """The value in a template."""
        return f".Values.{self.path}"


@dataclass(frozen=True)
class Marked:
    """A fleet whose settings have marks, and the values by their marks."""

    fleet: Fleet
    values: dict[str | int, Value] = field(default_factory=dict)


def marked(fleet: Fleet) -> Marked:
    """Replace the settings of a fleet by marks, which are no valid values of them."""
    kubernetes, values = fleet.kubernetes, {}
    # A share or a slice of a GPU is always one.
    fixed = {"gpu.count"} if kubernetes.gpu.is_part else set()
    for index, key in enumerate(_SETTINGS):
        if key in fixed:
            continue
        section, _, name = key.rpartition(".")
        settings = getattr(kubernetes, section) if section else kubernetes
        if (default := getattr(settings, name, None)) is None:
            continue
        mark: str | int = marks.number(index) if isinstance(default, int) else marks.setting(index)
        if key == "object_store.url":
            mark = f"{default.partition(':')[0]}://{mark}"
        # Recommended labels replace those of the manifests, so they stay as they are.
        kept = (
            {label: text for label, text in default.items() if label.startswith(f"{APP}/")} if key == "labels" else {}
        )
        if isinstance(default, dict):
            default = {label: text for label, text in default.items() if label not in kept}
        values[mark] = Value(camel(key), default, _schema(fleet, key))
        settings = settings.model_copy(update={name: {mark: "x", **kept} if isinstance(default, dict) else mark})
        kubernetes = kubernetes.model_copy(update={section: settings}) if section else settings
    return Marked(fleet.model_copy(update={"kubernetes": kubernetes}), values)


def camel(key: str) -> str:
    """Return a key of models.yaml as charts write theirs: `object_store.url` is `objectStore.url`."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), key)


def _schema(fleet: Fleet, key: str) -> dict[str, Any]:
    """Return the JSON Schema of a setting, as models.yaml has it."""
    whole = Kubernetes.model_json_schema()
    found = whole
    for name in key.split("."):
        found = _resolved(found["properties"][name], whole["$defs"])
    schema = {name: value for name, value in found.items() if name not in ("default", "title")}
    if key == "cpu":
        # `--set cpu=4` is a number.
        schema |= {"type": ["string", "integer"], "minimum": 1}
        if "cpu" in fleet.kubernetes.components:
            schema["pattern"] = r"^[1-9]\d*$"
    if key == "object_store.url" and fleet.kubernetes.object_store:
        # Another scheme needs another egress.
        schema["pattern"] = schema["pattern"].replace("(s3|gs)", fleet.kubernetes.object_store.scheme)
    if "patternProperties" in schema:
        schema["additionalProperties"] = False
    if key == "labels":
        schema["description"] = "More labels of every object and pod, such as `team`."
        schema["propertyNames"] = {"not": {"pattern": f"^({APP}|{fleet.kubernetes.domain})/".replace(".", r"\.")}}
    gateway = fleet.kubernetes.gateway
    if key == "gateway.hostname" and gateway and gateway.grpc_hostname is None:
        # The host of gRPC is `grpc.` and this one.
        schema["pattern"] = schema["pattern"].replace(r"(\*\.)?", "")
    return schema


def _resolved(schema: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with what it refers to, and without `null`: a setting without a value has no mark."""
    for one in schema.get("anyOf", ()):
        if one.get("type") != "null":
            schema = {**{name: value for name, value in schema.items() if name != "anyOf"}, **one}
    if "$ref" in schema:
        schema = {**models[schema["$ref"].rpartition("/")[2]], **schema}
    return schema


def image(path: str, name: str, description: str) -> Value:
    """Return the value of an image: `repository:tag@digest`."""
    rest, _, digest = name.partition("@")
    repository, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = rest, ""
    properties = {
        "repository": {"type": "string", "pattern": _REPOSITORY},
        "tag": {"type": "string", "pattern": _TAG, "not": {"const": "latest"}},
        "digest": {"type": "string", "pattern": _DIGEST},
    }
    schema = {
        "type": "object",
        "description": f"{description} With a `digest`, the tag is only for readers. `latest` is refused.",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
        # No tag means `latest`.
        "anyOf": [{"properties": {one: {"minLength": 1}}} for one in ("tag", "digest")],
    }
    return Value(path, {"repository": repository, "tag": tag, "digest": digest}, schema)


def strings(path: str, default: dict[str, str], description: str, without: Iterable[str] = ()) -> Value:
    """Return the value of a map of texts, such as labels; the keys `without` are refused."""
    names = {"propertyNames": {"not": {"enum": sorted(without)}}} if without else {}
    return Value(path, default, {**_STRINGS, **names, "description": description})


def objects(path: str, default: list[dict[str, Any]], description: str) -> Value:
    """Return the value of a list of objects that the API server checks."""
    return Value(path, default, {"type": "array", "items": {"type": "object"}, "description": description})


def tree(values: list[Value]) -> dict[str, Any]:
    """Return the values by the parts of their paths."""
    made: dict[str, Any] = {}
    for value in values:
        *parents, name = value.path.split(".")
        level = made
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = value
    return made

"""The values of a chart: settings of models.yaml that differ between installations, and what pods may have besides."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfserving.k8s import trust_files
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


def image(path: str, name: str, description: str, *, pinned: bool) -> Value:
    """Return the value of an image: `repository:tag@digest`. A `pinned` one must have a digest."""
    rest, _, digest = name.partition("@")
    repository, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = rest, ""
    properties = {
        "repository": {"type": "string", "pattern": _REPOSITORY},
        "tag": {"type": "string", "pattern": _TAG, "not": {"const": "latest"}},
        "digest": {"type": "string", "pattern": _DIGEST},
    }
    # No tag means `latest`.
    one_of = ("digest",) if pinned else ("tag", "digest")
    only = "The `digest` is required, the tag is for readers." if pinned else "With a `digest`, the tag is for readers."
    schema = {
        "type": "object",
        "description": f"{description} {only} `latest` is refused.",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
        "anyOf": [{"properties": {one: {"minLength": 1}}} for one in one_of],
    }
    return Value(path, {"repository": repository, "tag": tag, "digest": digest}, schema)


def strings(path: str, default: dict[str, str], description: str, without: Iterable[str] = ()) -> Value:
    """Return the value of a map of texts, such as labels; the keys `without` are refused."""
    names = {"propertyNames": {"not": {"enum": sorted(without)}}} if without else {}
    return Value(path, default, {**_STRINGS, **names, "description": description})


def objects(path: str, default: list[dict[str, Any]], description: str) -> Value:
    """Return the value of a list of objects that the API server checks."""
    return Value(path, default, {"type": "array", "items": {"type": "object"}, "description": description})


def trust(files: Mapping[str, str]) -> list[Value]:
    """Return the values of the ConfigMap with these files, which names who is trusted."""
    names = json.loads(files[trust_files.NAMES])
    texts, of_identity = {"type": "string"}, ["identity", "issuer"]
    identity = {
        "type": "object",
        "additionalProperties": False,
        "required": of_identity,
        "properties": {name: {**texts, "minLength": 1} for name in of_identity},
    }
    made = [
        _pem_files(files, trust_files.KEY, "keys", "PUBLIC KEY", "Public keys"),
        _pem_files(files, trust_files.CERTIFICATE, "certificates", "CERTIFICATE", "Root certificates"),
        Value(
            "trust.certificateNames",
            names["certificate_names"],
            {
                "type": "array",
                "items": texts,
                "description": "Names of which a certificate below a root must have one.",
            },
        ),
        Value(
            "trust.identities",
            names["identities"],
            {
                "type": "array",
                "items": identity,
                "description": "Identities that Sigstore certified: `identity` and `issuer`.",
            },
        ),
    ]
    if config := files.get(trust_files.SIGSTORE):
        description = "The client trust configuration of a Sigstore instance of your own, as JSON."
        made.append(Value("trust.sigstoreConfig", config, {**texts, "minLength": 1, "description": description}))
    return made


def _pem_files(files: Mapping[str, str], kind: str, key: str, block: str, what: str) -> Value:
    found = {name.removeprefix(kind): text for name, text in files.items() if name.startswith(kind)}
    pem = rf"-----BEGIN {block}-----[A-Za-z0-9+/=\s]+-----END {block}-----\s*"
    schema = {
        "type": "object",
        "additionalProperties": {"type": "string", "pattern": rf"^{pem if key == 'keys' else f'({pem})+'}$"},
        "propertyNames": {"pattern": "^[A-Za-z0-9._-]{1,110}$"},
        "description": f"{what} in PEM, by name. Only versions that one of `trust` signed are served.",
    }
    return Value(f"trust.{key}", found, schema)


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

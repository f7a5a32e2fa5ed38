"""The models to serve and the versions of each, from the flags or a ModelServerConfig."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfserving.serving.config_messages import printable, read_message
from tfserving.serving.embedded.errors import Code, RequestError, StartError

PLATFORM = "tensorflow"
# The same in the deprecated enum ModelType: tensorflow_serving/config/model_server_config.proto.
TENSORFLOW_TYPE = 1
# In characters: the name of a model or label, and a path.
LONGEST_NAME, LONGEST_PATH = 255, 4096
ONLY_LOCAL = (
    "this server reads only local folders. The sync container of docs/kubernetes.md copies versions, which "
    "`tfserving export publish` writes to a store, to a local folder"
)
_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<path>.*)", re.DOTALL)


@dataclass(frozen=True)
class VersionPolicy:
    """Selects the versions of a model to serve.

    These are the `latest` so many, or with None the `specific` ones, or all when there are none of these.
    """

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    def choose(self, versions: list[int]) -> list[int]:
        """Returns those of `versions` to serve."""
        if self.specific:
            return [version for version in versions if version in self.specific]
        return sorted(versions)[-self.latest :] if self.latest else versions


@dataclass(frozen=True)
class Model:
    """A model to serve: the folder of its versions, the policy that selects them, and their labels."""

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def read_config(path: Path, served: Collection[str] = ()) -> tuple[Model, ...]:
    """Returns the models of a text ModelServerConfig; `served` are the names of the models that are served now.

    Raises StartError when the file can't be read or parsed, has no list of models, or contains a model that can't be
    served. The text names the file and the model.
    """
    config = read_message("ModelServerConfig", path, "--model_config_file")
    if config.WhichOneof("config") != "model_config_list":
        raise StartError(f"--model_config_file={path}: the file contains no model_config_list")
    try:
        return models_of(config.model_config_list, served)
    except RequestError as error:
        raise StartError(f"--model_config_file={path}: {error}") from None


def models_of(listed: Any, served: Collection[str] = ()) -> tuple[Model, ...]:
    """Returns the models of a ModelConfigList; `served` are the names of the models that are served now.

    Raises RequestError for a model that can't be served, with TensorFlow Serving's texts and in its order.
    """
    entries = listed.config
    for entry in entries:
        for what, names in (("model", [entry.name]), ("label", entry.version_labels)):
            for name in names:
                _check_name(what, name)
    for name, number in Counter(entry.name for entry in entries).items():
        if number > 1:
            text = f"Illegal to list model {name} multiple times in config list"
            raise RequestError(Code.INVALID_ARGUMENT, text, f"two models are called {name!r}; their names must differ")
    models = tuple(
        Model(entry.name, _base_path(entry), _policy(entry), labels=dict(entry.version_labels)) for entry in entries
    )
    for entry in sorted(entries, key=lambda entry: entry.name not in served):
        _check_platform(entry, is_served=entry.name in served)
    return models


def single_model(name: str, base_path: str) -> Model:
    """Returns the model of --model_name and --model_base_path.

    Raises StartError for an invalid name, and for a path that is not absolute.
    """
    try:
        _check_name("model", name)
    except RequestError as error:
        raise StartError(f"--model_name: {error}") from None
    flag = f"--model_base_path={printable(base_path)}"
    try:
        path = _local_path(base_path)
    except RequestError as error:
        raise StartError(f"{flag}: {error}") from None
    if path is None:
        absolute = printable(str(Path(base_path).absolute()))
        raise StartError(f"{flag}: the path must be absolute. Did you mean {absolute}?")
    return Model(name, path)


def _check_name(what: str, name: str) -> None:
    """Raises RequestError for a name that can't be in a log line or in a label of a metric."""
    trouble = ""
    if not name:
        trouble = "it is empty"
    elif len(name) > LONGEST_NAME:
        trouble = f"it has {len(name)} characters; at most {LONGEST_NAME} are allowed"
    elif not name.isprintable():
        trouble = "it contains a character that can't be printed"
    if trouble:
        raise RequestError(Code.INVALID_ARGUMENT, f"{what} name '{printable(name)}' can't be used: {trouble}")


def _local_path(base_path: str) -> Path | None:
    """Returns the folder of a path or a URI; None when it isn't absolute. Raises RequestError when it is invalid."""
    shown = printable(base_path)
    if len(base_path) > LONGEST_PATH or "\0" in base_path:
        raise RequestError(Code.INVALID_ARGUMENT, f"{shown} can't be the path of a folder")
    path = base_path
    if match := _URI.fullmatch(base_path):
        scheme, path = match["scheme"], match["path"].removeprefix("localhost")
        if scheme.lower() != "file":
            text = f"File system scheme '{scheme}' not implemented (file: '{shown}')"
            raise RequestError(Code.UNIMPLEMENTED, text, ONLY_LOCAL)
    return Path(path) if path.startswith("/") else None


def _base_path(entry: Any) -> Path:
    path = _local_path(entry.base_path)
    if path is None:
        text = (
            f"Expected model {entry.name} to have an absolute path or URI; got base_path()={printable(entry.base_path)}"
        )
        raise RequestError(Code.INVALID_ARGUMENT, text)
    return path


def _check_platform(entry: Any, *, is_served: bool) -> None:
    """Raises RequestError INVALID_ARGUMENT for a model whose platform is not `tensorflow`."""
    platform, explanation = (
        printable(entry.model_platform),
        f"model {entry.name!r} requires model_platform: {PLATFORM!r}",
    )
    if entry.model_type:
        # The deprecated enum for the platform.
        text = ""
        if platform:
            text = (
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
        elif entry.model_type != TENSORFLOW_TYPE:
            text = f"ModelServerConfig::model_type choice {entry.model_type} not supported."
        if text:
            raise RequestError(Code.INVALID_ARGUMENT, text, explanation)
    elif not platform:
        text = (
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
        raise RequestError(Code.INVALID_ARGUMENT, text, explanation)
    elif platform != PLATFORM:
        text = f"Model {entry.name} requests unsupported platform {platform}"
        if is_served:
            text = (
                f"Illegal to change a model's platform. For model {entry.name} platform was {PLATFORM} and new "
                f"platform requested is {platform}"
            )
        raise RequestError(Code.INVALID_ARGUMENT, text, explanation)


def _policy(entry: Any) -> VersionPolicy:
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(latest=None)
    if choice == "specific":
        if not policy.specific.versions:
            # TensorFlow Serving would wait for it with no time limit.
            text = f"model {entry.name!r}: model_version_policy is specific, but names no version"
            raise RequestError(Code.INVALID_ARGUMENT, text)
        return VersionPolicy(latest=None, specific=tuple(policy.specific.versions))
    # No number, and 0, select one version: https://github.com/tensorflow/serving/blob/r2.20/tensorflow_serving/sources/storage_path
    return VersionPolicy(latest=max(1, policy.latest.num_versions))

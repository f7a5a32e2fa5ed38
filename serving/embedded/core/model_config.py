"""Which models are served and which of their versions, from the flags or a ModelServerConfig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from tfserving.foundation.messages import ModelServerConfig
from tfserving.serving.embedded.errors import Code, RequestError, StartError

PLATFORM = "tensorflow"


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions of a model are aspired.

    The `latest` so many; with None every one, or only the `specific` ones if there are any.
    """

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    def choose(self, versions: list[int]) -> list[int]:
        """Those of `versions` that should be served."""
        if self.specific:
            return [version for version in versions if version in self.specific]
        return sorted(versions)[-self.latest :] if self.latest else versions


@dataclass(frozen=True)
class Model:
    """A model to serve: where its versions lie, which of them are wanted, and the labels that name them."""

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def read_config(path: Path) -> tuple[Model, ...]:
    """The models of a text ModelServerConfig.

    Raises StartError when the file can't be read or parsed, has no list of models, or says what can't be served; the
    text names the file and the model.
    """
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), ModelServerConfig())
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"--model_config_file={path}: {getattr(error, 'strerror', None) or error}") from None
    except text_format.ParseError as error:
        raise StartError(f"--model_config_file={path}: line {error}; it needs a text ModelServerConfig") from None
    if config.WhichOneof("config") != "model_config_list":
        raise StartError(f"--model_config_file={path}: it has no model_config_list")
    try:
        return models_of(config.model_config_list)
    except RequestError as error:
        raise StartError(f"--model_config_file={path}: {error}") from None


def models_of(listed: Any) -> tuple[Model, ...]:
    """The models of a ModelConfigList. Raises RequestError for what can't be served, in TensorFlow Serving's words."""
    models = tuple(_model(entry) for entry in listed.config)
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            text = f"Illegal to list model {name} multiple times in config list"
            raise RequestError(Code.INVALID_ARGUMENT, text, f"two models are called {name!r}; names must differ")
    return models


def single_model(name: str, base_path: Path) -> Model:
    """The model that --model_name and --model_base_path describe. Raises StartError for a path that is not absolute."""
    if not base_path.is_absolute():
        raise StartError(
            f"--model_base_path={base_path}: a base path must be absolute; here that would be {base_path.absolute()}"
        )
    return Model(name, base_path)


def _model(entry: Any) -> Model:
    if not entry.base_path.startswith("/"):
        text = f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
        raise RequestError(Code.INVALID_ARGUMENT, text)
    if not entry.model_platform and not entry.model_type:
        text = (
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
        raise RequestError(Code.INVALID_ARGUMENT, text, f"model {entry.name!r} needs model_platform: {PLATFORM!r}")
    if entry.model_platform not in ("", PLATFORM):
        text = f"PlatformConfigMap has no entry for platform {entry.model_platform}"
        raise RequestError(
            Code.FAILED_PRECONDITION, text, f"model {entry.name!r}: {PLATFORM!r} is the only one there is"
        )
    return Model(
        name=entry.name,
        base_path=Path(entry.base_path),
        policy=_policy(entry),
        labels=dict(entry.version_labels),
    )


def _policy(entry: Any) -> VersionPolicy:
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(latest=None)
    if choice == "specific":
        if not policy.specific.versions:
            # The real server would wait for it for ever.
            text = f"model {entry.name!r}: model_version_policy is specific but names no version"
            raise RequestError(Code.INVALID_ARGUMENT, text)
        return VersionPolicy(latest=None, specific=tuple(policy.specific.versions))
    # No number, and 0, mean one: https://github.com/tensorflow/serving/blob/r2.20/tensorflow_serving/sources/storage_path
    return VersionPolicy(latest=max(1, policy.latest.num_versions))

"""Which models are served and which of their versions, from the flags or a ModelServerConfig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from clients.messages import ModelServerConfig
from serving.embedded.errors import StartError

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

    Raises StartError when the file can't be read or parsed, has no models, or says what can't be served; the text
    names the file and the model.
    """
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), ModelServerConfig())
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"--model_config_file={path}: {getattr(error, 'strerror', None) or error}") from None
    except text_format.ParseError as error:
        raise StartError(f"--model_config_file={path}: line {error}; it needs a text ModelServerConfig") from None
    if config.WhichOneof("config") != "model_config_list":
        raise StartError(f"--model_config_file={path}: it has no model_config_list")
    models = tuple(_model(path, entry) for entry in config.model_config_list.config)
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise StartError(f"--model_config_file={path}: two models are called {name!r}; names must differ")
    return models


def single_model(name: str, base_path: Path) -> Model:
    """The model that --model_name and --model_base_path describe. Raises StartError for a path that is not absolute."""
    if not base_path.is_absolute():
        raise StartError(
            f"--model_base_path={base_path}: a base path must be absolute; here that would be {base_path.absolute()}"
        )
    return Model(name, base_path)


def _model(path: Path, entry: Any) -> Model:
    where = f"--model_config_file={path}: model {entry.name!r}"
    if not entry.base_path.startswith("/"):
        raise StartError(f"{where}: base_path {entry.base_path!r} must be absolute")
    if entry.model_platform not in ("", PLATFORM):
        raise StartError(f"{where}: model_platform {entry.model_platform!r} is not {PLATFORM!r}, the only one there is")
    return Model(
        name=entry.name,
        base_path=Path(entry.base_path),
        policy=_policy(where, entry.model_version_policy),
        labels=dict(entry.version_labels),
    )


def _policy(where: str, policy: Any) -> VersionPolicy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(latest=None)
    if choice == "specific":
        if not policy.specific.versions:
            raise StartError(f"{where}: model_version_policy is specific but names no version")
        return VersionPolicy(latest=None, specific=tuple(policy.specific.versions))
    # No number, and 0, mean one: https://github.com/tensorflow/serving/blob/r2.20/tensorflow_serving/sources/storage_path
    return VersionPolicy(latest=max(1, policy.latest.num_versions))

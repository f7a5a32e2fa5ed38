"""The fleet: the models of one models.yaml, and how they are exported and served."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from tfserving.foundation.golden import LARGEST_VERSION, versions_on_disk
from tfserving.foundation.labels import CANARY as CANARY  # noqa: PLC0414 - part of the schema
from tfserving.foundation.labels import STABLE as STABLE  # noqa: PLC0414
from tfserving.foundation.labels import canary_name as canary_name  # noqa: PLC0414
from tfserving.foundation.trust import Trust
from tfserving.serving.models_yaml import patterns
from tfserving.serving.models_yaml.errors import FleetError as FleetError  # noqa: PLC0414
from tfserving.serving.models_yaml.errors import explain, shown, suggested
from tfserving.serving.models_yaml.kubernetes import Kubernetes
from tfserving.serving.models_yaml.patterns import NAME
from tfserving.serving.models_yaml.quality import LabelledRows, MetricLimits
from tfserving.serving.models_yaml.rollout import Rollout
from tfserving.serving.models_yaml.server import Compose, ServerSettings, Strict
from tfserving.serving.models_yaml.trust import Sign, TrustSettings
from tfserving.serving.models_yaml.yaml_file import parsed

# The largest number in TensorFlow Serving's configuration.
_MOST_VERSIONS = (1 << 32) - 1


# The rules of `tfserving export lint`; docs/lint.md explains each.
Rule = Literal[
    "breaking-change",
    "bytes-suffix",
    "empty-request",
    "file-op",
    "fixed-batch",
    "int-input",
    "made-up-name",
    "no-signature",
    "not-servable",
    "output-batch",
    "python-op",
    "random",
    "rest-dtype",
    "state",
    "unbatched",
    "unchecked-rank",
    "unregistered-op",
    "untracked-variable",
]


class Model(Strict):
    """One model of the fleet: a builder makes it, or it is an existing SavedModel."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["builder"]}, {"required": ["saved_model"]}]})

    builder: Annotated[
        str | None,
        Field(
            description="The function that makes the servable, as 'module:function'. Modules in the folder of "
            "models.yaml are found first.",
            pattern=patterns.FUNCTION,
        ),
    ] = None
    saved_model: Annotated[
        Path | None,
        Field(
            description="Instead of a builder, the folder of a SavedModel to serve unchanged, or of an MLflow model. "
            "Relative to models.yaml. Or a model of MLflow's server: models:/NAME/VERSION, models:/NAME@ALIAS, "
            "runs:/RUN/PATH."
        ),
    ] = None
    allow: Annotated[
        tuple[Rule, ...],
        Field(description="Rules of docs/lint.md that do not apply to this model.", validate_default=True),
    ] = ()
    batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65536)], ...],
        Field(
            min_length=1,
            description="Batch sizes, increasing. Golden and warm-up requests use them all, and 1, 2 and 7 rows. The "
            "last one is the largest that is allowed.",
        ),
    ] = (32,)
    golden: Annotated[
        tuple[Path, ...],
        Field(description="Files with more golden requests, .json, .jsonl or .npz. Relative to models.yaml."),
    ] = ()
    quality: Annotated[
        dict[str, MetricLimits],
        Field(
            description="Limits of this model's metrics in a rollout, by name of the metric. They replace those of "
            "`rollout.quality`."
        ),
    ] = Field(default_factory=dict)
    evaluation: Annotated[
        LabelledRows | None,
        Field(description="Labelled rows that a rollout measures the served versions with."),
    ] = None
    labels: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=LARGEST_VERSION)]],
        Field(description="Versions by label, such as `stable: 3`."),
    ] = Field(default_factory=dict)
    versions: Annotated[
        int | Literal["all"] | tuple[Annotated[int, Field(ge=1, le=LARGEST_VERSION)], ...] | None,
        Field(
            description="The versions to serve: a number of the newest, `all`, or a list. Default: the newest and "
            "those with labels. With a label `stable`, nothing newer than `stable`."
        ),
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if (self.builder is None) == (self.saved_model is None):
            raise ValueError(
                f"{'neither builder nor' if self.builder is None else 'both builder and'} saved_model is set; expected "
                "one of `builder: module:function` and `saved_model: FOLDER`"
            )
        return self

    @field_validator("versions", mode="before")
    @classmethod
    def _select_versions(cls, value: object) -> object:
        """Raise one error for a wrong value, not one for each of the possible types."""
        numbers = value if isinstance(value, list) and value else [value]
        most = LARGEST_VERSION if isinstance(value, list) else _MOST_VERSIONS
        if value not in (None, "all") and any(type(one) is not int or not 1 <= one <= most for one in numbers):
            text = value if isinstance(value, list) and value else shown(value)
            raise ValueError(f"got {text}, expected a number such as 2, all, or a list of versions such as [3, 5]")
        return value

    @field_validator("labels")
    @classmethod
    def _name_labels(cls, labels: dict[str, int]) -> dict[str, int]:
        for label in labels:
            check_label(label)
        return labels

    @field_validator("batch_sizes")
    @classmethod
    def _increasing(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(f"got {list(sizes)}, expected increasing sizes: {sorted(set(sizes))}")
        return sizes


class Fleet(Strict):
    """The models of one models.yaml, and how they are served."""

    folder: Annotated[
        Path,
        Field(description="The folder of all versions, as FOLDER/MODEL/VERSION. Relative to models.yaml."),
    ] = Path("models")
    models: Annotated[dict[str, Model], Field(min_length=1, description="The models, by name.")]
    server: Annotated[ServerSettings, Field(description="How the models are served.")] = ServerSettings()
    compose: Annotated[Compose, Field(description="The services beside the server.")] = Compose()
    kubernetes: Annotated[Kubernetes, Field(description="How the fleet runs on a cluster.")] = Kubernetes()
    rollout: Annotated[Rollout, Field(description="How a new version is rolled out.")] = Rollout()
    sign: Annotated[Sign | None, Field(description="Who signs new versions. Default: nobody.")] = None
    trust: Annotated[
        TrustSettings | None,
        Field(
            description="Whose versions are served. Then no version without their signature is served, built into an "
            "image, copied into a pod or rolled out. Default: every version that its manifest proves."
        ),
    ] = None
    _file: Path = PrivateAttr(default=Path("models.yaml"))
    # Of copies: the folder of the originals. Of a fleet that has only its copies, these by model.
    _originals: Path | None = PrivateAttr(default=None)
    _copied: Mapping[str, tuple[int, ...]] | None = PrivateAttr(default=None)

    @field_validator("models")
    @classmethod
    def _names(cls, models: dict[str, Model]) -> dict[str, Model]:
        for name, model in models.items():
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"got the name {name!r}, expected up to 200 letters, digits, '_', '.' and '-', the first a letter "
                    "or digit"
                )
            if STABLE in model.labels and canary_name(name) in models:
                raise ValueError(
                    f"{canary_name(name)!r} is the name of the canary of {name!r}, which has a label `stable`. Rename "
                    "the model"
                )
        return models

    @property
    def trusted(self) -> Trust | None:
        """Whose versions are served; None: every version that its manifest proves."""
        return self.trust.trust() if self.trust else None

    @property
    def file(self) -> Path:
        """The absolute path of models.yaml."""
        return self._file

    def model_folder(self, name: str) -> Path:
        """Return the absolute folder with the versions of model `name`."""
        return (self.folder / name).absolute()

    def versions(self, name: str) -> list[int]:
        """Return the versions of model `name` on disk, oldest first; empty if it was never exported."""
        return self.exported(name) if self._copied is None else list(self._copied.get(name, ()))

    def exported(self, name: str) -> list[int]:
        """Return the versions of model `name` in the folder of models.yaml, oldest first, whether copied or not."""
        folder = self.export_folder(name)
        return sorted(versions_on_disk(folder)) if folder.is_dir() else []

    def export_folder(self, name: str) -> Path:
        """Return the absolute folder of model `name` in the folder of models.yaml, whether copied or not."""
        return ((self._originals or self.folder) / name).absolute()

    @property
    def is_copied(self) -> bool:
        """Whether this is a fleet of copies, see `with_copies`."""
        return self._copied is not None

    def reading(self, folder: Path) -> Fleet:
        """Return this fleet with copies of some versions in `folder`, which are read in place of the originals."""
        reading = self.model_copy(update={"folder": folder})
        reading._originals = self._originals or self.folder
        return reading

    def with_copies(self, folder: Path, versions: Mapping[str, Iterable[int]]) -> Fleet:
        """Return this fleet with copies of `versions`, by model, in `folder`, and with no other versions."""
        copied = self.reading(folder)
        copied._copied = {name: tuple(sorted({*numbers})) for name, numbers in versions.items()}
        return copied

    def kept(self, name: str) -> list[int]:
        """Return the versions of model `name` on disk that are served under this name, oldest first.

        With a label `stable` none is newer than it, because requests without a label get the newest.
        """
        model, found = self.models[name], self.versions(name)
        if stable := model.labels.get(STABLE):
            found = [version for version in found if version <= stable]
            labels = {version for label, version in model.labels.items() if label != CANARY} & set(found)
            if model.versions is None:
                return sorted(labels)
        if isinstance(model.versions, tuple):
            return sorted(set(model.versions) & set(found))
        if model.versions == "all":
            return found
        if isinstance(model.versions, int):
            return found[-model.versions :]
        return sorted({*found[-1:], *(set(model.labels.values()) & set(found))})

    def quality(self, name: str) -> dict[str, MetricLimits]:
        """Return the limits of the metrics of model `name`, by metric."""
        return {**self.rollout.quality, **self.models[name].quality}

    def with_labels(self, name: str, labels: Mapping[str, int]) -> Fleet:
        """Return this fleet with other labels for model `name`."""
        model = self.models[name].model_copy(update={"labels": dict(labels)})
        return self.model_copy(update={"models": {**self.models, name: model}})

    def select(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return `names`, or all models if it is empty. Raises FleetError for a name that the fleet lacks."""
        for name in names:
            if name not in self.models:
                text = f"no model is called {name!r}; the fleet has {', '.join(self.models)}"
                raise FleetError(suggested(text, name, self.models))
        return names or tuple(self.models)


def read_fleet(path: Path) -> Fleet:
    """Return the fleet of the YAML file `path`, with absolute paths.

    Raises FleetError when the file is missing, is not YAML or has wrong keys or values.
    """
    root, values = parsed(path)
    try:
        fleet = Fleet.model_validate(values)
    except ValidationError as error:
        raise FleetError(explain(path, root, error.errors(), Fleet)) from None
    # Found from a subfolder, the path begins with `..`.
    path = Path(os.path.abspath(path))  # noqa: PTH100 - pathlib keeps `..` or follows links
    here = path.parent
    models = {
        name: model.model_copy(
            update={
                "saved_model": _source(model.saved_model, here),
                "golden": tuple(here / file for file in model.golden),
                "evaluation": _absolute(model.evaluation, here),
            }
        )
        for name, model in fleet.models.items()
    }
    server = fleet.server.model_copy(update={"tls": _absolute(fleet.server.tls, here)})
    compose = fleet.compose.model_copy(update={"envoy": _absolute(fleet.compose.envoy, here)})
    fleet = fleet.model_copy(
        update={
            "folder": here / fleet.folder,
            "models": models,
            "server": server,
            "compose": compose,
            "rollout": _absolute(fleet.rollout, here),
            "sign": _absolute(fleet.sign, here),
            "trust": _absolute(fleet.trust, here),
        }
    )
    fleet._file = path
    return fleet


def check_label(label: str) -> None:
    """Raise ValueError when `label` can't name a version."""
    if not patterns.LABEL.fullmatch(label):
        raise ValueError(f"got the label {shown(label)}, expected {patterns.LABEL_WORDS}")


def _source(saved_model: Path | None, here: Path) -> Path | None:
    return saved_model if saved_model is None or patterns.is_mlflow_uri(saved_model) else here / saved_model


def _absolute(settings: Strict | None, here: Path) -> Strict | None:
    """Return `settings` with absolute paths."""
    if settings is None:
        return None
    paths = {key: here / value for key, value in settings if isinstance(value, Path)}
    lists = {
        key: tuple(here / one for one in value)
        for key, value in settings
        if isinstance(value, tuple) and value and isinstance(value[0], Path)
    }
    return settings.model_copy(update=paths | lists)

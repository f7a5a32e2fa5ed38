"""The fleet: what models.yaml says is exported and served."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator
from yaml.composer import ComposerError

from tfserving.foundation.files import read_text
from tfserving.foundation.golden import LARGEST_VERSION, versions_on_disk
from tfserving.foundation.labels import CANARY as CANARY  # noqa: PLC0414 - part of what models.yaml may have
from tfserving.foundation.labels import STABLE as STABLE  # noqa: PLC0414
from tfserving.foundation.labels import canary_name as canary_name  # noqa: PLC0414
from tfserving.serving.models_yaml.kubernetes import Kubernetes
from tfserving.serving.models_yaml.quality import LabelledRows, MetricLimits
from tfserving.serving.models_yaml.rollout import Rollout
from tfserving.serving.models_yaml.server import Compose, ServerSettings, Strict

# A fleet of thousands of models.
LARGEST_BYTES, MOST_VALUES = 1 << 20, 100_000
_LONGEST_VALUE = 10_000
_MOST_ERRORS = 20
# What TensorFlow Serving's configuration has room for.
_MOST_VERSIONS = (1 << 32) - 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
BUILDER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


# What `tfserving export lint` looks for; docs/lint.md explains each.
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


class FleetError(Exception):
    """models.yaml can't be used; the text names the file, the line and the key."""


class Model(Strict):
    """One model of the fleet: a builder makes it, or a SavedModel is there already."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["builder"]}, {"required": ["saved_model"]}]})

    builder: Annotated[
        str | None,
        Field(
            description="The function that makes the servable, as 'module:function'.", pattern=f"^{BUILDER.pattern}$"
        ),
    ] = None
    saved_model: Annotated[
        Path | None,
        Field(
            description="Instead of a builder, the folder of a SavedModel that is served as it is. Relative to the "
            "file that says it."
        ),
    ] = None
    allow: Annotated[
        tuple[Rule, ...], Field(description="Rules of docs/lint.md that this model may break.", validate_default=True)
    ] = ()
    batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65536)], ...],
        Field(
            min_length=1,
            description="The batch sizes it is served at, the last one the largest that is allowed; golden and warm-up "
            "requests have them all, and 1, 2 and 7 rows.",
        ),
    ] = (32,)
    golden: Annotated[
        tuple[Path, ...],
        Field(description="Files with more golden requests, .json, .jsonl or .npz. Relative to the file that says it."),
    ] = ()
    quality: Annotated[
        dict[str, MetricLimits],
        Field(
            description="By name of a metric of this model, how far it may go in a rollout; before `rollout.quality`."
        ),
    ] = Field(default_factory=dict)
    evaluation: Annotated[
        LabelledRows | None,
        Field(description="Labelled rows with which a rollout measures the served versions."),
    ] = None
    labels: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=LARGEST_VERSION)]],
        Field(description="Versions by label, as in `stable: 3`."),
    ] = Field(default_factory=dict)
    versions: Annotated[
        int | Literal["all"] | tuple[Annotated[int, Field(ge=1, le=LARGEST_VERSION)], ...] | None,
        Field(
            description="Which are served: the newest so many, `all`, or those listed. When not given: the newest, and "
            "those that labels name. With a label `stable`, none that is newer than that."
        ),
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if (self.builder is None) == (self.saved_model is None):
            raise ValueError(
                f"it has {'neither a builder nor' if self.builder is None else 'a builder and'} a saved_model; one of "
                "them is needed: `builder: module:function`, or `saved_model: FOLDER`, which is served as it is"
            )
        return self

    @field_validator("versions", mode="before")
    @classmethod
    def _says_which(cls, said: object) -> object:
        """One error for a wrong value, not one for each thing that it could have been."""
        numbers = said if isinstance(said, list) and said else [said]
        if isinstance(said, int) and said > _MOST_VERSIONS:
            raise ValueError(f"{said} is more than {_MOST_VERSIONS}; `all` is how many there are")
        if said not in (None, "all") and any(type(number) is not int or number < 1 for number in numbers):
            raise ValueError(f"{said!r} is not how many of the newest (1), 'all', or a list of versions ([3, 5])")
        return said

    @field_validator("batch_sizes")
    @classmethod
    def _increasing(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(f"{list(sizes)} does not increase; {sorted(set(sizes))} does")
        return sizes


class Fleet(Strict):
    """The models of one models.yaml, and where their versions lie."""

    folder: Annotated[
        Path,
        Field(description="Where versions are written: FOLDER/NAME/VERSION. Relative to the file that says it."),
    ] = Path("models")
    models: Annotated[
        dict[str, Model], Field(min_length=1, description="The models, by the name they are served under.")
    ]
    server: Annotated[ServerSettings, Field(description="How they are served.")] = ServerSettings()
    compose: Annotated[Compose, Field(description="What Compose starts beside the server.")] = Compose()
    kubernetes: Annotated[Kubernetes, Field(description="How the fleet runs on a cluster.")] = Kubernetes()
    rollout: Annotated[Rollout, Field(description="How a new version takes over.")] = Rollout()
    _file: Path = PrivateAttr(default=Path("models.yaml"))

    @field_validator("models")
    @classmethod
    def _names(cls, models: dict[str, Model]) -> dict[str, Model]:
        for name, model in models.items():
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} can't name a model: letters, digits, '_', '.' and '-' only, no '.' or '-' first"
                )
            if STABLE in model.labels and canary_name(name) in models:
                raise ValueError(
                    f"{canary_name(name)!r} is where servers have the canary of {name!r}, which has a label `stable`; "
                    "rename the model"
                )
        return models

    @property
    def file(self) -> Path:
        """The models.yaml that says all this, absolute."""
        return self._file

    def model_folder(self, name: str) -> Path:
        """The absolute folder with the versions of model `name`."""
        return (self.folder / name).absolute()

    def versions(self, name: str) -> list[int]:
        """The versions of model `name` on disk, oldest first; none when it was never exported."""
        folder = self.model_folder(name)
        return sorted(versions_on_disk(folder)) if folder.is_dir() else []

    def kept(self, name: str) -> list[int]:
        """The versions of model `name` on disk that are served now under this name, oldest first.

        With a label `stable` none is newer: requests without a label get the newest.
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
        """By metric, how far those of model `name` may go in a rollout."""
        return {**self.rollout.quality, **self.models[name].quality}

    def with_labels(self, name: str, labels: Mapping[str, int]) -> Fleet:
        """This fleet with other labels for the versions of model `name`."""
        model = self.models[name].model_copy(update={"labels": dict(labels)})
        return self.model_copy(update={"models": {**self.models, name: model}})

    def select(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """`names`, or every model when there are none. Raises FleetError for a name the fleet doesn't have."""
        for name in names:
            if name not in self.models:
                raise FleetError(f"no model is called {name!r}; the fleet has {', '.join(self.models)}")
        return names or tuple(self.models)


def read_fleet(path: Path) -> Fleet:
    """The fleet that the YAML file `path` describes, its folder made absolute.

    Raises FleetError when the file is missing, is not YAML, or says something it can't.
    """
    root, said = _parsed(path)
    try:
        fleet = Fleet.model_validate(said)
    except ValidationError as error:
        found = error.errors()
        more = [f"{path}: and {len(found) - _MOST_ERRORS} more"] if len(found) > _MOST_ERRORS else []
        shown = [_explain(path, root, problem) for problem in found[:_MOST_ERRORS]]
        raise FleetError("\n".join([*shown, *more])) from None
    here = path.absolute().parent
    models = {
        name: model.model_copy(
            update={
                "saved_model": model.saved_model and here / model.saved_model,
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
        }
    )
    fleet._file = path.absolute()
    return fleet


def _parsed(path: Path) -> tuple[yaml.Node | None, object]:
    """The YAML of a file, as nodes, which know their lines, and as values. Raises FleetError."""
    try:
        text = read_text(path, LARGEST_BYTES)
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}; write one, or name another with --fleet") from None
    except ValueError as error:
        raise FleetError(f"{path}: {error}; name another with --fleet") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _size(root, {}) > MOST_VALUES:
            raise FleetError(
                f"{path}: it has more than {MOST_VALUES} values, each counted wherever an alias repeats it"
            )
        _refuse_duplicates(path, root)
        # What `yaml.safe_load` does with the nodes, which takes as long as the file is large.
        return root, None if root is None else yaml.SafeLoader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FleetError(f"{path}:{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise FleetError(f"{path}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise FleetError(f"{path}: it is nested too deep") from None
    except ValueError as error:
        # A number of thousands of digits, a day that no month has.
        raise FleetError(f"{path}: a value can't be read: {error}") from None


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node has, those of aliases counted as often as they stand there; `known` by node."""
    if (found := known.get(id(node))) is not None:
        return found
    if isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_VALUE:
        raise ComposerError(None, None, f"a value has more than {_LONGEST_VALUE} characters", node.start_mark)
    # One that is part of itself has no end.
    known[id(node)] = MOST_VALUES + 1
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    inside = [one for pair in parts for one in pair] if isinstance(node, yaml.MappingNode) else parts
    known[id(node)] = 1 + sum(_size(one, known) for one in inside)
    return known[id(node)]


def _absolute(settings: Strict | None, here: Path) -> Strict | None:
    """`settings` with its files made absolute."""
    if settings is None:
        return None
    return settings.model_copy(update={key: here / value for key, value in settings if isinstance(value, Path)})


def _refuse_duplicates(path: Path, node: yaml.Node | None, where: str = "") -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise FleetError(f"{path}:{key.start_mark.line + 1}: {where or 'the file'}: a key is not a word")
        here = f"{where}.{key.value}" if where else str(key.value)
        if key.value in seen:
            raise FleetError(f"{path}:{key.start_mark.line + 1}: {here}: is there twice")
        seen.add(key.value)
        _refuse_duplicates(path, value, here)


def _explain(path: Path, root: yaml.Node | None, problem: Any) -> str:
    """One pydantic problem as `file:line: key: what is wrong`."""
    location = [str(part) for part in problem["loc"]]
    node, line = root, 1
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == part:
                node, line = value, key.start_mark.line + 1
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch" and location[-1] == "builder":
        message = f"{problem['input']!r} is not 'module:function'"
    elif problem["type"] == "extra_forbidden":
        message = "is not a key that models.yaml knows"
    return f"{path}:{line}: {'.'.join(location) or 'the file'}: {message}"

"""The labelled rows of a rollout: from a file or builder in models.yaml, or from the versions themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfserving.clients.commands.array_files import read_arrays
from tfserving.clients.commands.input_values import InputError, body_of, unpack
from tfserving.clients.inputs import to_arrays
from tfserving.clients.rest_json import parse_request
from tfserving.clients.results import Signature
from tfserving.foundation.evaluation import LABELS, EvaluationError, read_evaluation
from tfserving.foundation.files import read_text
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.manifest import ManifestError, read_manifest_file
from tfserving.foundation.quality import LARGEST_BYTES, MEASURES, Evaluation
from tfserving.foundation.tensors import Array
from tfserving.k8s.rollout.measures import MeasureError, find_function
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.quality import LabelledRows


def labelled_rows(
    fleet: Fleet, model: str, versions: Sequence[int], signatures: Mapping[str, Signature]
) -> Evaluation | None:
    """Return the rows and their metric; None without rows.

    They are those of models.yaml, else those of the first of `versions` that contains some. `signatures` are those of
    the served versions. Raises EvaluationError.
    """
    settings = fleet.models[model].evaluation or LabelledRows()
    found, source = _found(fleet.model_folder(model), settings, versions, signatures)
    if found is None:
        return None
    given = {key: getattr(settings, key) for key in ("metric", "output", "signature", "higher_is_better")}
    found = replace(found, **{key: value for key, value in given.items() if value is not None})
    if problem := next(found.problems(), None):
        raise EvaluationError(f"{source}: {problem}")
    if found.signature in _without_batch(fleet.model_folder(model), versions):
        raise EvaluationError(
            f"{source}: signature {found.signature!r} has no batch dimension, and labelled rows are sent in batches. "
            "Set another `signature`, or compare metrics of the builder (`quality`)."
        )
    if settings.upward not in (None, found.goes_up):
        keys, better = ("at_least and drop", "higher") if found.goes_up else ("at_most and rise", "lower")
        raise EvaluationError(f"{found.metric_name} is better when it is {better}: use {keys} in models.yaml")
    _check_function(fleet.models[model].builder, model, settings, found)
    if found.output is None and found.metric_name in MEASURES and found.signature in signatures:
        outputs = list(signatures[found.signature].outputs)
        if len(outputs) != 1:
            raise EvaluationError(f"{source}: set `output` to one of {', '.join(outputs)}")
        found = replace(found, output=outputs[0])
    return found


def _without_batch(folder: Path, versions: Sequence[int]) -> set[str]:
    """Return the signatures without a batch dimension in the manifests of `versions`."""
    found: set[str] = set()
    for version in versions:
        # Manifests are validated elsewhere.
        with contextlib.suppress(ManifestError):
            found |= read_manifest_file(folder / str(version) / MANIFEST).unbatched()
    return found


def _found(
    folder: Path, settings: LabelledRows, versions: Sequence[int], signatures: Mapping[str, Signature]
) -> tuple[Evaluation | None, str]:
    """Return the rows as they are, and their source."""
    if settings.file:
        return _read(settings.file, settings.signature or "serving_default", signatures), str(settings.file)
    if settings.builder:
        try:
            found: object = find_function(settings.builder)()  # type: ignore[call-arg]
        except MeasureError as error:
            raise EvaluationError(str(error)) from None
        except (Exception, SystemExit) as error:
            raise EvaluationError(f"{settings.builder} raised {type(error).__name__}: {error}") from error
        if not isinstance(found, Evaluation):
            raise EvaluationError(f"{settings.builder} returned {type(found).__name__}, expected an Evaluation")
        return found, settings.builder
    for version in versions:
        if carried := read_evaluation(folder / str(version)):
            return carried, str(folder / str(version))
    return None, ""


def _check_function(builder: str | None, model: str, settings: LabelledRows, evaluation: Evaluation) -> None:
    """Reject a function that only a version names: anybody who can write versions could name any function."""
    name = evaluation.metric_name
    trusted = {one.partition(":")[0] for one in (builder, settings.builder) if one}
    if name not in MEASURES and name != settings.metric and name.partition(":")[0] not in trusted:
        where = "the module of its builder" if builder else "a module that models.yaml names for it"
        raise EvaluationError(
            f"the metric {name} of the version is not in {where}. To trust it, set "
            f"`models.{model}.evaluation: {{metric: '{name}'}}` in models.yaml."
        )


def _read(path: Path, name: str, signatures: Mapping[str, Signature]) -> Evaluation:
    """Read labelled rows from a file of the user; its inputs are those of signature `name`."""
    if name not in signatures:
        raise EvaluationError(f"{path}: the model has no signature {name!r}, but {', '.join(signatures)}")
    try:
        if (size := path.stat().st_size) > LARGEST_BYTES:
            raise EvaluationError(f"{path} is {size} bytes, and the limit is {LARGEST_BYTES}")
        arrays = read_arrays(path) if path.suffix == ".npz" else _lines(path, name, signatures[name])
        labels = arrays.pop(LABELS, None)
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror or error}") from None
    except (InputError, RecursionError, TypeError, ValueError) as error:
        raise EvaluationError(f"{path}: {error}") from None
    if labels is None:
        raise EvaluationError(f"{path} has no array {LABELS!r}, but {', '.join(arrays) or 'nothing'}")
    return Evaluation(arrays, labels, signature=name)


def _lines(path: Path, name: str, signature: Signature) -> dict[str, Array]:
    """Return the arrays of a file with a REST predict request and its `labels` on each line."""
    parts: list[dict[str, Array]] = []
    for number, line in enumerate(read_text(path, LARGEST_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        try:
            body = unpack(parse_request(line))
            if not isinstance(body, dict) or not isinstance(labels := body.pop(LABELS, None), list):
                raise ValueError(f"expected a REST request with a list {LABELS!r}")
            part = to_arrays(body_of(body).inputs, name, signature)
            parts.append({**part, LABELS: _labels(labels)})
        except (InputError, TypeError, ValueError) as error:
            raise ValueError(f"line {number}: {error}") from None
    if not parts or any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError("it is empty, or its lines have different inputs")
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _labels(values: Sequence[object]) -> Array:
    if any(isinstance(value, str) for value in values):
        return np.array(values, np.object_)
    return np.asarray(values)

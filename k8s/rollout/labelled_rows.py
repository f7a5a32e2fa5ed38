"""Where the labelled rows of a rollout come from: models.yaml's file or builder, or the versions themselves."""

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
    """The rows, and what is computed of them; None when there are none.

    They are those of models.yaml, else those that the first of `versions` carries which has any. `signatures` are those
    that are asked. Raises EvaluationError.
    """
    said = fleet.models[model].evaluation or LabelledRows()
    found, source = _found(fleet.model_folder(model), said, versions, signatures)
    if found is None:
        return None
    given = {key: getattr(said, key) for key in ("metric", "output", "signature", "higher_is_better")}
    found = replace(found, **{key: value for key, value in given.items() if value is not None})
    if problem := next(found.problems(), None):
        raise EvaluationError(f"{source}: {problem}")
    if found.signature in _without_batch(fleet.model_folder(model), versions):
        raise EvaluationError(
            f"{source}: signature {found.signature!r} takes one example a request, and labelled rows are sent in "
            "batches; name another `signature`, or compare metrics of the builder's (`quality`)"
        )
    if said.upward not in (None, found.goes_up):
        keys, way = ("at_least and drop", "higher") if found.goes_up else ("at_most and rise", "lower")
        raise EvaluationError(f"{found.metric_name} is better {way}: {keys} of models.yaml are for such a metric")
    _check_function(fleet.models[model].builder, model, said, found)
    if found.output is None and found.metric_name in MEASURES and found.signature in signatures:
        outputs = list(signatures[found.signature].outputs)
        if len(outputs) != 1:
            raise EvaluationError(f"{source}: `output` says which one is measured: {', '.join(outputs)}")
        found = replace(found, output=outputs[0])
    return found


def _without_batch(folder: Path, versions: Sequence[int]) -> set[str]:
    """The signatures that one of `versions` was exported with as having no batch."""
    found: set[str] = set()
    for version in versions:
        # Whether a manifest is whole is looked at elsewhere.
        with contextlib.suppress(ManifestError):
            found |= read_manifest_file(folder / str(version) / MANIFEST).unbatched()
    return found


def _found(
    folder: Path, said: LabelledRows, versions: Sequence[int], signatures: Mapping[str, Signature]
) -> tuple[Evaluation | None, str]:
    """The rows as they are, and where they are from."""
    if said.file:
        return _read(said.file, said.signature or "serving_default", signatures), str(said.file)
    if said.builder:
        try:
            found: object = find_function(said.builder)()  # type: ignore[call-arg]
        except MeasureError as error:
            raise EvaluationError(str(error)) from None
        except (Exception, SystemExit) as error:
            raise EvaluationError(f"{said.builder} raised {type(error).__name__}: {error}") from error
        if not isinstance(found, Evaluation):
            raise EvaluationError(f"{said.builder} returned a {type(found).__name__}, an Evaluation is needed")
        return found, said.builder
    for version in versions:
        if carried := read_evaluation(folder / str(version)):
            return carried, str(folder / str(version))
    return None, ""


def _check_function(builder: str | None, model: str, said: LabelledRows, evaluation: Evaluation) -> None:
    """Refuses to run a function that a version names and models.yaml doesn't: whoever writes versions may name any."""
    name = evaluation.metric_name
    trusted = {one.partition(":")[0] for one in (builder, said.builder) if one}
    if name not in MEASURES and name != said.metric and name.partition(":")[0] not in trusted:
        where = "not in the module of its builder" if builder else "in no module that models.yaml names for it"
        raise EvaluationError(
            f"the version's metric is {name}, which is {where}; "
            f"`models.{model}.evaluation: {{metric: '{name}'}}` in models.yaml allows it"
        )


def _read(path: Path, name: str, signatures: Mapping[str, Signature]) -> Evaluation:
    """The labelled rows in a file of the user's, whose inputs are those of signature `name`."""
    if name not in signatures:
        raise EvaluationError(f"{path}: there is no signature {name!r}; there is {', '.join(signatures)}")
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise EvaluationError(f"{path} has more than {LARGEST_BYTES} bytes")
        arrays = read_arrays(path) if path.suffix == ".npz" else _lines(path, name, signatures[name])
        labels = arrays.pop(LABELS, None)
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror or error}") from None
    except (InputError, RecursionError, TypeError, ValueError) as error:
        raise EvaluationError(f"{path}: {error}") from None
    if labels is None:
        raise EvaluationError(f"{path} has no {LABELS!r}; it has {', '.join(arrays) or 'nothing'}")
    return Evaluation(arrays, labels, signature=name)


def _lines(path: Path, name: str, signature: Signature) -> dict[str, Array]:
    """The arrays of a REST predict request a line, put together, and of their `labels`."""
    parts: list[dict[str, Array]] = []
    for number, line in enumerate(read_text(path, LARGEST_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        try:
            body = unpack(parse_request(line))
            if not isinstance(body, dict) or not isinstance(labels := body.pop(LABELS, None), list):
                raise ValueError(f"a REST request with a list {LABELS!r} is needed")
            part = to_arrays(body_of(body).inputs, name, signature)
            parts.append({**part, LABELS: _labels(labels)})
        except (InputError, TypeError, ValueError) as error:
            raise ValueError(f"line {number}: {error}") from None
    if not parts or any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError("it has no line, or lines with different inputs")
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _labels(values: Sequence[object]) -> Array:
    if any(isinstance(value, str) for value in values):
        return np.array(values, np.object_)
    return np.asarray(values)

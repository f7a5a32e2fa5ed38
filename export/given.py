"""Golden requests of the user's own, in files, with or without the expected outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfserving.clients import results
from tfserving.clients.commands.input_values import InputError, body_of, unpack
from tfserving.clients.inputs import mismatches, to_arrays
from tfserving.clients.rest_json import parse_request
from tfserving.export.errors import ServableError
from tfserving.export.servable import EXAMPLES, Signature, TensorSpec
from tfserving.foundation.command.suggest import did_you_mean
from tfserving.foundation.examples import read_examples
from tfserving.foundation.tensors import Array

SUFFIXES = (".json", ".jsonl", ".npz")
DEFAULT = "serving_default"


@dataclass(frozen=True)
class Given:
    """A request from a file, its place there, and its expected `outputs` as JSON values, if it has any."""

    where: str
    signature: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Any] | None = None

    def expected(self, actual: Mapping[str, Array]) -> dict[str, Array]:
        """Return the expected outputs as arrays with the dtypes of the `actual` ones. Raises ServableError."""
        infos = {name: results.TensorInfo(TensorSpec.of(array).dtype, None) for name, array in actual.items()}
        if not self.outputs or self.outputs.keys() - infos.keys():
            raise ServableError(
                f"{self.where}: it expects the outputs {_list(self.outputs or {})}, the model returns {_list(infos)}"
            )
        try:
            return to_arrays(self.outputs, self.signature, results.Signature("", infos, {}))
        except ValueError as error:
            raise ServableError(f"{self.where}, outputs: {str(error).replace('inputs[', '[')}") from None


def check_file(path: Path) -> None:
    """Raise ServableError when the file `path` has no requests, whatever the signatures are."""
    for _ in _bodies(path):
        pass


def read_given(path: Path, signatures: Mapping[str, Signature]) -> list[Given]:
    """Return the requests in the file `path`, to `signatures`.

    `.json` contains the body of a REST request or a list of them, `.jsonl` one in each line. A body has `inputs` or
    `instances`, or `examples` for a classify or regress signature; `signature_name`; and `outputs` by name if the
    expected outputs are known. `.npz` contains one request, an array for each input of `serving_default`.

    Raises ServableError with the file and the request for a request that can't be sent.
    """
    return [_check(where, body, signatures) for where, body in _bodies(path)]


def _bodies(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                yield str(path), {"inputs": {name: archive[name] for name in archive.files}}
            return
        if path.suffix == ".jsonl":
            lines = [(number, line) for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]
            read = [(f"{path}:{number}", parse_request(line)) for number, line in lines]
        elif path.suffix == ".json":
            value = parse_request(path.read_bytes())
            many = isinstance(value, list)
            read = (
                [(f"{path}, request {number}", one) for number, one in enumerate(value)]
                if many
                else [(str(path), value)]
            )
        else:
            raise ServableError(f"{path}: expected a file {', '.join(SUFFIXES)} with golden requests")
    except OSError as error:
        raise ServableError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise ServableError(f"{path} can't be read as {path.suffix}: {error}") from None
    for where, body in read:
        if not isinstance(body, dict):
            raise ServableError(f"{where}: expected a JSON object, got {body!r:.60}")
        yield where, body


def _check(where: str, body: dict[str, Any], signatures: Mapping[str, Signature]) -> Given:
    """Return the request in `body`, after checking its inputs against the signature that it names."""
    name = body.get("signature_name", DEFAULT)
    if name not in signatures:
        raise ServableError(
            f"{where}: there is no signature {name!r}; the signatures are {_list(signatures)}."
            f"{did_you_mean(str(name), signatures)}"
        )
    signature = signatures[name]
    try:
        body = unpack(body)
        outputs = body.pop("outputs", None)
        if outputs is not None and not isinstance(outputs, dict):
            raise ServableError(f"{where}: outputs must be an object with the expected values by output name")
        if signature.method != "predict":
            examples = read_examples(body.get("examples", ()), body.get("context"))
            if examples.context is not None:
                raise ServableError(
                    f"{where}: a golden request can't have a context. Put its features into the examples."
                )
            serialized = np.empty(len(examples.examples), np.object_)
            serialized[:] = [example.SerializeToString(deterministic=True) for example in examples.examples]
            return Given(where, name, {EXAMPLES: serialized}, outputs)
        if "instances" in body and not signature.batched:
            raise ServableError(
                f"{where}: it has 'instances', rows of a batch, but signature {name!r} takes one example per request. "
                "Use 'inputs', each as the signature declares it."
            )
        wanted = results.Signature(
            "", {key: results.TensorInfo(spec.dtype, spec.shape) for key, spec in signature.inputs.items()}, {}
        )
        arrays = to_arrays(body_of(body).inputs, name, wanted)
    except (InputError, ValueError) as error:
        raise ServableError(f"{where}: {error}") from None
    if wrong := mismatches(arrays, name, wanted):
        raise ServableError(f"{where}: {wrong[0]}")
    return Given(where, name, arrays, outputs)


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "none"

"""The signatures of a server's models, requested once and cached, and the checks of calls against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tfserving.clients.call_options import CallOptions
from tfserving.clients.errors import FailedPrecondition, InvalidArgument
from tfserving.clients.inputs import Inputs, mismatches, needs_signature, to_arrays
from tfserving.clients.results import Metadata, Signature
from tfserving.clients.steps import Steps
from tfserving.foundation.tensors import STRING, Array

# A signature in SavedModels that can't be called.
_INTERNAL_SIGNATURE = "__saved_model_init_op"


class Signatures:
    """The signatures of a server's models, by model, version and label. `get` requests the metadata."""

    def __init__(self, get: Callable[[CallOptions], Steps[Metadata]]) -> None:
        self._get = get
        self._known: dict[tuple[str, int | None, str | None], Metadata] = {}

    def metadata(self, options: CallOptions) -> Steps[Metadata]:
        """Return the model's metadata, requested again and cached, without signatures that can't be called."""
        found = yield from self._get(options.without_signature())
        callable_ones = {
            name: signature for name, signature in sorted(found.signatures.items()) if name != _INTERNAL_SIGNATURE
        }
        found = replace(found, signatures=callable_ones)
        self._known[options.call.model, options.call.version, options.call.label] = found
        return found

    def find(self, options: CallOptions, *, fresh: bool = False) -> Steps[tuple[Signature, bool]]:
        """Return the signature of the call, and whether it was cached.

        Raises FailedPrecondition when the model's current metadata lacks it.
        """
        name, call = options.signature, options.call
        known = self._known.get((call.model, call.version, call.label))
        if known and name in known.signatures and not fresh:
            return known.signatures[name], True
        found = yield from self.metadata(options)
        if name not in found.signatures:
            raise FailedPrecondition(f"Serving signature key {name!r} not found.", call, _lacks(found, name))
        return found.signatures[name], False

    def arrays(self, options: CallOptions, inputs: Inputs) -> Steps[dict[str, Array]]:
        """Return the arrays of a caller's `inputs`. Raises InvalidArgument for inputs that can't be converted."""
        signature = None
        if needs_signature(inputs):
            signature, cached = yield from self.find(options)
            if cached and isinstance(inputs, Mapping) and set(inputs) != set(signature.inputs):
                # They may be those of a newer version.
                signature, _ = yield from self.find(options, fresh=True)
        try:
            return to_arrays(inputs, options.signature, signature)
        except ValueError as error:
            raise InvalidArgument(str(error), options.call) from None

    def check(self, options: CallOptions, arrays: Mapping[str, Array], *, shapes: bool = True) -> Steps[Signature]:
        """Return the signature of the call. Raises InvalidArgument for arrays that don't match its current state."""
        signature, known = yield from self.find(options)
        wrong = mismatches(arrays, options.signature, signature, shapes=shapes)
        if wrong and known:
            signature, _ = yield from self.find(options, fresh=True)
            wrong = mismatches(arrays, options.signature, signature, shapes=shapes)
        if wrong:
            raise InvalidArgument("; ".join(wrong), options.call)
        return signature

    def check_examples(self, options: CallOptions) -> Steps[None]:
        """Raise InvalidArgument unless the signature of the call accepts tf.Examples."""
        signature, known = yield from self.find(options)
        if known and not _accepts_examples(signature):
            signature, _ = yield from self.find(options, fresh=True)
        if not _accepts_examples(signature):
            wanted = ", ".join(f"{name!r}: {info}" for name, info in signature.inputs.items()) or "no inputs"
            text = f"signature {options.signature!r} doesn't accept tf.Examples; its inputs are {wanted}"
            raise InvalidArgument(text, options.call)


def _accepts_examples(signature: Signature) -> bool:
    return [info.dtype for info in signature.inputs.values()] == [STRING.name]


def _lacks(metadata: Metadata, name: str) -> str:
    names = ", ".join(metadata.signatures) or "none"
    return f"{metadata.model} version {metadata.version} lacks signature {name!r}; it has {names}"

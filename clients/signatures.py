"""The signatures of a server's models: asked once, remembered, and compared with what is about to be sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tfserving.clients.answers import Metadata, Signature
from tfserving.clients.asked import Asked
from tfserving.clients.errors import FailedPrecondition, InvalidArgument
from tfserving.clients.inputs import Inputs, mismatches, needs_signature, to_arrays
from tfserving.clients.steps import Steps
from tfserving.foundation.tensors import STRING, Array

# The signatures in SavedModels that nobody can call.
_INTERNAL_SIGNATURE = "__saved_model_init_op"


class Signatures:
    """The signatures of a server's models, by model, version and label. `get` asks the server for metadata."""

    def __init__(self, get: Callable[[Asked], Steps[Metadata]]) -> None:
        self._get = get
        self._known: dict[tuple[str, int | None, str | None], Metadata] = {}

    def metadata(self, asked: Asked) -> Steps[Metadata]:
        """The metadata of the model, asked anew and remembered, without the signatures that nobody can call."""
        found = yield from self._get(asked.without_signature())
        callable_ones = {
            name: signature for name, signature in sorted(found.signatures.items()) if name != _INTERNAL_SIGNATURE
        }
        found = replace(found, signatures=callable_ones)
        self._known[asked.call.model, asked.call.version, asked.call.label] = found
        return found

    def find(self, asked: Asked, *, fresh: bool = False) -> Steps[tuple[Signature, bool]]:
        """The signature that is asked for, and whether it was known from an earlier call.

        Raises FailedPrecondition when the model, asked anew, doesn't have it.
        """
        name, call = asked.signature, asked.call
        known = self._known.get((call.model, call.version, call.label))
        if known and name in known.signatures and not fresh:
            return known.signatures[name], True
        found = yield from self.metadata(asked)
        if name not in found.signatures:
            raise FailedPrecondition(f"Serving signature key {name!r} not found.", call, _lacks(found, name))
        return found.signatures[name], False

    def arrays(self, asked: Asked, inputs: Inputs) -> Steps[dict[str, Array]]:
        """The arrays of what a caller hands in. Raises InvalidArgument for what can't be made into them."""
        signature = None
        if needs_signature(inputs):
            signature, cached = yield from self.find(asked)
            if cached and isinstance(inputs, Mapping) and set(inputs) != set(signature.inputs):
                # Perhaps a newer version's.
                signature, _ = yield from self.find(asked, fresh=True)
        try:
            return to_arrays(inputs, asked.signature, signature)
        except ValueError as error:
            raise InvalidArgument(str(error), asked.call) from None

    def check(self, asked: Asked, arrays: Mapping[str, Array], *, shapes: bool = True) -> Steps[Signature]:
        """The signature that is asked for; refuses arrays that don't fit it, after it was asked for anew."""
        signature, known = yield from self.find(asked)
        wrong = mismatches(arrays, asked.signature, signature, shapes=shapes)
        if wrong and known:
            signature, _ = yield from self.find(asked, fresh=True)
            wrong = mismatches(arrays, asked.signature, signature, shapes=shapes)
        if wrong:
            raise InvalidArgument("; ".join(wrong), asked.call)
        return signature

    def check_takes_examples(self, asked: Asked) -> Steps[None]:
        """Refuses the call, with InvalidArgument, unless its signature takes tf.Examples."""
        signature, known = yield from self.find(asked)
        if known and not _takes_examples(signature):
            signature, _ = yield from self.find(asked, fresh=True)
        if not _takes_examples(signature):
            wants = ", ".join(f"{name!r}: {info}" for name, info in signature.inputs.items()) or "no inputs"
            text = (
                f"signature {asked.signature!r} takes no tf.Examples, which are one input of strings; it wants {wants}"
            )
            raise InvalidArgument(text, asked.call)


def _takes_examples(signature: Signature) -> bool:
    return [info.dtype for info in signature.inputs.values()] == [STRING.name]


def _lacks(metadata: Metadata, name: str) -> str:
    names = ", ".join(metadata.signatures) or "none"
    return f"{metadata.model} version {metadata.version} has no signature {name!r}; it has {names}"

"""How the signatures of two versions differ, and which differences break clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tfserving.export.manifest import ServedSignature
from tfserving.export.servable import TensorSpec


@dataclass(frozen=True)
class SignatureChange:
    """One difference of a signature. `breaking` when clients of the previous version would fail or misread it."""

    signature: str
    what: str
    breaking: bool


def signature_changes(
    old: Mapping[str, ServedSignature], new: Mapping[str, ServedSignature]
) -> tuple[SignatureChange, ...]:
    """Return the differences between `old` and `new`, by signature."""
    return tuple(_changes(old, new))


def _changes(old: Mapping[str, ServedSignature], new: Mapping[str, ServedSignature]) -> Iterator[SignatureChange]:
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield SignatureChange(name, "removed", breaking=True)
        elif name not in old:
            yield SignatureChange(name, "added", breaking=False)
        else:
            if old[name].method != new[name].method:
                what = f"method changed from {old[name].method} to {new[name].method}"
                yield SignatureChange(name, what, breaking=True)
            for what, breaking in _input_changes(old[name], new[name]):
                yield SignatureChange(name, what, breaking)
            for what, breaking in _output_changes(old[name].outputs, new[name].outputs):
                yield SignatureChange(name, what, breaking)


def _input_changes(before: ServedSignature, after: ServedSignature) -> Iterator[tuple[str, bool]]:
    old, new = before.inputs, after.inputs
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield f"input {name!r} removed", True
        elif name not in old:
            optional = name in after.optional
            yield f"{'optional' if optional else 'required'} input {name!r} added", not optional
        elif old[name] != new[name]:
            # Every request that was accepted must still be accepted.
            breaking = old[name].dtype != new[name].dtype or not _covers(new[name], old[name])
            yield f"input {name!r} changed from {old[name]} to {new[name]}", breaking
        elif (name in before.optional) != (name in after.optional):
            required = name in before.optional
            yield f"input {name!r} is now {'required' if required else 'optional'}", required


def _output_changes(old: Mapping[str, TensorSpec], new: Mapping[str, TensorSpec]) -> Iterator[tuple[str, bool]]:
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield f"output {name!r} removed", True
        elif name not in old:
            yield f"output {name!r} added", False
        elif old[name] != new[name]:
            # Every output that is possible now must have been possible before.
            breaking = old[name].dtype != new[name].dtype or not _covers(old[name], new[name])
            yield f"output {name!r} changed from {old[name]} to {new[name]}", breaking


def _covers(wide: TensorSpec, narrow: TensorSpec) -> bool:
    """Return whether every shape that `narrow` allows is one that `wide` allows."""
    if wide.shape is None:
        return True
    if narrow.shape is None or len(narrow.shape) != len(wide.shape):
        return False
    return all(size in (None, other) for size, other in zip(wide.shape, narrow.shape, strict=True))

"""How the signatures of two versions differ, and what of it their clients would feel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tfserving.export.manifest import ServedSignature
from tfserving.export.servable import TensorSpec


@dataclass(frozen=True)
class SignatureChange:
    """One difference of a signature; `breaking` when clients of the version before would fail, or read it wrong."""

    signature: str
    what: str
    breaking: bool


def signature_changes(
    old: Mapping[str, ServedSignature], new: Mapping[str, ServedSignature]
) -> tuple[SignatureChange, ...]:
    """What is different in `new`, signature by signature."""
    return tuple(_changes(old, new))


def _changes(old: Mapping[str, ServedSignature], new: Mapping[str, ServedSignature]) -> Iterator[SignatureChange]:
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield SignatureChange(name, "it is gone", breaking=True)
        elif name not in old:
            yield SignatureChange(name, "it is new", breaking=False)
        else:
            if old[name].method != new[name].method:
                what = f"its method was {old[name].method}, now it is {new[name].method}"
                yield SignatureChange(name, what, breaking=True)
            for what, breaking in _input_changes(old[name], new[name]):
                yield SignatureChange(name, what, breaking)
            for what, breaking in _output_changes(old[name].outputs, new[name].outputs):
                yield SignatureChange(name, what, breaking)


def _input_changes(before: ServedSignature, after: ServedSignature) -> Iterator[tuple[str, bool]]:
    old, new = before.inputs, after.inputs
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield f"input {name!r} is gone", True
        elif name not in old:
            optional = name in after.optional
            yield f"input {name!r} is new, and {'optional' if optional else 'requests without it fail'}", not optional
        elif old[name] != new[name]:
            # Whatever was taken before must be taken now.
            breaking = old[name].dtype != new[name].dtype or not _covers(new[name], old[name])
            yield f"input {name!r} was {old[name]}, now it is {new[name]}", breaking
        elif (name in before.optional) != (name in after.optional):
            needed = name in before.optional
            yield f"input {name!r} {'must now be sent' if needed else 'may now be left out'}", needed


def _output_changes(old: Mapping[str, TensorSpec], new: Mapping[str, TensorSpec]) -> Iterator[tuple[str, bool]]:
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield f"output {name!r} is gone", True
        elif name not in old:
            yield f"output {name!r} is new", False
        elif old[name] != new[name]:
            # Whatever is answered now must be what could be answered before.
            breaking = old[name].dtype != new[name].dtype or not _covers(old[name], new[name])
            yield f"output {name!r} was {old[name]}, now it is {new[name]}", breaking


def _covers(wide: TensorSpec, narrow: TensorSpec) -> bool:
    """Whether every shape of `narrow` is one of `wide`."""
    if wide.shape is None:
        return True
    if narrow.shape is None or len(narrow.shape) != len(wide.shape):
        return False
    return all(size in (None, other) for size, other in zip(wide.shape, narrow.shape, strict=True))

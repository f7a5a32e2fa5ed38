"""Measures the tolerances of a version on the devices of this machine.

    golden requests ──► a fresh process for each kind of device ──► largest differences ──► a set of tolerances

A device whose outputs differ too much gets no set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfserving.export.arithmetic import Arithmetic
from tfserving.export.comparison import as_recorded
from tfserving.export.devices import Measurement
from tfserving.export.edge_requests import EdgeRequest, Note
from tfserving.export.errors import ProofError
from tfserving.export.proof import FreshProcess
from tfserving.export.tolerances import Judge, describe, to_measure, widest
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import Device
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import dtype_of

# Servers run versions in this way.
_WAY = "session"


@dataclass(frozen=True)
class Sets:
    """Sets of tolerances by kind of device and dtype, and the name of the device for each set that was measured."""

    tolerances: Mapping[Device, Mapping[str, Tolerance]]
    measured: Mapping[Device, str]


def measure(
    kinds: Iterable[Measurement],
    version_folder: Path,
    golden: Sequence[GoldenRequest],
    chosen: Mapping[str, Tolerance],
    arithmetic: Arithmetic,
    refused: Iterable[str] = (),
    leave_out: Note = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[list[GoldenRequest], Sets]:
    """Run the `golden` requests, whose outputs a GPU computed, on each of the `kinds` of device.

    `chosen` are the tolerances by dtype of that GPU, which every set has at least. Return the requests, without edge
    values for which a device returns something else, and the sets. A kind whose outputs differ too much gets no set,
    and `note` is called with the reason.
    """
    golden = list(golden)
    tolerances: dict[Device, dict[str, Tolerance]] = {"gpu": dict(chosen)}
    measured: dict[Device, str] = {}
    for kind in kinds:
        judge = Judge(to_measure(kind.device, arithmetic))
        try:
            with FreshProcess(kind.environment) as fresh:
                fresh.load(version_folder, [_WAY], refused)
                golden, flipped = _run(fresh, golden, judge, leave_out)
        except ProofError as error:
            note(f"no tolerances for {kind.device}, so such a server can't be verified: {error}")
            continue
        for text in flipped:
            note(f"on {kind.device}, {text}")
        found = {dtype: judge.chosen(dtype) or one for dtype, one in chosen.items()}
        tolerances[kind.device] = {dtype: widest(one, found[dtype]) for dtype, one in chosen.items()}
        measured[kind.device] = kind.name
    return golden, Sets(tolerances, measured)


def _run(
    fresh: FreshProcess, golden: Sequence[GoldenRequest], judge: Judge, leave_out: Note
) -> tuple[list[GoldenRequest], list[str]]:
    """Return the requests that are not disputed, after `judge` has seen their outputs, and a text for each label.

    A label that is another one, where two scores are nearly a tie, is no error of the device. Raises ProofError when
    the version fails, and when floats differ too much.
    """
    for request in golden:
        fresh.send(request)
    fresh.signatures()
    kept: list[GoldenRequest] = []
    flipped: dict[str, str] = {}
    for sent in golden:
        pair = sent, replace(sent, outputs=fresh.outputs(sent))
        if isinstance(sent, EdgeRequest) and (rows := sent.disputed(pair[1].outputs, judge, rewritten=True)):
            leave_out(sent.left_out(rows))
            rest = [one.without(rows) for one in pair if isinstance(one, EdgeRequest)]
            if rest[0] is None or rest[1] is None:
                continue
            pair = rest[0], rest[1]
        kept.append(pair[0])
        expected, actual = (as_recorded(one) for one in pair)
        for name, array in expected.outputs.items():
            difference = judge.judge(actual.outputs[name], array)
            where = f"signature {expected.signature!r}, output {name!r}"
            if difference.verdict == "different" and dtype_of(array).name in judge.tolerances:
                raise ProofError(f"{where}: {describe(difference)}")
            if difference.verdict == "different":
                flipped.setdefault(where, f"{where} is another one: {describe(difference)}")
    return kept, list(flipped.values())

"""How far answers to the same requests move from one version to another: labels of rows, distributions of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfserving.clients.capture import CapturedRequest, distinct
from tfserving.foundation.golden import Golden, GoldenError, GoldenRequest, read_golden
from tfserving.foundation.quality import figure
from tfserving.foundation.tensors import Array
from tfserving.k8s.rollout.measures import Answers, differ, is_float, labels_of
from tfserving.k8s.rollout.pairs import Answer, Clock, paired
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import GateError, Reached
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.quality import Drift

# Of all outputs together, so that what is kept of 100,000 requests is bounded. They take 64 MB.
MOST_NUMBERS = 4_000_000


def drift(fleet: Fleet, model: str, old: Reached, new: Reached, pause: Callable[[float], None]) -> list[Figure]:
    """Sends the golden requests of both versions to both of them, each once, and compares the answers.

    Requests that one of them doesn't take, by its signatures, are left out. The figure fails beyond `rollout.drift`,
    and where the new version alone fails a request. `pause` is called every second. Raises GateError when golden
    requests can't be read.
    """
    moved, clock = Moved(), Clock(fleet.rollout.longest, pause)
    folder = fleet.model_folder(model)
    try:
        golden = [read_golden(folder / str(reached.version)) for reached in (old, new)]
    except GoldenError as error:
        raise GateError(str(error)) from None
    with paired(old, new) as pair:
        for request, defaults in _golden(model, golden):
            if clock.is_over():
                break
            if pair.takes(request):
                moved.add(request.signature, *pair.send(request, defaults))
            else:
                moved.left_out += 1
    return [moved.figure(fleet.rollout.drift, new)]


def _golden(model: str, golden: list[Golden]) -> Iterator[tuple[GoldenRequest, Mapping[str, Array] | None]]:
    """The requests of all, each once, with what stands for inputs that they leave out."""
    defaults: dict[str, Mapping[str, Array]] = {}
    for one in golden:
        defaults |= one.defaults
    requests = (CapturedRequest(model, None, request) for one in golden for request in one.requests)
    for captured in distinct(requests):
        yield captured.request, defaults.get(captured.request.signature)


@dataclass(frozen=True)
class Move:
    """How far the numbers of an output have moved, in their own unit.

    `mean` is the mean absolute difference, `distance` that of Wasserstein between the distributions of old and new
    numbers, the mean over the columns of a row. `lost` counts the numbers that are finite of the old version alone.
    """

    mean: float
    distance: float
    lost: int

    def __str__(self) -> str:
        lost = f", {self.lost} are not finite any more" if self.lost else ""
        return f"mean difference {self.mean:.2g}, distance {self.distance:.2g}{lost}"


@dataclass
class Moved:
    """What came of requests to two versions, added one by one.

    `rows` got labels of both versions, `relabelled` of them different ones. `answered` requests were answered by both,
    `failures` has those that the new version failed alone, by reason. One that the old version fails says nothing.
    """

    answered: int = 0
    rows: int = 0
    relabelled: int = 0
    left_out: int = 0
    failed_before: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    _old: dict[str, list[Array]] = field(default_factory=dict)
    _new: dict[str, list[Array]] = field(default_factory=dict)
    _kept: int = 0

    def add(self, signature: str, old: Answer, new: Answer) -> None:
        """Adds what both versions answered to a request."""
        if old.failure:
            self.failed_before += 1
            return
        if new.failure:
            self.failures[new.failure] += 1
            return
        self.answered += 1
        if (apart := _relabelled(old.outputs, new.outputs)) is not None:
            self.rows += len(apart)
            self.relabelled += int(apart.sum())
        for name, array in old.outputs.items():
            other = new.outputs.get(name)
            if other is not None and is_float(array) and array.shape == other.shape and array.size:
                self._keep(f"{signature} {name}", array, other)

    def moves(self) -> dict[str, Move]:
        """How far each output of numbers has moved, by `signature output`."""
        return {name: _move(self._old[name], self._new[name]) for name in self._old}

    def figure(self, settings: Drift, new: Reached, of: str = "") -> Figure:
        """All of it, judged; `of` says which requests, where they aren't golden ones."""
        share, moves = self.relabelled / self.rows if self.rows else 0.0, self.moves()
        said = [f"{self.relabelled} of {self.rows} rows get another label ({100 * share:.1f} %)"] if self.rows else []
        said += [f"{self._short(name, moves)}: {move}" for name, move in moves.items()]
        wrong = [f"{100 * settings.labels:g} % are allowed"] if settings.labels is not None else []
        wrong = wrong if settings.labels is not None and share > settings.labels else []
        if settings.scores is not None and any(move.lost or move.distance > settings.scores for move in moves.values()):
            wrong.append(f"a distance of {figure(settings.scores)} is allowed")
        if self.failures:
            ((reason, _),) = self.failures.most_common(1)
            wrong.append(f"version {new.version} alone fails {self.failures.total()} requests ({reason})")
        left_out = [f"{self.left_out} requests that one version does not take are left out"] if self.left_out else []
        text = f"drift{of and f' of {of}'}: " + "; ".join([*(said or ["no answers to compare"]), *left_out, *wrong])
        return Figure("drift", text, not wrong, new.instance.name, self._numbers(share, moves, settings))

    def _numbers(self, share: float, moves: Mapping[str, Move], settings: Drift) -> dict[str, Any]:
        return {
            "requests": self.answered,
            "rows": self.rows,
            "relabelled": self.relabelled,
            "share": share,
            "left_out": self.left_out,
            "failed_before": self.failed_before,
            "failures": dict(self.failures),
            "outputs": {
                name: {"mean": move.mean, "distance": move.distance, "lost": move.lost} for name, move in moves.items()
            },
            "allowed": {"labels": settings.labels, "scores": settings.scores},
        }

    def _short(self, name: str, moves: Mapping[str, Move]) -> str:
        """An output's name, with its signature where there are several."""
        signatures = {one.partition(" ")[0] for one in moves}
        return name if len(signatures) > 1 else name.partition(" ")[2]

    def _keep(self, name: str, old: Array, new: Array) -> None:
        if self._kept + old.size > MOST_NUMBERS:
            return
        self._kept += old.size
        for kept, array in ((self._old, old), (self._new, new)):
            flat = array.astype(np.float64)
            kept.setdefault(name, []).append(flat.reshape(len(flat) if flat.ndim else 1, -1))


def _relabelled(old: Answers, new: Answers) -> Array | None:
    """For each row whether it got another label, bool (rows,); None where there are no labels.

    Outputs that are labels themselves say it, and scores where there is none of these.
    """
    apart: dict[bool, list[Array]] = {True: [], False: []}
    for name in old:
        if name not in new or not old[name].ndim:
            continue
        before, after = labels_of(name, old), labels_of(name, new)
        if before is not None and after is not None and len(before) == len(after):
            apart[is_float(old[name])].append(differ(after, before))
    found = apart[False] or apart[True]
    rows = {len(one) for one in found}
    return np.any(found, axis=0) if len(rows) == 1 else None


def _move(old: list[Array], new: list[Array]) -> Move:
    """How far numbers have moved: each array has rows of columns."""
    from scipy.stats import wasserstein_distance

    if len({part.shape[1] for part in old}) > 1:
        old, new = ([part.reshape(-1, 1) for part in parts] for parts in (old, new))
    before, after = np.concatenate(old), np.concatenate(new)
    finite = np.isfinite(before) & np.isfinite(after)
    lost = int((np.isfinite(before) & ~np.isfinite(after)).sum())
    if not finite.any():
        return Move(0.0, 0.0, lost)
    distances = [
        wasserstein_distance(before[rows, column], after[rows, column])
        for column, rows in enumerate(finite.T)
        if rows.any()
    ]
    return Move(float(np.abs(after[finite] - before[finite]).mean()), float(np.mean(distances)), lost)

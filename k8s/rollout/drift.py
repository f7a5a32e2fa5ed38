"""Drift: how far outputs for the same requests differ between two versions, in labels and in distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfserving.clients.capture import CapturedRequest, distinct
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.golden import Golden, GoldenError, GoldenRequest, read_golden
from tfserving.foundation.quality import figure
from tfserving.foundation.tensors import Array
from tfserving.k8s.rollout.measures import Outputs, differ, is_float, labels_of
from tfserving.k8s.rollout.pairs import Clock, Response, paired
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import GateError, Reached
from tfserving.k8s.rollout.tolerances import between
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.quality import Drift

# Limit for all outputs together, which bounds the memory of 100,000 requests to 64 MB.
MOST_NUMBERS = 4_000_000


def drift(fleet: Fleet, model: str, old: Reached, new: Reached, pause: Callable[[float], None]) -> list[Figure]:
    """Send the golden requests of both versions to both of them, each once, and compare the outputs.

    Requests that don't match the signatures of one version are skipped. The figure fails beyond `rollout.drift`, and
    when only the new version fails a request. `pause` is called every second. Raises GateError when golden requests
    can't be read.
    """
    clock, folder = Clock(fleet.rollout.longest, pause), fleet.model_folder(model)
    try:
        golden = [read_golden(folder / str(reached.version)) for reached in (old, new)]
    except GoldenError as error:
        raise GateError(str(error)) from None
    with paired(old, new) as pair:
        moved = Moved(tolerances=between(fleet, model, pair))
        for request, defaults in _golden(model, golden):
            if clock.is_over():
                break
            if pair.takes(request):
                moved.add(request.signature, *pair.send(request, defaults))
            else:
                moved.left_out += 1
    return [moved.figure(fleet.rollout.drift, new)]


def _golden(model: str, golden: list[Golden]) -> Iterator[tuple[GoldenRequest, Mapping[str, Array] | None]]:
    """Yield the requests of all, each once, with the default values of inputs that they leave out."""
    defaults: dict[str, Mapping[str, Array]] = {}
    for one in golden:
        defaults |= one.defaults
    requests = (CapturedRequest(model, None, request) for one in golden for request in one.requests)
    for captured in distinct(requests):
        yield captured.request, defaults.get(captured.request.signature)


@dataclass(frozen=True)
class Move:
    """How far the numbers of an output have moved, in their own unit.

    `mean` is the mean absolute difference. `distance` is the Wasserstein distance between the distributions of old and
    new numbers, averaged over the columns of a row. `lost` counts the numbers that are finite only in the old version.
    """

    mean: float
    distance: float
    lost: int

    def __str__(self) -> str:
        lost = f", {self.lost} no longer finite" if self.lost else ""
        return f"mean difference {self.mean:.2g}, distance {self.distance:.2g}{lost}"


@dataclass
class Moved:
    """The differences between two versions, added request by request.

    `rows` have a label in both versions, and `relabelled` of them a different one. So have `near_ties`, but their
    scores are equal within `tolerances`, which are by element type. Both versions succeeded in `compared` requests.
    `failures` counts those that only the new version failed, by reason. A request that the old version fails isn't
    compared.
    """

    compared: int = 0
    rows: int = 0
    relabelled: int = 0
    near_ties: int = 0
    left_out: int = 0
    failed_before: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    _old: dict[str, list[Array]] = field(default_factory=dict)
    _new: dict[str, list[Array]] = field(default_factory=dict)
    _kept: int = 0

    def add(self, signature: str, old: Response, new: Response) -> None:
        """Add the responses of both versions to a request."""
        if old.failure:
            self.failed_before += 1
            return
        if new.failure:
            self.failures[new.failure] += 1
            return
        self.compared += 1
        if (apart := _relabelled(old.outputs, new.outputs)) is not None:
            tied = apart & _near_ties(old.outputs, new.outputs, self.tolerances, len(apart))
            self.rows += len(apart)
            self.near_ties += int(tied.sum())
            self.relabelled += int((apart & ~tied).sum())
        for name, array in old.outputs.items():
            other = new.outputs.get(name)
            if other is not None and is_float(array) and array.shape == other.shape and array.size:
                self._keep(f"{signature} {name}", array, other)

    def moves(self) -> dict[str, Move]:
        """Return how far each output of floats has moved, by `signature output`."""
        return {name: _move(self._old[name], self._new[name]) for name in self._old}

    def figure(self, settings: Drift, new: Reached, of: str = "") -> Figure:
        """Return all of it as a figure; `of` names the requests if they aren't golden ones."""
        share, moves = self.relabelled / self.rows if self.rows else 0.0, self.moves()
        found = [f"{self.relabelled} of {self.rows} rows change their label ({100 * share:.1f} %)"] if self.rows else []
        found += [f"{self.near_ties} more have another label at a near tie of scores"] if self.near_ties else []
        found += [f"{self._short(name, moves)}: {move}" for name, move in moves.items()]
        wrong: list[str] = []
        if settings.labels is not None and share > settings.labels:
            wrong.append(f"at most {100 * settings.labels:g} % are allowed")
        if settings.scores is not None and any(move.lost or move.distance > settings.scores for move in moves.values()):
            wrong.append(f"a distance of at most {figure(settings.scores)} is allowed")
        if self.failures:
            ((reason, _),) = self.failures.most_common(1)
            wrong.append(f"only version {new.version} fails {self.failures.total()} requests ({reason})")
        left_out = [f"{self.left_out} requests skipped that don't match both versions"] if self.left_out else []
        text = f"drift{of and f' of {of}'}: " + "; ".join([*(found or ["no outputs to compare"]), *left_out, *wrong])
        return Figure("drift", text, not wrong, new.instance.name, self._numbers(share, moves, settings))

    def _numbers(self, share: float, moves: Mapping[str, Move], settings: Drift) -> dict[str, Any]:
        return {
            "requests": self.compared,
            "rows": self.rows,
            "relabelled": self.relabelled,
            "near_ties": self.near_ties,
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
        """Return an output's name, with its signature if there are several."""
        signatures = {one.partition(" ")[0] for one in moves}
        return name if len(signatures) > 1 else name.partition(" ")[2]

    def _keep(self, name: str, old: Array, new: Array) -> None:
        if self._kept + old.size > MOST_NUMBERS:
            return
        self._kept += old.size
        for kept, array in ((self._old, old), (self._new, new)):
            flat = array.astype(np.float64)
            kept.setdefault(name, []).append(flat.reshape(len(flat) if flat.ndim else 1, -1))


def _relabelled(old: Outputs, new: Outputs) -> Array | None:
    """Return for each row whether its label changed, bool (rows,); None without labels.

    Outputs that are labels themselves decide; scores do only if there are none of these.
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


def _near_ties(old: Outputs, new: Outputs, tolerances: Mapping[str, Tolerance], rows: int) -> Array:
    """Return for each row whether the class of the highest score changed while all scores stayed within the tolerance.

    The result is bool, of shape (rows,).
    """
    found = np.zeros(rows, bool)
    for name, before in old.items():
        after, tolerance = new.get(name), tolerances.get(before.dtype.name)
        scores = is_float(before) and before.ndim == 2 and len(before) == rows  # noqa: PLR2004 - rows and classes
        if not scores or after is None or tolerance is None or before.shape != after.shape:
            continue
        with np.errstate(invalid="ignore"):
            close = np.abs(after.astype(np.float64) - before.astype(np.float64)) <= tolerance.allowed(before)
        found |= close.all(axis=1) & (after.argmax(axis=1) != before.argmax(axis=1))
    return found


def _move(old: list[Array], new: list[Array]) -> Move:
    """Return how far numbers have moved; the arrays have the shape (rows, columns)."""
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

"""What is exported: a model that a builder made, or a SavedModel that is there already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tfserving.export.checkpoints import Restored
from tfserving.export.edge_requests import Note
from tfserving.export.findings import Finding
from tfserving.export.given import Given
from tfserving.export.manifest import ServedSignature
from tfserving.export.servable import Signature
from tfserving.export.tolerances import Judge
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.quality import Evaluation, Metric


@dataclass(frozen=True)
class Asking:
    """How golden requests are made: the judge of outputs, the sizes of batches, and the rules that may be broken.

    `note` is told of edge values that are left out, `say` of anything else that happens.
    """

    judge: Judge
    batch_sizes: Sequence[int]
    allow: Collection[str]
    note: Note
    say: Callable[[str], None]


class Source(Protocol):
    """A model to export: `Built` and `Adopted` are."""

    @property
    def refused(self) -> Collection[str]:
        """Packages that have its code, which the fresh process may not import."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """By way of running it a common reason for a proof that fails."""

    @property
    def restored(self) -> Restored:
        """What came of restoring a checkpoint, if one was named."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Those that are served, with the live model's functions."""

    @property
    def metrics(self) -> Mapping[str, float | Metric]:
        """What is known of its quality."""

    @property
    def evaluation(self) -> Evaluation | None:
        """Labelled rows, if there are any."""

    @property
    def made(self) -> tuple[str, ...]:
        """The signatures whose golden requests are of random values."""

    def prepare(self, previous: Mapping[str, ServedSignature] | None, allow: Collection[str]) -> list[Finding]:
        """Makes it ready, and returns what is found to be wrong by then, against the `previous` signatures, too.

        Raises LintError for what shows only while it is traced, and is not among the rules to `allow`.
        """

    def requests(self, given: Iterable[Given], asking: Asking) -> Iterable[GoldenRequest]:
        """Its golden requests, with the live model's outputs: see `tfserving.export.golden.golden_requests`."""

    def write(self, folder: Path) -> dict[str, ServedSignature]:
        """Writes it to a version's `folder`, and returns what a server will read there."""

    def check(self) -> None:
        """Raises ServableError when its calls have shown that it was never built."""

    def release(self) -> None:
        """Checks it, and forgets the live model: from now on it can't be asked."""

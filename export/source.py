"""The source of an export: a model that a builder made, or an existing SavedModel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tfserving.export.arithmetic import Arithmetic
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
class Making:
    """How golden requests are made: the judge of outputs, the batch sizes, and the rules that may be broken.

    `leave_out` is called with edge values that no request contains, `note` with other messages.
    """

    judge: Judge
    batch_sizes: Sequence[int]
    allow: Collection[str]
    leave_out: Note
    note: Callable[[str], None]


class Source(Protocol):
    """A model to export: `Built` or `Adopted`."""

    @property
    def refused(self) -> Collection[str]:
        """Packages with the model's code, which the fresh process must not import."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """By way of running the version, a common reason for different outputs."""

    @property
    def restored(self) -> Restored:
        """What a restore of a checkpoint left out, if one was named."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures that are served, with the live model's functions."""

    @property
    def metrics(self) -> Mapping[str, float | Metric]:
        """The metrics of its quality."""

    @property
    def evaluation(self) -> Evaluation | None:
        """Labelled rows, if there are any."""

    @property
    def training_data(self) -> Mapping[str, str]:
        """The digests of what it was trained on, by name, as far as it is known."""

    @property
    def made(self) -> tuple[str, ...]:
        """The signatures whose golden requests contain random values."""

    def prepare(self, previous: Mapping[str, ServedSignature] | None, allow: Collection[str]) -> list[Finding]:
        """Prepare the model, and return the findings of lint so far, including changes of the `previous` signatures.

        Raises LintError for a finding that only tracing shows, unless its rule is one to `allow`.
        """

    def arithmetic(self) -> Arithmetic:
        """Return the products that its signatures compute; after `prepare`."""

    def requests(self, given: Iterable[Given], making: Making) -> Iterable[GoldenRequest]:
        """Return its golden requests with the live model's outputs; see `tfserving.export.golden.golden_requests`."""

    def write(self, folder: Path) -> dict[str, ServedSignature]:
        """Write it to a version's `folder`, and return the signatures that a server will read there."""

    def check(self) -> None:
        """Raise ServableError when its calls have shown that it was never built."""

    def release(self) -> None:
        """Check the live model, and release it: it can't be run from now on."""

"""What is exported: a model that a builder made, or a SavedModel that is there already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tfserving.export.findings import Finding
from tfserving.export.given import Given
from tfserving.export.manifest import ServedSignature
from tfserving.export.servable import Signature
from tfserving.export.tolerances import Judge
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.quality import Evaluation, Metric


class Source(Protocol):
    """A model to export: `Built` and `Adopted` are."""

    @property
    def refused(self) -> Collection[str]:
        """Packages that have its code, which the fresh process may not import."""

    @property
    def hint(self) -> str:
        """What follows the error of a proof that failed."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Those that can be asked, with functions that the live model answers by."""

    @property
    def metrics(self) -> Mapping[str, float | Metric]:
        """What is known of its quality."""

    @property
    def evaluation(self) -> Evaluation | None:
        """Labelled rows, if there are any."""

    @property
    def made(self) -> tuple[str, ...]:
        """The signatures whose golden requests are of random values."""

    def lint(self, previous: Mapping[str, ServedSignature] | None, allow: Collection[str]) -> list[Finding]:
        """What is wrong with it, and against the `previous` signatures, as far as it shows before it is written.

        Raises LintError for what shows only while it is traced, and is not among the rules to `allow`.
        """

    def requests(
        self,
        judge: Judge,
        batch_sizes: Sequence[int],
        given: Iterable[Given],
        note: Callable[[str], None],
        allow: Collection[str],
    ) -> Iterable[GoldenRequest]:
        """Its golden requests, with the live model's answers: see `tfserving.export.golden.golden_requests`."""

    def write(self, folder: Path) -> dict[str, ServedSignature]:
        """Writes it to a version's `folder`, and answers what a server will read there."""

    def check(self) -> None:
        """Raises ServableError when being asked has shown that it was never built."""

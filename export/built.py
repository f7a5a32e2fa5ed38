"""A servable that a builder made, as something that is exported: traced, and written as a SavedModel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfserving.export import restores, savedmodel
from tfserving.export.checkpoints import Restored
from tfserving.export.findings import Finding
from tfserving.export.given import Given
from tfserving.export.golden import golden_requests
from tfserving.export.lint import lint_signatures
from tfserving.export.manifest import ServedSignature
from tfserving.export.options import Effect, Option, improve
from tfserving.export.restores import Restores
from tfserving.export.servable import Servable, Signature
from tfserving.export.source import Asking
from tfserving.export.tracking import variables_of
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.quality import Evaluation, Metric

# Why a version mostly answers otherwise than the live model: as a function, which runs the graph as it was written, and
# in a session when it was right as a function.
REASONS = {
    "function": "a common reason: Python in the function that ran only once, when it was made a graph",
    "session": (
        "servers run the graph as TensorFlow's optimizer, Grappler, rewrites it; a common reason: constants that it "
        "multiplies with each other, too large or too small for their dtype"
    ),
}


class Built:
    """What a builder returned. Its functions are traced first, and written then."""

    # Its golden requests are the builder's.
    made: tuple[str, ...] = ()
    reasons = REASONS

    def __init__(self, builder: str, servable: Servable, watched: Restores, restored: Restored) -> None:
        """`servable` is what `builder`, 'module:function', returned; `watched` are the restores that it did itself.

        `restored` is what came of the checkpoint that was restored for it.
        """
        self.refused = {builder.partition(".")[0].partition(":")[0]}
        self.restored = restored
        self._servable = servable
        self._functions: dict[str, Any] = {}
        self._built = variables_of(servable.module)
        self._watched: Restores | None = watched

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Those that the builder declared."""
        return self._servable.signatures

    @property
    def metrics(self) -> Mapping[str, float | Metric]:
        """What the builder measured."""
        return self._servable.metrics

    @property
    def evaluation(self) -> Evaluation | None:
        """The labelled rows, if there are any."""
        return self._servable.evaluation

    def lint(self, previous: Mapping[str, ServedSignature] | None, allow: Collection[str]) -> list[Finding]:
        """Traces its functions, and looks at what they come to."""
        self._functions = savedmodel.trace(self._servable, allow)
        self.check()
        restores.check(self._watched or Restores(), self._servable.module, self._functions)
        # The optimizers that it knows are no longer needed.
        self._watched = None
        unbatched = {name for name, signature in self.signatures.items() if not signature.batched}
        return lint_signatures(savedmodel.described(self._servable, self._functions), previous, unbatched)

    def requests(self, given: Iterable[Given], asking: Asking) -> Iterator[GoldenRequest]:
        """Golden requests, cut from the builder's examples, and those that are `given`."""
        return golden_requests(self._servable, asking.judge, asking.batch_sizes, given, asking.note, asking.allow)

    def improve(
        self, requests: Sequence[GoldenRequest], options: Sequence[Option], scratch: Path
    ) -> tuple[Effect, ...]:
        """Changes its functions by the `options` that keep the answers, and says what each came to."""
        self._functions, effects = improve(self._servable, self._functions, requests, options, scratch)
        return effects

    def write(self, folder: Path) -> dict[str, ServedSignature]:
        """Writes its functions as a SavedModel."""
        return savedmodel.write_savedmodel(self._servable, self._functions, folder)

    def check(self) -> None:
        """Raises ServableError when a call made variables, which nobody trained."""
        savedmodel.check_built(self._servable, self._built)

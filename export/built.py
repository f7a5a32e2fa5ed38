"""A servable that a builder made, as something that is exported: traced, and written as a SavedModel."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfserving.export import restores, savedmodel
from tfserving.export.checkpoints import Restored, restore
from tfserving.export.findings import Finding
from tfserving.export.given import Given
from tfserving.export.golden import golden_requests
from tfserving.export.lint import lint_signatures
from tfserving.export.manifest import ServedSignature
from tfserving.export.options import Effect, Option, improve
from tfserving.export.restores import Restore
from tfserving.export.servable import Servable, Signature
from tfserving.export.sizes import check_constants
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

    def __init__(
        self,
        builder: str,
        servable: Servable,
        noted: list[Restore],
        checkpoint: Path | None,
        say: Callable[[str], None],
        *,
        partial: bool,
    ) -> None:
        """`servable` is what `builder`, 'module:function', returned; `noted` are the restores that it did itself.

        `checkpoint` is restored when its functions were traced; with `partial` it needn't have everything.
        """
        self.refused = {builder.partition(".")[0].partition(":")[0]}
        self.restored = Restored()
        self._servable = servable
        self._noted = noted
        self._checkpoint = checkpoint
        self._partial = partial
        self._say = say
        self._functions: dict[str, Any] = {}
        self._built = variables_of(servable.module)

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

    def prepare(self, previous: Mapping[str, ServedSignature] | None, allow: Collection[str]) -> list[Finding]:
        """Traces its functions, restores the checkpoint, and returns what is wrong with the signatures."""
        self._functions = savedmodel.trace(self._servable, allow)
        check_constants(self._functions)
        self.check()
        if self._checkpoint:
            self._say(f"restoring {self._checkpoint}")
            self.restored = restore(self._servable, self._checkpoint, self._functions, partial=self._partial)
            # What Python made of the variables, when the functions were traced, was made of other values.
            self._functions = savedmodel.trace(self._servable, allow)
        restores.check(self._noted, self._servable.module, self._functions)
        # What a restore knows, an optimizer say, is no longer needed.
        self._noted.clear()
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
        if self._servable.module is not None:
            savedmodel.check_built(self._servable, self._built)

    def release(self) -> None:
        """Checks the model, and forgets it; what the builder declared stays."""
        self.check()
        signatures = {name: replace(signature, function=_released) for name, signature in self.signatures.items()}
        self._servable = replace(self._servable, module=None, signatures=signatures, checkpoint={})
        self._functions, self._built = {}, {}
        # TensorFlow's functions refer to one another.
        gc.collect()


def _released(**_: Any) -> Any:
    raise AssertionError("the model was released")

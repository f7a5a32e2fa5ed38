"""A servable that a builder made, as the source of an export: traced, then written as a SavedModel."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfserving.export import restores, savedmodel
from tfserving.export.arithmetic import Arithmetic, traced_arithmetic
from tfserving.export.checkpoints import Restored, restore
from tfserving.export.findings import Finding
from tfserving.export.given import Given
from tfserving.export.golden import golden_requests
from tfserving.export.lint import lint_signatures
from tfserving.export.manifest import ServedSignature
from tfserving.export.options import Effect, Option, applied, improve
from tfserving.export.restores import Restore
from tfserving.export.servable import Servable, Signature
from tfserving.export.sizes import check_constants
from tfserving.export.source import Making
from tfserving.export.tracking import variables_of
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.quality import Evaluation, Metric

# The common reasons for outputs that differ from the live model's: as a function, which runs the graph as it was
# written, and in a session when the function's outputs were right.
REASONS = {
    "function": "a common reason is Python code in the function, which ran only once, while it was traced",
    "session": (
        "servers run the graph after TensorFlow's optimizer, Grappler, has rewritten it; a common reason is constants "
        "that it multiplies with each other and that overflow or underflow their dtype"
    ),
}


class Built:
    """The servable that a builder returned."""

    # Its golden requests contain the builder's examples.
    made: tuple[str, ...] = ()
    reasons = REASONS

    def __init__(
        self,
        builder: str,
        servable: Servable,
        noted: list[Restore],
        checkpoint: Path | None,
        now: Callable[[str], None],
        *,
        partial: bool,
    ) -> None:
        """Take the `servable` that `builder`, 'module:function', returned, and the restores that it did itself.

        `checkpoint` is restored after its functions are traced. With `partial` the checkpoint may be incomplete. `now`
        is called with each step.
        """
        self.refused = {builder.partition(".")[0].partition(":")[0]}
        self.restored = Restored()
        self._servable = servable
        self._noted = noted
        self._checkpoint = checkpoint
        self._partial = partial
        self._now = now
        # As they were traced, and with the options that are applied.
        self._traced: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}
        self._built = variables_of(servable.module)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures that the builder declared."""
        return self._servable.signatures

    @property
    def metrics(self) -> Mapping[str, float | Metric]:
        """The metrics that the builder measured."""
        return self._servable.metrics

    @property
    def evaluation(self) -> Evaluation | None:
        """The labelled rows, if there are any."""
        return self._servable.evaluation

    @property
    def training_data(self) -> Mapping[str, str]:
        """The digests of what it was trained on, by name."""
        return self._servable.training_data

    def prepare(self, previous: Mapping[str, ServedSignature] | None, allow: Collection[str]) -> list[Finding]:
        """Trace its functions, restore the checkpoint, and return the findings of lint about the signatures."""
        self._functions = savedmodel.trace(self._servable, allow)
        check_constants(self._functions)
        self.check()
        if self._checkpoint:
            self._now(f"restoring {self._checkpoint}")
            self.restored = restore(self._servable, self._checkpoint, self._functions, partial=self._partial)
            # Python code in the functions may have used the values from before the restore.
            self._functions = savedmodel.trace(self._servable, allow)
        self._traced = self._functions
        restores.check(self._noted, self._servable.module, self._functions)
        # The objects that a restore refers to, such as an optimizer, are no longer needed.
        self._noted.clear()
        unbatched = {name for name, signature in self.signatures.items() if not signature.batched}
        return lint_signatures(savedmodel.described(self._servable, self._functions), previous, unbatched)

    def arithmetic(self) -> Arithmetic:
        """Return the products in its traced functions."""
        return traced_arithmetic(self._traced.values())

    def requests(self, given: Iterable[Given], making: Making) -> Iterator[GoldenRequest]:
        """Return golden requests made of the builder's examples, and those that are `given`."""
        return golden_requests(self._servable, making.judge, making.batch_sizes, given, making.leave_out, making.allow)

    def improve(
        self,
        requests: Sequence[GoldenRequest],
        options: Sequence[Option],
        scratch: Path,
        table: Mapping[str, Tolerance],
    ) -> tuple[Effect, ...]:
        """Apply the `options` that keep the outputs within the tolerances of `table`; return the effect of each."""
        self._functions, effects = improve(self._servable, self._traced, requests, options, scratch, table)
        return effects

    def use(self, options: Collection[Option]) -> None:
        """Apply these of the options that `improve` kept, instead of all."""
        self._functions = applied(self._traced, options)

    def write(self, folder: Path) -> dict[str, ServedSignature]:
        """Write its functions as a SavedModel."""
        return savedmodel.write_savedmodel(self._servable, self._functions, folder)

    def check(self) -> None:
        """Raise ServableError when a call created variables: they hold no trained values."""
        if self._servable.module is not None:
            savedmodel.check_built(self._servable, self._built)

    def release(self) -> None:
        """Check the model, and release it; the declarations stay."""
        self.check()
        signatures = {name: replace(signature, function=_released) for name, signature in self.signatures.items()}
        self._servable = replace(self._servable, module=None, signatures=signatures, checkpoint={})
        self._traced, self._functions, self._built = {}, {}, {}
        # TensorFlow's functions refer to each other.
        gc.collect()


def _released(**_: Any) -> Any:
    raise AssertionError("the model was released")

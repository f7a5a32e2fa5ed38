"""Writes a version and proves it, and drops those options with which the proof disagrees.

    with all options that the golden outputs allow ──► proven
            └──► different ──► without options ──► with one more each time, if that is proven

The last version that is proven is the one that is published.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType

from tfserving.export.arithmetic import Arithmetic, arithmetic_of
from tfserving.export.built import Built
from tfserving.export.empty_requests import check_empty
from tfserving.export.errors import ExportError, ServableError
from tfserving.export.findings import Rules
from tfserving.export.graph import read_graph
from tfserving.export.lint import lint_graph, lint_outputs
from tfserving.export.manifest import ServedSignature
from tfserving.export.options import Effect, Option, judge_with
from tfserving.export.proof import FreshProcess, Proof, is_large, prove
from tfserving.export.source import Source
from tfserving.export.staging import Staging
from tfserving.export.steps import Steps
from tfserving.export.tolerances import Judge
from tfserving.foundation.golden import GoldenRequest


@dataclass(frozen=True)
class Proven:
    """A version on disk whose outputs are the live model's, its golden requests, and the judge that compared them."""

    signatures: dict[str, ServedSignature]
    golden: Sequence[GoldenRequest]
    proof: Proof
    judge: Judge
    arithmetic: Arithmetic


class Prover:
    """Writes and proves the version of one export. Use it in a `with` statement."""

    def __init__(
        self,
        source: Source,
        requests: Iterable[GoldenRequest],
        staging: Staging,
        steps: Steps,
        rules: Rules,
        allow: Collection[str],
        judge: Judge,
        fresh: FreshProcess,
    ) -> None:
        """Use the golden `requests`, which may be made meanwhile, with `judge`. With options, they are a list."""
        self._source, self._requests, self._staging, self._steps = source, requests, staging, steps
        self._rules, self._allow, self._judge, self._fresh = rules, allow, judge, fresh
        self._processes = ExitStack()
        # Whether the live model may be needed for another attempt.
        self._repeats = False

    def __enter__(self) -> Prover:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.__exit__(kind, error, trace)

    def prove(self, effects: Sequence[Effect]) -> tuple[Proven, tuple[Effect, ...]]:
        """Write and prove the version with the options that have an effect, and return it with those that it has.

        Raises ExportError when the version fails without options, too.
        """
        options = tuple(effect.option for effect in effects if effect.kept)
        self._repeats = bool(options)
        if not options:
            return self._attempt(), tuple(effects)
        try:
            return self._attempt(options), tuple(effects)
        except ExportError as error:
            failed = {options: error}
        proven = self._again(())
        settled: tuple[Option, ...] = ()
        on_disk = settled
        reasons: dict[Option, str] = {}
        for option in options:
            wanted = (*settled, option)
            try:
                if wanted in failed:
                    raise failed[wanted]
                on_disk = wanted
                proven = self._again(wanted)
                settled = wanted
            except ExportError as error:
                reasons[option] = str(error).splitlines()[0]
        if on_disk != settled:
            proven = self._again(settled)
        return proven, tuple(replace(one, reason=reasons.get(one.option, one.reason)) for one in effects)

    def _again(self, options: tuple[Option, ...]) -> Proven:
        """Write and prove the version with other options than before."""
        assert isinstance(self._source, Built)
        try:
            self._source.use(options)
        except Exception as error:
            # TensorFlow can refuse an option without the one before it.
            raise ServableError(f"{options[-1]}: {type(error).__name__}: {error}") from error
        shutil.rmtree(self._staging.version_folder)
        self._staging.version_folder.mkdir()
        if self._fresh.has_ended:
            # The previous version crashed it.
            self._fresh = self._processes.enter_context(FreshProcess())
        return self._attempt(options)

    def _attempt(self, options: tuple[Option, ...] = ()) -> Proven:
        source, steps, folder = self._source, self._steps, self._staging.version_folder
        with steps.step("write", "writing the SavedModel"):
            signatures = source.write(folder)
        left_out = len(steps.left_out)
        judge = self._judge
        if self._repeats:
            # Differences in an attempt that fails must not widen the tolerances.
            judge = judge_with(options, judge.tolerances) if "half" in options else judge.copy()
        with steps.step("prove", "running the golden requests in the live model and a fresh process"):
            found: list[Arithmetic] = []

            def linted() -> Iterator[GoldenRequest]:
                # The fresh process loads the version meanwhile.
                graph = read_graph(folder)
                self._rules.require(lint_graph(graph, signatures))
                found.append(arithmetic_of(graph.nodes(name) for name in signatures))
                yield from self._requests

            requests: Iterable[GoldenRequest] = steps.counted(linted())
            if not self._repeats and is_large(folder):
                # The live model is released before the fresh process loads a copy.
                requests = list(requests)
                source.release()
            try:
                golden, proof = prove(
                    self._fresh, folder, signatures, requests, judge, source.refused, steps.leave_out, source.reasons
                )
                source.check()
                self._rules.require(lint_outputs(golden))
                if "empty-request" not in self._allow:
                    check_empty(self._fresh, signatures, golden)
            except ExportError:
                # The next attempt finds its own.
                del steps.left_out[left_out:]
                raise
        return Proven(signatures, golden, proof, judge, found[0])

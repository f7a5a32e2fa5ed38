"""Sends the golden requests of one version in several ways, and compares the outputs with the expected ones."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from tfserving.clients.busy import Patient, is_busy
from tfserving.clients.errors import NotFound, ResourceExhausted, ServingError
from tfserving.clients.golden import golden_outputs
from tfserving.clients.verification.batches import batches, row_count
from tfserving.clients.verification.near_ties import judged
from tfserving.clients.verification.settings import Settings
from tfserving.clients.verification.tolerance_sets import ToleranceSet
from tfserving.clients.verification.verdicts import AT_A_TIME, WAY_NAMES, Row, Tally, Way, reason_of, row_of
from tfserving.foundation.compare import Difference, compare
from tfserving.foundation.golden import Golden, GoldenRequest
from tfserving.foundation.tensors import Array


class MovedError(Exception):
    """The version is no longer served."""


class Comparison:
    """The golden requests of one version, sent in several ways over one protocol.

    `failures` holds the first failed call of each signature, `compared` the requests with compared outputs.
    """

    def __init__(
        self,
        server: Patient,
        model: str,
        version: int | None,
        golden: Golden,
        settings: Settings,
        tolerances: ToleranceSet,
    ) -> None:
        self.failures: dict[str, Row] = {}
        self.compared: set[int] = set()
        self._server = server
        self._model = model
        self._version = version
        self._golden = golden
        self._settings = settings
        self._tolerances = tolerances
        self._hints: dict[tuple[str, str], str] = {}
        self._tallies: dict[tuple[str, str], dict[Way, Tally]] = {}
        self._left_out: dict[str, dict[Way, str]] = {}

    def go(self, way: Way) -> None:
        """Send every request in this way. Raises MovedError when the version is no longer served."""
        {"alone": self._alone, "batch": self._batch, "concurrent": self._concurrent}[way]()

    def rows(self) -> list[Row]:
        """Return a row for each output, and for each signature that failed."""
        tolerances = self._tolerances
        empty = Row(
            *(self._model, self._server.client.protocol, self._version),
            device=tolerances.device,
            tolerances=tolerances.source,
        )
        found = [
            row_of(
                replace(empty, signature=signature, output=output, hint=self._hints.get((signature, output), "")),
                tallies,
                self._left_out.get(signature, {}),
            )
            for (signature, output), tallies in self._tallies.items()
        ]
        return [*found, *self.failures.values()]

    def _alone(self) -> None:
        for number, request in enumerate(self._golden.requests):
            served = self._outputs(request, f"request {number}")
            if served is not None:
                self._compare("alone", number, served, self._expected(request), f"request {number}")
            elif self.failures[request.signature].unreachable:
                # The other requests would only time out as well.
                return

    def _batch(self) -> None:
        """Send requests of one signature as one batch, and compare the part of each."""
        for signature in dict.fromkeys(request.signature for request in self._golden.requests):
            requests = [
                (number, request)
                for number, request in enumerate(self._golden.requests)
                if request.signature == signature
            ]
            if signature in self.failures:
                continue
            if signature in self._golden.unbatched:
                self._left_out.setdefault(signature, {})["batch"] = "it accepts one example a request"
                continue
            try:
                groups = list(batches(requests)) if self._is_batched(signature) else []
            except ResourceExhausted as error:
                reason = f"in a batch, its metadata: {reason_of(error)}"
                self.failures[signature] = self._failure(requests[0][1], reason, error)
                continue
            if not groups:
                reason = "its inputs and outputs don't have a variable number of rows"
                self._left_out.setdefault(signature, {})["batch"] = reason
            for group in groups:
                self._compare_batch([number for number, _ in group], [request for _, request in group])

    def _is_batched(self, signature: str) -> bool:
        """Return whether each input has a variable number of rows. Raises ResourceExhausted for a busy server."""
        client, model, version = self._server.client, self._model, self._version
        try:
            metadata = self._server.call(
                lambda seconds: client.metadata(model, version=version, timeout=seconds), self._settings.timeout
            )
        except ServingError as error:
            if is_busy(error):
                raise
            return False
        found = metadata.signatures.get(signature)
        return found is not None and all(not info.shape or info.shape[0] is None for info in found.inputs.values())

    def _compare_batch(self, numbers: list[int], requests: list[GoldenRequest]) -> None:
        sizes = [row_count(request) or 0 for request in requests]
        names = list(requests[0].inputs)
        inputs = {name: np.concatenate([request.inputs[name] for request in requests]) for name in names}
        batch = replace(requests[0], inputs=inputs)
        where = f"requests {', '.join(map(str, dict.fromkeys(numbers)))} as one"
        served, expected = self._outputs(batch, where), self._expected(batch, alone=False)
        if served is None:
            return
        total, start = sum(sizes), 0
        for number, request, size in zip(numbers, requests, sizes, strict=True):
            rows = slice(start, start + size)
            start += size
            part = {name: it[rows] if it.ndim and len(it) == total else it for name, it in served.items()}
            its = request.outputs if self._settings.against is None else None
            if expected is not None:
                its = {name: it[rows] if it.ndim and len(it) == total else it for name, it in expected.items()}
            self._compare("batch", number, part, its, f"request {number}, {where}")

    def _concurrent(self) -> None:
        """Send requests of all signatures at the same time, repeated until there are enough of them."""
        working = [
            (number, request)
            for number, request in enumerate(self._golden.requests)
            if request.signature not in self.failures
        ]
        rounds = -(-AT_A_TIME // len(working)) if working else 0
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for (number, request), served in zip(
                working * rounds, pool.map(lambda it: self._outputs(it[1], ""), working * rounds), strict=True
            ):
                where = f"request {number}, {WAY_NAMES['concurrent']}"
                if served is not None:
                    self._compare("concurrent", number, served, self._expected(request), where)

    def _expected(self, request: GoldenRequest, *, alone: bool = True) -> Mapping[str, Array] | None:
        """Return the expected outputs: the golden ones, or the other server's. None for the golden ones of a batch."""
        other = self._settings.against
        if other is None:
            return request.outputs if alone else None
        try:
            return self._send(other, request)
        except ServingError as error:
            reason = f"the other server, {other.client.server}: {reason_of(error)}"
            self.failures.setdefault(request.signature, self._failure(request, reason, error))
            return None

    def _outputs(self, request: GoldenRequest, where: str) -> Mapping[str, Array] | None:
        """Return the server's outputs for `request`. An error is added to the failures; None is returned then.

        Raises MovedError when the version is no longer served.
        """
        try:
            return self._send(self._server, request)
        except NotFound as error:
            raise MovedError(error.text) from None
        except ServingError as error:
            reason = f"{where or WAY_NAMES['concurrent']}: {reason_of(error)}"
            self.failures.setdefault(request.signature, self._failure(request, reason, error))
            return None

    def _send(self, server: Patient, request: GoldenRequest) -> Mapping[str, Array]:
        defaults = self._golden.defaults.get(request.signature)

        def send(seconds: float) -> Mapping[str, Array]:
            return golden_outputs(
                server.client, self._model, request, version=self._version, defaults=defaults, timeout=seconds
            )

        return server.call(send, self._settings.timeout)

    def _failure(self, request: GoldenRequest, reason: str, error: ServingError) -> Row:
        return Row(
            self._model, self._server.client.protocol, self._version, request.signature, reason=reason, code=error.code
        )

    def _compare(
        self, way: Way, number: int, served: Mapping[str, Array], expected: Mapping[str, Array] | None, where: str
    ) -> None:
        if expected is None:
            return
        self.compared.add(number)
        signature = self._golden.requests[number].signature
        source = "the golden outputs" if self._settings.against is None else "those of the other server"
        for name in sorted({*served, *expected}):
            if name not in served:
                difference = Difference("different", reason="the response lacks it")
            elif name not in expected:
                difference = Difference("different", reason=f"the response has it, {source} lack it")
            else:
                difference = compare(served[name], expected[name], self._tolerances.of(expected[name]))
                difference = judged(difference, name, served, expected, self._tolerances.of)
                if hint := self._tolerances.hint(difference, expected[name]):
                    self._hints[signature, name] = hint
            tallies = self._tallies.setdefault((signature, name), {})
            tallies.setdefault(way, Tally()).add(difference, where)

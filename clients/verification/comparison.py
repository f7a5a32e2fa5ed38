"""The golden requests of one version, sent in several ways, and their answers compared with those that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from tfserving.clients.busy import Patient, is_busy
from tfserving.clients.errors import NotFound, ResourceExhausted, ServingError
from tfserving.clients.golden import golden_outputs
from tfserving.clients.verification.batches import batches, row_count
from tfserving.clients.verification.settings import Settings
from tfserving.clients.verification.verdicts import AT_A_TIME, WAY_NAMES, Row, Tally, Way, reason_of, row_of
from tfserving.foundation.compare import Difference, compare
from tfserving.foundation.golden import Golden, GoldenRequest
from tfserving.foundation.tensors import Array


class MovedError(Exception):
    """The version is not served any more."""


class Comparison:
    """The golden requests of one version, asked in several ways over one protocol.

    `failures` has by signature the first call that failed, `asked` the requests that were answered.
    """

    def __init__(self, server: Patient, model: str, version: int | None, golden: Golden, settings: Settings) -> None:
        self.failures: dict[str, Row] = {}
        self.asked: set[int] = set()
        self._server = server
        self._model = model
        self._version = version
        self._golden = golden
        self._settings = settings
        self._tallies: dict[tuple[str, str], dict[Way, Tally]] = {}
        self._left_out: dict[str, dict[Way, str]] = {}

    def go(self, way: Way) -> None:
        """Asks every request in this way. Raises MovedError when the version isn't served any more."""
        {"alone": self._alone, "batch": self._batch, "concurrent": self._concurrent}[way]()

    def rows(self) -> list[Row]:
        """A row for each output, and for each signature that failed."""
        empty = Row(self._model, self._server.client.protocol, self._version)
        found = [
            row_of(replace(empty, signature=signature, output=output), tallies, self._left_out.get(signature, {}))
            for (signature, output), tallies in self._tallies.items()
        ]
        return [*found, *self.failures.values()]

    def _alone(self) -> None:
        for number, request in enumerate(self._golden.requests):
            served = self._answer(request, f"request {number}")
            if served is not None:
                self._compare("alone", number, served, self._wanted(request), f"request {number}")
            elif self.failures[request.signature].unreachable:
                # The others would only wait for the same.
                return

    def _batch(self) -> None:
        """Requests of one signature as one, and each one's part of the answer compared."""
        for signature in dict.fromkeys(request.signature for request in self._golden.requests):
            requests = [
                (number, request)
                for number, request in enumerate(self._golden.requests)
                if request.signature == signature
            ]
            if signature in self.failures:
                continue
            if signature in self._golden.unbatched:
                self._left_out.setdefault(signature, {})["batch"] = "it takes one example a request"
                continue
            try:
                groups = list(batches(requests)) if self._takes_any_rows(signature) else []
            except ResourceExhausted as error:
                reason = f"in a batch, its metadata: {reason_of(error)}"
                self.failures[signature] = self._failure(requests[0][1], reason, error)
                continue
            if not groups:
                reason = "its inputs and outputs don't go by rows, of which it takes any number"
                self._left_out.setdefault(signature, {})["batch"] = reason
            for group in groups:
                self._compare_batch([number for number, _ in group], [request for _, request in group])

    def _takes_any_rows(self, signature: str) -> bool:
        """Whether each input has any number of rows. Raises ResourceExhausted when the server stays busy."""
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
        served, wanted = self._answer(batch, where), self._wanted(batch, alone=False)
        if served is None:
            return
        total, start = sum(sizes), 0
        for number, request, size in zip(numbers, requests, sizes, strict=True):
            rows = slice(start, start + size)
            start += size
            part = {name: it[rows] if it.ndim and len(it) == total else it for name, it in served.items()}
            its = request.outputs if self._settings.against is None else None
            if wanted is not None:
                its = {name: it[rows] if it.ndim and len(it) == total else it for name, it in wanted.items()}
            self._compare("batch", number, part, its, f"request {number}, {where}")

    def _concurrent(self) -> None:
        """Requests of all signatures, over and over until there are enough of them, at the same time."""
        working = [
            (number, request)
            for number, request in enumerate(self._golden.requests)
            if request.signature not in self.failures
        ]
        rounds = -(-AT_A_TIME // len(working)) if working else 0
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for (number, request), served in zip(
                working * rounds, pool.map(lambda it: self._answer(it[1], ""), working * rounds), strict=True
            ):
                where = f"request {number}, {WAY_NAMES['concurrent']}"
                if served is not None:
                    self._compare("concurrent", number, served, self._wanted(request), where)

    def _wanted(self, request: GoldenRequest, *, alone: bool = True) -> Mapping[str, Array] | None:
        """The answer that is wanted: the golden one, or the other server's. None for a batch's golden one."""
        other = self._settings.against
        if other is None:
            return request.outputs if alone else None
        try:
            return self._ask(other, request)
        except ServingError as error:
            reason = f"{other.client.server} answers {reason_of(error)}"
            self.failures.setdefault(request.signature, self._failure(request, reason, error))
            return None

    def _answer(self, request: GoldenRequest, where: str) -> Mapping[str, Array] | None:
        """What is served for `request`; None, and a failure noted, for an error.

        Raises MovedError when the version isn't served any more.
        """
        try:
            return self._ask(self._server, request)
        except NotFound as error:
            raise MovedError(error.text) from None
        except ServingError as error:
            reason = f"{where or WAY_NAMES['concurrent']}: {reason_of(error)}"
            self.failures.setdefault(request.signature, self._failure(request, reason, error))
            return None

    def _ask(self, server: Patient, request: GoldenRequest) -> Mapping[str, Array]:
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
        self, way: Way, number: int, served: Mapping[str, Array], wanted: Mapping[str, Array] | None, where: str
    ) -> None:
        if wanted is None:
            return
        self.asked.add(number)
        signature = self._golden.requests[number].signature
        golden = "golden" if self._settings.against is None else "other server's"
        for name in sorted({*served, *wanted}):
            if name not in served:
                difference = Difference("different", reason="it is not in the answer")
            elif name not in wanted:
                difference = Difference("different", reason=f"it is in the answer, but not in the {golden} one")
            else:
                tolerance = self._settings.tolerance or self._golden.tolerances.get(wanted[name].dtype.name)
                difference = compare(served[name], wanted[name], tolerance)
            tallies = self._tallies.setdefault((signature, name), {})
            tallies.setdefault(way, Tally()).add(difference, where)

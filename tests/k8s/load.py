"""A steady load that checks every answer: an open loop, over both protocols, by label."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tfserving.clients import connect
from tfserving.clients.errors import ServingError


@dataclass
class Load:
    """`rate` requests a second to label `stable` of `scaled`, whose version N answers N times the sum of a row.

    `host` is the name that REST is asked by, where it isn't the address.
    """

    addresses: tuple[str, ...]
    rate: float = 50.0
    model: str = "scaled"
    host: str | None = None
    versions: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._over = threading.Event()
        self._clients = [
            connect(address, timeout=20, metadata={"host": self.host} if self.host and "http" in address else None)
            for address in self.addresses
        ]
        self._pool = ThreadPoolExecutor(16)
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        return self

    def end(self) -> None:
        """Sends no more."""
        self._over.set()

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join()
        self._pool.shutdown()
        for client in self._clients:
            client.close()

    @property
    def answered(self) -> int:
        return sum(self.versions.values())

    def p99(self, since: int = 0) -> float:
        """Of the answers after so many, in seconds."""
        found = sorted(self.seconds[since:])
        return found[int(0.99 * len(found))]

    def _send(self) -> None:
        started, sent = time.monotonic(), 0
        while not self._over.wait(max(0.0, started + sent / self.rate - time.monotonic())):
            self._pool.submit(self._ask, sent)
            sent += 1

    def _ask(self, number: int) -> None:
        client = self._clients[number % len(self._clients)]
        started = time.monotonic()
        try:
            answer = client.predict(self.model, [[1.0, 2.0, float(number % 100)]], label="stable")
        except ServingError as error:
            self.failures.append(f"{client.protocol}: {error!r}")
            return
        self.seconds.append(time.monotonic() - started)
        assert answer.version is not None
        wanted = answer.version * (3.0 + number % 100)
        if answer.outputs["sums"].tolist() != [wanted]:
            self.failures.append(f"{client.protocol}: version {answer.version}: {answer.outputs} is not {wanted}")
        self.versions[answer.version] = self.versions.get(answer.version, 0) + 1

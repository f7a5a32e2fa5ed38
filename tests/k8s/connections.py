"""Clients that keep a connection and never retry, over REST and gRPC: they lose what a server doesn't answer.

A REST client opens a connection again only where the response before said `Connection: close`, or where it was closed
before the client sent a request.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tfserving.clients import Retries, connect
from tfserving.clients.errors import ServingError


@dataclass
class Kept:
    """`rate` requests a second to the model `scaled` at an address, of so many clients of each protocol."""

    address: str
    rate: float = 80.0
    clients: int = 8
    lost: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    # How often a response said that it is the last one of its connection.
    closed: int = 0

    def __enter__(self) -> Kept:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=send, args=(number,))
            for send in (self._send_rest, self._send_grpc)
            for number in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def sent(self) -> int:
        return sum(self.answered.values()) + len(self.lost)

    def _pause(self, number: int) -> bool:
        """Whether to go on, after a pause that isn't the same for any two clients."""
        return not self._over.wait(2 * self.clients / self.rate * (0.7 + 0.6 * number / self.clients))

    def _send_rest(self, number: int) -> None:
        connection = http.client.HTTPConnection(self.address, 8501, timeout=30)
        body = json.dumps({"instances": [[1.0, 2.0, number]]})
        while self._pause(number):
            began = time.monotonic()
            try:
                connection.request("POST", "/v1/models/scaled:predict", body)
                response = connection.getresponse()
                text = response.read()
                # Any version's sums, of 3 and the number.
                right = response.status == 200 and not json.loads(text)["predictions"][0] % (3.0 + number)
                self._note("REST", began, "" if right else f"{response.status} {text.decode()}")
                self.closed += response.will_close
            except (OSError, http.client.HTTPException) as error:
                self._note("REST", began, repr(error))
                connection.close()

    def _send_grpc(self, number: int) -> None:
        with connect(f"grpc://{self.address}:8500", timeout=30, retries=Retries(attempts=1)) as client:
            while self._pause(number):
                began = time.monotonic()
                try:
                    sums = client.predict("scaled", [[1.0, 2.0, float(number)]]).outputs["sums"].tolist()
                    self._note("gRPC", began, "" if not sums[0] % (3.0 + number) else str(sums))
                except ServingError as error:
                    self._note("gRPC", began, repr(error))

    def _note(self, protocol: str, began: float, wrong: str) -> None:
        with self._lock:
            if wrong:
                self.lost.append(f"{protocol}, after {time.monotonic() - began:.3f} s: {wrong}")
            else:
                self.answered[protocol] += 1

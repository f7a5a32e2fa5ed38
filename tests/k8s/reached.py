"""A server that tests started, as rollouts see one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from tfserving.foundation.devices import Device


@dataclass(frozen=True)
class Server:
    """Where its gRPC is, if that is to be asked, and its REST. It is never changed."""

    name: str
    grpc: str | None
    rest: str
    device: Device | None = None

    def configure(self, *_: object, **__: object) -> NoReturn:
        raise AssertionError(f"{self.name} is to serve what it serves")

    def leaves(self) -> bool:
        return False

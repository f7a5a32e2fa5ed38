"""The sender of a request that came through proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


def read_networks(listed: str) -> Networks:
    """Returns the addresses and networks in a list with commas. Raises ValueError for other entries."""
    return [ipaddress.ip_network(part.strip()) for part in listed.split(",") if part.strip()]


def sender(peer: str, forwarded: bytes, proxies: Networks) -> str:
    """Returns the last address in `forwarded`, an X-Forwarded-For header, that isn't a proxy; `peer` if that isn't one.

    Every proxy appends the address of its client. Entries before those of trusted proxies may be forged.
    """
    found = peer
    host = peer.rpartition(":")[0].strip("[]")
    for address in reversed(forwarded.decode("latin-1").split(",")):
        if not _is_proxy(host, proxies):
            break
        found = host = address.strip()
    return found


def _is_proxy(host: str, proxies: Networks) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in proxies)

from __future__ import annotations

import pytest

from tfserving.serving.embedded.rest.proxies import read_networks, sender

PROXIES = read_networks("10.0.0.1, 10.1.0.0/16,fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("9.9.9.9:1", "1.1.1.1", "9.9.9.9:1"),
        ("10.0.0.2:1", "1.1.1.1", "10.0.0.2:1"),
        ("10.0.0.1:1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1:1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
        ("10.0.0.1:1", "6.6.6.6, 1.1.1.1, 10.1.2.3", "1.1.1.1"),
        ("10.0.0.1:1", "10.1.2.3, 10.1.2.4", "10.1.2.3"),
        ("10.0.0.1:1", "1.1.1.1, unknown, 10.1.2.3", "unknown"),
        ("fd00::1:1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_the_sender_is_the_last_that_is_no_proxy(peer: str, forwarded: str, client: str) -> None:
    assert sender(peer, forwarded.encode(), PROXIES) == client


def test_a_host_with_more_bits_than_its_network_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits"):
        read_networks("10.1.0.1/16")

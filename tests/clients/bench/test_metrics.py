"""The server's own time."""

from __future__ import annotations

from tfserving.clients.bench.metrics import ServerTime


def test_the_servers_own_time_is_that_of_the_requests_in_between() -> None:
    assert ServerTime(5000, 4).mean_ms(ServerTime(1000, 2)) == 2
    assert ServerTime(5000, 4).mean_ms(ServerTime(5000, 4)) is None

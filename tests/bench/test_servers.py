"""The servers that are measured return the right result, and what h2load prints is read rightly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import servers
from tests.bench.load import Server, running
from tests.bench.saved_models import Model, save


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny model."""
    return save(tmp_path_factory.mktemp("models"), "tiny")


@pytest.fixture
def echo(tiny: Model) -> Iterator[Server]:
    """grpcio's echo of the right response."""
    with running({"echo": servers.echo(tiny)}) as there:
        yield there["echo"]


def test_the_embedded_server_returns_what_the_model_returns_in_process(tiny: Model) -> None:
    with running({"embedded": servers.embedded(tiny, rest=True)}) as there:
        assert there["embedded"].sent.send(there["embedded"].port, tiny).shape == (1, 10)


def test_a_server_with_another_result_is_not_measured(tiny: Model, tmp_path: Path) -> None:
    wrong = Model(tiny.name, tmp_path / tiny.name, tiny.values, tiny.expected + 1)
    server = servers.echo(wrong)
    server.model = tiny

    with pytest.raises(SystemExit, match="doesn't serve: it returned"), running({"echo": server}):
        pass


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not on PATH")
def test_a_load_has_the_figures_of_the_server_and_of_its_client(echo: Server) -> None:
    figures = echo.load(4, seconds=0.2)

    assert set(figures) == {"rate", "cpu_us", "client_us", "p50_ms", "p99_ms", "memory_mb"}
    assert all(value > 0 for value in figures.values())
    assert figures["p50_ms"] < figures["p99_ms"]
    # With four requests at a time the mean is 4 s divided by the rate, and no median is twice a mean.
    assert figures["rate"] * figures["p50_ms"] <= 8000
    assert figures["rate"] * figures["p99_ms"] >= 400

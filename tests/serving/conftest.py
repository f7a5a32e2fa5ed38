"""Which model servers the tests of servers run on: the embedded one, and the real one where this machine has it."""

from __future__ import annotations

import pytest

from tests.servers import ModelServer, model_servers


@pytest.fixture(scope="session", params=model_servers(), ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> ModelServer:
    """A model server that this machine has. Tests of what only the embedded one has are marked `embedded_only`."""
    server: ModelServer = request.param
    return server

"""What the tests of `serving` share: the model servers that this machine has, and certificates."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from tests.authority import Authority
from tests.servers import ModelServer, model_servers


@pytest.fixture(scope="session", params=model_servers(), ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> ModelServer:
    """A model server that this machine has. A test of what only the embedded one has is `embedded_only`."""
    server: ModelServer = request.param
    return server


@pytest.fixture(scope="session")
def first_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Made once: keys take a while."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def authority(first_authority: Authority, tmp_path: Path) -> Authority:
    """A certificate authority whose files lie in the test's own folder."""
    shutil.copytree(first_authority.folder, tmp_path, dirs_exist_ok=True)
    own = copy.copy(first_authority)
    own.folder = tmp_path
    return own

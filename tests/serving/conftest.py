"""What the tests of `serving` share: certificates."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from tests.authority import Authority


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

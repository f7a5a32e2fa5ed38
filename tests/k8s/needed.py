"""What a machine may lack that tests of manifests need."""

from __future__ import annotations

import shutil

import pytest

KUBECTL = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl isn't on PATH")

"""docs/gpu.md: its table and picture are those of the measured figures, and its commands work on a CPU."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.gpu.__main__ import CHECKS
from tests.gpu.page import DOCS, FIGURES, draw, page
from tfserving.serving.models_yaml.fleet import read_fleet

TEXT = (DOCS / "gpu.md").read_text()


def test_the_table_is_that_of_the_figures() -> None:
    assert page(TEXT, json.loads(FIGURES.read_text())) == TEXT


def test_the_picture_can_be_drawn_again(tmp_path: Path) -> None:
    draw(json.loads(FIGURES.read_text()), tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_the_goals_name_the_checks_that_would_show_them() -> None:
    named = {*re.findall(r"`((?:machine|memory|proof|speed)\.\w+)`", TEXT)}
    assert len(named) > 10
    assert named <= {*CHECKS}


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S))
def test_its_settings_are_those_of_models_yaml(tmp_path: Path, block: str) -> None:
    (tmp_path / "models.yaml").write_text("models: {digits: {builder: tfserving.export.models.digits:build}}\n" + block)
    assert read_fleet(tmp_path / "models.yaml")


@pytest.mark.parametrize("command", "".join(re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)).splitlines())
def test_its_commands_work_without_a_gpu(clone: Path, command: str) -> None:
    done = subprocess.run(["sh", "-c", command], cwd=clone, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GPU" in done.stdout

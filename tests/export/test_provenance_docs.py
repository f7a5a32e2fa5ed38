"""The commands for signatures in the documentation, as a user types them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.conftest import ROOT, Project, make_project
from tfserving.serving.models_yaml.fleet import read_fleet

PAGE = ROOT / "docs/provenance.md"


def section() -> str:
    """What the documentation has on signatures."""
    text = PAGE.read_text()
    return re.split(r"^## ", text[text.index("## Signatures\n") :], maxsplit=2, flags=re.M)[1]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(), re.M | re.S)


def test_the_commands_for_keys_work_in_their_order(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    models = "models:\n  mymodel: {builder: 'zoo:scale'}\n"
    printed = ""
    for kind, block in re.findall(r"^```(yaml|sh)\n(.*?)^```$", section(), re.M | re.S):
        if kind == "yaml":
            (tmp_path / "models.yaml").write_text(models + block)
            continue
        for line in block.splitlines():
            printed += run(project, line)
    shown, expected = (re.sub(r"\b[0-9a-f]{16}\b", "FINGERPRINT", text) for text in (printed, blocks("text")[0]))
    for line in expected.splitlines():
        assert line.replace("sign.key", f"{tmp_path}/sign.key").replace("sign.pub", f"{tmp_path}/sign.pub") in shown
    assert "Verification succeeded" in printed
    assert "signed by the certificate of CN=Ann, issued by CN=Models" in printed


def run(project: Project, line: str) -> str:
    words = shlex.split(line)
    if words[:2] == [".venv/bin/tfserving", "export"]:
        done = project.run(*words[2:])
    else:
        shell = line.replace(".venv/bin/python", sys.executable)
        done = subprocess.run(["sh", "-c", shell], cwd=project.folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("settings", blocks("yaml"), ids=lambda text: text.split()[1])
def test_every_setting_is_valid(tmp_path: Path, settings: str) -> None:
    (tmp_path / "models.yaml").write_text("models: {mymodel: {builder: 'zoo:scale'}}\n" + settings)
    fleet = read_fleet(tmp_path / "models.yaml")
    assert fleet.sign
    assert fleet.trusted

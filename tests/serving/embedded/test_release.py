"""Which TensorFlow Serving the embedded server behaves like."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.servers import ModelServer
from tests.serving.embedded.running import ROOT, Asker, Process, together
from tfserving.serving.embedded import command_line
from tfserving.serving.embedded.command_line import command
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.release import KNOWN, Release, installed, minor

pytestmark = together
# The embedded server, with another TensorFlow than the installed one as far as the release goes.
AS_2_22 = """
from tfserving.serving.embedded import release
release.installed = lambda: release.Release("2.22.0")
from tfserving.serving.embedded.__main__ import main
main()
"""


def never_run(_flags: Flags) -> int:
    raise AssertionError("a server was started")


@pytest.mark.parametrize(
    ("tensorflow", "text"),
    [
        ("2.20.0", "TensorFlow Serving 2.20"),
        ("2.21.1", "TensorFlow Serving 2.21"),
        ("2.22.0rc0", "TensorFlow Serving 2.22"),
        ("2.22.0-rc1", "TensorFlow Serving 2.22"),
        ("2.19.1", "TensorFlow Serving 2.20, the oldest supported release"),
        ("2.3.0", "TensorFlow Serving 2.20, the oldest supported release"),
        ("2.23.0.dev20261126", "TensorFlow Serving 2.22, the newest supported release"),
        ("3.0.0", "TensorFlow Serving 2.22, the newest supported release"),
    ],
)
def test_the_server_behaves_like_the_release_of_its_tensorflow_or_the_nearest_known(tensorflow: str, text: str) -> None:
    assert str(Release(tensorflow)) == text


@pytest.mark.parametrize(("tensorflow", "most"), [("2.20.0", 0), ("2.21.0", 0), ("2.22.0rc0", 256), ("2.30.0", 256)])
def test_tensors_have_a_limit_of_nested_arrays_since_2_22(tensorflow: str, most: int) -> None:
    assert Release(tensorflow).most_nested == most


def test_the_installed_tensorflow_decides() -> None:
    assert installed().tensorflow == version("tensorflow")
    assert installed().minor == minor(version("tensorflow"))


def test_a_server_has_the_limits_of_its_release(models: Path) -> None:
    server = Process(
        "--model_name=scale",
        f"--model_base_path={models}/scale",
        engine=ModelServer("embedded", (sys.executable, "-c", AS_2_22)),
    )
    try:
        value: object = 1
        for _ in range(257):
            value = [value]
        status, answer = Asker(server.ready()).post("scale:predict", {"inputs": value})
    finally:
        server.stop()
    assert status == 400
    assert answer["error"].startswith("inputs['x'] is nested in 257 arrays; at most 256 are allowed")


def test_the_version_names_the_release_that_it_behaves_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "installed", lambda: Release("2.23.0"))
    done = CliRunner().invoke(command(never_run), ["--version"])
    assert done.exit_code == 0
    assert done.output == (
        "tfserving.serving.embedded, TensorFlow 2.23.0, as TensorFlow Serving 2.22, the newest supported release\n"
    )


def test_the_page_on_compatibility_shows_what_the_version_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "installed", lambda: Release("2.21.0"))
    done = CliRunner().invoke(command(never_run), ["--version"])
    page = (ROOT / "docs/compatibility.md").read_text()
    assert f"$ python -m tfserving.serving.embedded --version\n{done.output}" in page


def test_the_help_names_the_releases_that_are_known() -> None:
    done = CliRunner().invoke(command(never_run), ["--help"])
    known = [".".join(map(str, one)) for one in KNOWN]
    assert f"{known[0]} to {known[-1]}. --version prints which" in " ".join(done.output.split())

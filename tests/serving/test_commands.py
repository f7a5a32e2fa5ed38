"""What `serve`, `labels`, `config`, `image` and `compose` refuse before anything starts, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.servers import free_ports
from tests.serving.fleets import GOOD, fleet
from tfserving.cli import tfserving
from tfserving.foundation.extras import EXTRAS

# Ports that are free when the test runs: each worker collects the same tests.
PORTS = ("--port", "PORT", "--rest-port", "REST_PORT")
NO_SERVER = "grpc://127.0.0.1:PORT"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a fleet of one model without versions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.yaml").write_text(GOOD)
    return tmp_path


def run(*words: str) -> Result:
    port, rest_port = map(str, free_ports(2))
    line = [word.replace("REST_PORT", rest_port).replace("PORT", port) for word in words]
    result = CliRunner().invoke(tfserving, line)
    assert isinstance(result.exception, SystemExit | None)
    return result


@pytest.mark.parametrize("words", [("serve", "--help"), ("serve", "-h"), ("serve", "digits", "--help")])
def test_help_of_serve_shows_both_uses_its_options_and_its_subcommands(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.exit_code == 0
    assert done.stdout.startswith(
        "Usage: tfserving serve [OPTIONS] [MODEL]...\n       tfserving serve COMMAND [ARGS]...\n"
    )
    assert "--no-export" in done.stdout
    for command in ("up", "down", "restart", "reload", "status", "logs"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.usefixtures("project")
def test_a_name_that_is_no_model_gets_a_suggestion() -> None:
    done = run("serve", "stauts")
    assert done.exit_code == 2
    assert "no model is called 'stauts'; the fleet has digits. Did you mean the command `serve status`?" in done.stderr
    assert "Did you mean 'digits'?" in run("serve", "--port", "9500", "digit").stderr
    assert "Did you mean 'digits'?" in run("serve", "up", "digit").stderr


def test_a_model_that_is_called_like_a_subcommand_comes_after_two_dashes(project: Path) -> None:
    (project / "models.yaml").write_text(GOOD.replace("digits", "up"))
    done = run("serve", "--no-export", *PORTS, "--", "up")
    assert done.exit_code == 2
    assert f"model 'up' has no version in {project}/models/up. Run `" in done.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("words", [("serve", *PORTS), ("serve", "up"), ("compose", "up"), ("image",)], ids=" ".join)
def test_a_model_without_a_version_is_exported_only_if_it_may_and_can_be(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(*words, "--no-export")
    assert done.exit_code == 2
    assert "model 'digits' has no version in " in done.stderr
    assert "tfserving export build digits`" in done.stderr
    monkeypatch.setitem(EXTRAS, "export", ("a_module_that_is_not_installed",))
    done = run(*words)
    assert done.exit_code == 2
    assert "needs the Python module 'a_module_that_is_not_installed'. Install the extra 'export'" in done.stderr


def test_a_wrong_builder_is_a_wrong_models_yaml_for_serve_too(project: Path) -> None:
    port, rest_port = map(str, free_ports(2))
    words = ("serve", "--engine", "embedded", "--port", port, "--rest-port", rest_port)
    command = [sys.executable, "-m", "tfserving", *words]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "digits could not be exported, so no server was started" in done.stderr


def test_a_missing_models_yaml_is_an_error_that_recommends_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("serve",), ("labels", "list"), ("config",), ("compose", "down"), ("image",)):
        done = run(*words)
        assert done.exit_code == 2, words
        assert f"there is no models.yaml in {tmp_path} or the folders above it. `" in done.stderr
        assert " init` creates a project" in done.stderr
    done = run("config", "--json")
    assert json.loads(done.stderr)["error"]["exit_code"] == 2
    # A server can be used without one.
    assert run("serve", "status", "digits", "--server", NO_SERVER).exit_code == 3
    assert "Name a MODEL" in run("serve", "status", "--server", NO_SERVER).stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("serve", "status"), 3),
        (("serve", "logs"), 3),
        (("serve", "status", "digits", "--server", NO_SERVER), 3),
        (("labels", "list", "--server", NO_SERVER), 3),
        (("serve", "reload", "--server", NO_SERVER, "--config", "/dev/null"), 3),
        (("serve", "reload", "--server", NO_SERVER, "--config", "models.yaml"), 2),
        (("serve", "reload", "--server", NO_SERVER), 2),
        (("serve", "reload", "--config", "models.yaml"), 2),
        (("labels", "list"), 0),
        (("config", "--check"), 0),
        (("config", "--check", "nothing"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_exit_codes(words: tuple[str, ...], code: int) -> None:
    done = run(*words)
    assert done.exit_code == code, done.output


@pytest.mark.parametrize("label", ["", "a b", "a/b", "a=b", "a\x07", "-a", "a" * 64])
def test_a_label_that_a_url_or_a_server_can_not_carry_is_refused(project: Path, label: str) -> None:
    fleet(project)
    done = run("labels", "set", "--", "digits", f"{label}=1")
    assert done.exit_code == 2
    assert "expected 1 to 63 letters, digits, '_', '.' and '-', the first a letter or digit" in done.stderr
    assert (project / "models.yaml").read_text() == GOOD


def test_labels_are_listed_only_if_they_are_set(project: Path) -> None:
    fleet(project)
    done = run("labels", "list")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "No labels are set.\n")
    assert run("labels", "set", "digits", "stable=2").exit_code == 0
    assert run("labels", "list").stdout == "model   label   models.yaml\ndigits  stable  2\n"
    listed = json.loads(run("labels", "list", "--json").stdout)
    assert listed == {"labels": [{"model": "digits", "label": "stable", "versions": {"models.yaml": 2}}]}

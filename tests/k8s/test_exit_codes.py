"""Exit codes without a cluster: nothing is changed, and the reason is one line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.k8s.needed import KUBECTL
from tests.k8s.test_time_limits import kubeconfig
from tests.servers import free_ports
from tests.serving.fleets import GOOD, fleet
from tfserving.cli import tfserving
from tfserving.foundation.command.errors import UNREACHABLE, WRONG

pytestmark = KUBECTL
ON_A_CLUSTER = (
    ("k8s", "status"),
    ("k8s", "diff"),
    ("k8s", "apply"),
    ("k8s", "apply", "--dry-run"),
    ("k8s", "delete"),
    ("rollout", "status", "--cluster"),
    ("rollout", "start", "digits", "--cluster"),
    ("rollout", "undo", "digits", "--cluster"),
    ("rollout", "abort", "digits", "--cluster"),
    ("rollout", "report", "digits", "--cluster"),
    ("rollout", "start", "digits", "--in-cluster"),
    ("rollout", "resume", "digits", "--cluster"),
)
LINT = ("k8s", "lint", "--cluster")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet, and a kubeconfig of a cluster that doesn't listen."""
    fleet(tmp_path, f"{GOOD}kubernetes: {{components: [volume]}}\n")
    kubeconfig(tmp_path / "config", f"http://127.0.0.1:{free_ports(1)[0]}", {})
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    return tmp_path / "models.yaml"


def failure(file: Path, words: tuple[str, ...]) -> tuple[int, str]:
    """The exit code of a command, and its error."""
    started = time.monotonic()
    done = CliRunner().invoke(tfserving, [*words, "--fleet", str(file)])
    assert time.monotonic() - started < 10
    (line,) = done.stderr.splitlines()
    return done.exit_code, line


@pytest.mark.parametrize("words", ON_A_CLUSTER, ids=" ".join)
def test_a_cluster_that_does_not_listen_is_unreachable(file: Path, words: tuple[str, ...]) -> None:
    code, line = failure(file, words)
    assert code == UNREACHABLE
    assert line.startswith("Error: cannot reach the cluster: The connection to the server 127.0.0.1:")


def test_lint_does_not_take_a_missing_cluster_for_a_finding(file: Path) -> None:
    code, line = failure(file, LINT)
    assert code == UNREACHABLE
    # It begins with what reads the schema.
    assert line.startswith('Error: cannot reach the cluster: Get "http://127.0.0.1:')
    assert line.endswith("connection refused. Check that it runs, and `kubectl config current-context`.")


@pytest.mark.parametrize("words", [("k8s", "status"), ("rollout", "status", "digits", "--cluster"), LINT], ids=" ".join)
def test_a_wrong_setup_of_kubectl_is_wrong_usage(
    file: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, line = failure(file, (*words, "--context", "elsewhere", "--json"))
    assert (code, json.loads(line)["error"]["exit_code"]) == (WRONG, WRONG)
    assert "kubectl has no context 'elsewhere'" in line
    monkeypatch.setenv("KUBECONFIG", str(file.parent / "none"))
    assert failure(file, words) == (
        WRONG,
        "Error: kubectl has no cluster configured. Set KUBECONFIG, or create a cluster, for example with kind.",
    )
    monkeypatch.setenv("PATH", str(file.parent))
    assert failure(file, words) == (
        WRONG,
        "Error: kubectl is not on PATH. Install it: https://kubernetes.io/docs/tasks/tools/",
    )


def test_a_laptop_without_a_server_is_unreachable(file: Path) -> None:
    code, line = failure(file, ("rollout", "start", "digits"))
    assert code == UNREACHABLE
    assert line.startswith("Error: no server on this machine serves 'digits'. Start one with `")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("rollout", "start", "digits", "--namespace", "models"), "--namespace needs --cluster."),
        (
            ("rollout", "start", "digits", "--by-pods"),
            "--by-pods needs --cluster: ",
        ),
        (
            ("rollout", "start", "digits/latest"),
            "Got 'digits/latest', expected MODEL or MODEL/VERSION, such as",
        ),
        (("k8s", "render", "--overlay", "nothing"), "'nothing' is not one of 'argo-rollouts', 'cpu', "),
    ],
)
def test_wrong_words_are_usage_errors(file: Path, words: tuple[str, ...], reason: str) -> None:
    done = CliRunner().invoke(tfserving, [*words, "--fleet", str(file)])
    assert done.exit_code == WRONG
    assert reason in done.stderr.splitlines()[-1]

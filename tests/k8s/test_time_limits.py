"""What a rollout runs ends in its time, with all that it started: kubectl, and commands of the user's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.servers import wait_for
from tfserving.foundation import programs
from tfserving.k8s.kubectl import Kubectl, KubectlError
from tfserving.k8s.rollout.gates import command
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import GateError
from tfserving.serving.models_yaml.rollout import Rollout

ROOT = Path(__file__).resolve().parents[2]
STATE = State("digits", 1, 2, {"stable": 1}, (1,), (2,))
# It leaves its number and its child's, and neither ends by itself.
HANGS = 'trap "" TERM; sleep 600 & echo $$ $! > "$PIDS"; wait; wait'


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    return tmp_path / "pids"


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and isn't waited for yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: Path) -> None:
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 2
    wait_for(lambda: not any(map(alive, found)), 10, "the end of all processes")


def test_a_command_that_hangs_fails_and_leaves_nothing(pids: Path) -> None:
    with pytest.raises(
        GateError, match=r"^sh -c .* did not end within 1 s and was killed\. Raise `rollout\.command_sec"
    ):
        command(("sh", "-c", HANGS), STATE, Rollout(command_seconds=1))
    gone(pids)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sh", "-c", "cat; echo read all"), "passed: read all"),
        (("sh", "-c", "yes | head -c 300000000; echo; echo last >&2"), "passed: last"),
        (("sh", "-c", r"printf '\377\376x'"), "passed: ��x"),
        (("sh", "-c", "sleep 600 > /dev/null 2>&1 & echo left one"), "passed: left one"),
    ],
)
def test_a_command_may_print_what_it_likes(words: tuple[str, ...], said: str) -> None:
    assert said in command(words, STATE, Rollout(command_seconds=60)).text


def test_a_command_that_is_none_is_told() -> None:
    with pytest.raises(GateError, match="cannot run /no/where: No such file or directory"):
        command(("/no/where",), STATE, Rollout())
    with pytest.raises(GateError, match=r"cannot run .*: embedded null byte"):
        command(("a\0b",), STATE, Rollout())


def test_ctrl_c_ends_what_runs(pids: Path) -> None:
    code = f"from tfserving.foundation.programs import run; run(['sh', '-c', {HANGS!r}], 600)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE) as process:
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="its start")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30)
    gone(pids)


def kubeconfig(path: Path, server: str, user: dict[str, object]) -> None:
    """A cluster at `server`, whom `user` signs in to."""
    said = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": user}],
    }
    path.write_text(yaml.safe_dump(said))


def test_a_cluster_that_never_answers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kubeconfig(tmp_path / "config", f"http://127.0.0.1:{silent.getsockname()[1]}", {})
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(
            KubectlError, match=r"^kubectl get got no response within 1 s\. Check that the cluster is up"
        ):
            Kubectl(seconds=1).get("pod", "serving")


def test_a_hung_sign_in_ends_with_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pids: Path) -> None:
    api, mode = "client.authentication.k8s.io/v1", "Never"
    plugin = {"apiVersion": api, "command": "sh", "args": ["-c", HANGS], "interactiveMode": mode}
    kubeconfig(tmp_path / "config", "https://127.0.0.1:1", {"exec": plugin})
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(KubectlError, match="got no response within 5 s"):
        Kubectl(seconds=5).get("pod", "serving")
    gone(pids)


def test_what_is_printed_beyond_a_bound_is_cut() -> None:
    done = programs.run(["sh", "-c", "yes | head -c 100000"], 60, most=1000)
    assert done.cut
    assert len(done.stdout) <= 2000

"""What a server in a container can't do: read from inside of it, and from the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from tests.docker.conftest import SCALED, Fleet, make_fleet, remove_all

SCRATCH = "/tmp"  # noqa: S108 - the container's own
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def limited(
    docker: DockerClient, docker_host: str, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    made = make_fleet(docker, docker_host, exported, tmp_path_factory.mktemp("limited"))
    made.say(f"{SCALED}server: {{memory: 1g, cpus: 1.5, pids: 4096}}\n")
    made.up()
    yield made
    remove_all(made)


@pytest.fixture(scope="module")
def inside(limited: Fleet) -> Callable[..., tuple[int, str]]:
    """Runs a command in the container, as its user; the exit code and what it printed."""
    container = limited.container

    def run(*words: str) -> tuple[int, str]:
        code, output = container.exec_run(list(words))
        return int(code), output.decode()

    return run


Inside = Callable[..., tuple[int, str]]


def server_status(inside: Inside) -> dict[str, str]:
    """/proc/PID/status of the server, the child of process 1."""
    _, text = inside("sh", "-c", "cat /proc/$(cat /proc/1/task/1/children | cut -d' ' -f1)/status")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_the_server_has_no_rights(inside: Inside) -> None:
    status = server_status(inside)
    assert status["Name"].strip() in ("python3", "tensorflow_mode")
    assert set(status["Uid"].split()) == {"10001"}
    assert set(status["Gid"].split()) == {"10001"}
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0, capabilities
    assert status["NoNewPrivs"].strip() == "1"
    # A filter: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
    assert status["Seccomp"].strip() == "2"


def test_process_1_passes_signals_on(inside: Inside) -> None:
    """The script that drains TensorFlow Serving does; the embedded server has an init process before it."""
    _, text = inside("cat", "/proc/1/cmdline")
    assert text.split("\0")[:3] == ["bash", "/config/serve.sh", "tensorflow_model_server"]


def test_only_a_small_tmp_can_be_written_and_nothing_runs_from_there(inside: Inside) -> None:
    for place in ("/", "/models", "/models/scaled/1", "/config", "/etc", "/usr/bin", "/var", "/opt"):
        code, output = inside("sh", "-c", f"touch {place}/written")
        assert code != 0, place
        assert "Read-only file system" in output, place
    code, output = inside("sh", "-c", "echo exit > /tmp/program && chmod +x /tmp/program && /tmp/program")
    assert code == 126
    assert "Permission denied" in output
    code, output = inside("sh", "-c", "head -c 100M /dev/zero > /tmp/large")
    assert "No space left on device" in output
    mounts = {line.split()[1]: line.split()[3].split(",") for line in inside("cat", "/proc/mounts")[1].splitlines()}
    for place in ("/", "/models", "/config"):
        assert "ro" in mounts[place], place
    assert {"nosuid", "nodev", "noexec"} <= set(mounts[SCRATCH])


def test_limits_are_those_of_the_kernel(inside: Inside) -> None:
    # Where they lie depends on the version of cgroups.
    places = {
        "memory": ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"),
        "swap": ("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "/sys/fs/cgroup/memory.swap.max"),
        "pids": ("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max"),
    }
    read = {name: inside("sh", "-c", f"cat {old} 2>/dev/null || cat {new}")[1] for name, (old, new) in places.items()}
    assert int(read["memory"]) == 1024 * MEBIBYTE
    # With cgroup v1 it counts both; with v2 swap alone. Where the kernel doesn't count it, there is no file.
    assert "No such file" in read["swap"] or int(read["swap"]) in (0, 1024 * MEBIBYTE)
    assert int(read["pids"]) == 4096
    _, text = inside(
        "sh",
        "-c",
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us || cat /sys/fs/cgroup/cpu.max",
    )
    quota, period = (int(number) for number in text.split()[-2:])
    assert quota / period == 1.5


def test_the_engine_says_the_same(limited: Fleet) -> None:
    attributes: dict[str, Any] = limited.container.attrs
    host, config = attributes["HostConfig"], attributes["Config"]
    assert config["User"] == "10001:10001"
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["Memory"], host["MemorySwap"]) == (1024 * MEBIBYTE, 1024 * MEBIBYTE)
    assert host["NanoCpus"] == 1_500_000_000
    assert host["PidsLimit"] == 4096
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["NetworkMode"] in ("default", "bridge")
    assert {mount["Destination"]: mount["RW"] for mount in attributes["Mounts"]} == {"/models": False, "/config": False}
    for bindings in host["PortBindings"].values():
        assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"]
    assert not [name for name in config["Env"] if "KEY" in name or "TOKEN" in name]
    labels = config["Labels"]
    assert labels["tensorflow-serving-toolkit.file"] == str(limited.file)
    assert labels["tensorflow-serving-toolkit.fleet"].startswith("fleet-")


def test_configuration_is_for_its_owner_alone(limited: Fleet) -> None:
    (state,) = limited.state.iterdir()
    assert state.stat().st_mode & 0o777 == 0o700

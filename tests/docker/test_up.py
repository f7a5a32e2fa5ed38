"""`up` and what follows it, on a real engine: from the first start to nothing left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.authority import Authority
from tests.docker.conftest import ROOT, SCALED, Fleet, make_fleet, remove_all
from tests.docker.engine import EMBEDDED_IMAGE
from tests.k8s.followed import followed
from tests.k8s.load import Load
from tests.servers import free_ports, wait_for
from tfserving.clients import Tls, connect
from tfserving.clients.errors import ServingError
from tfserving.serving.engines.exit_codes import meaning


def await_line(process: subprocess.Popen[str], start: str) -> None:
    """Reads what `process` prints until a line whose start matches the expression `start`."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(start, line):
            return
    pytest.fail(f"it ended before {start!r}: {process.communicate()[1]}")


HUNGRY = f"{SCALED}  hungry:\n    builder: tests.docker.hungry:build\n"


CANARY = "scaled-canary"


def sums(address: str, *, name: str = "scaled", **which: Any) -> float:
    """What `scaled` answers for 1 + 2 + 3: six times its version."""
    with connect(address) as client:
        return float(client.predict(name, [[1, 2, 3]], **which).outputs["sums"][0])


def verified(fleet: Fleet) -> str:
    server = f"grpc://127.0.0.1:{fleet.grpc_port},http://127.0.0.1:{fleet.rest_port}"
    done = subprocess.run(
        [sys.executable, "-m", "tfserving", "verify", "--server", server, str(fleet.folder / "models/scaled")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_from_the_first_start_to_nothing_left(fleet: Fleet, left: Callable[[], dict[str, set[str]]]) -> None:
    before = left()
    done = fleet.up()
    assert "Serving 1 model with the docker server:\n  scaled  version 1, the newest\n" in done.stdout
    assert f"gRPC  127.0.0.1:{fleet.grpc_port}\nREST  http://127.0.0.1:{fleet.rest_port}\n" in done.stdout
    assert re.search(r"all \d+ golden requests of 1 model equal", verified(fleet))
    first = fleet.container
    assert first.attrs["State"]["Health"]["Status"] == "healthy"

    # Again: nothing happens to the server.
    again = fleet.up()
    assert f"{first.name} is running already" in again.stderr
    assert fleet.container.attrs["State"]["StartedAt"] == first.attrs["State"]["StartedAt"]

    # A new version is taken by itself.
    fleet.version(2)
    wait_for(lambda: sums(fleet.grpc) == 12, what="version 2")
    assert sums(fleet.rest) == 12
    verified(fleet)

    # Labels: clients get what is stable, and the canary under its own name; the file keeps what a person wrote there.
    fleet.say(f"# ours\n{SCALED}")
    done = fleet.toolkit("labels", "set", "scaled", "stable=1", "canary=2")
    assert "Labels of scaled: stable=1, canary=2." in done.stderr
    assert "# ours\n" in fleet.file.read_text()
    for address in (fleet.grpc, fleet.rest):
        assert (sums(address, label="stable"), sums(address), sums(address, name=CANARY)) == (6, 6, 12)
    fleet.version(3)
    fleet.toolkit("labels", "set", "scaled", "canary=3")
    for address in (fleet.grpc, fleet.rest):
        assert (sums(address, label="stable"), sums(address), sums(address, name=CANARY)) == (6, 6, 18)
    verified(fleet)

    # A label for nothing changes nothing.
    said = fleet.file.read_text()
    done = fleet.toolkit("labels", "set", "scaled", "canary=9", code=2)
    assert "label 'canary' is for version 9, which is not in" in done.stderr
    assert fleet.file.read_text() == said
    assert sums(fleet.rest, name=CANARY, label="canary") == 18

    # None of this needed another container.
    assert fleet.container.id == first.id
    assert fleet.container.attrs["State"]["StartedAt"] == first.attrs["State"]["StartedAt"]
    status = json.loads(fleet.toolkit("serve", "status", "--json").stdout)
    (server,) = status["servers"]
    assert (server["engine"], server["health"], server["restarts"], server["available"]) == (
        "docker",
        "healthy",
        0,
        True,
    )

    done = fleet.toolkit("serve", "down")
    assert f"Draining {first.name} …" in done.stderr
    assert left() == before
    assert not [path for path in fleet.state.rglob("*") if path.is_file()]
    assert f"No server of {fleet.file} is up." in fleet.toolkit("serve", "down").stderr
    fleet.toolkit("serve", "status", code=3)


def test_a_version_is_rolled_out_and_back_under_load(fleet: Fleet) -> None:
    gates = "rollout: {window: 0.3, bake: 0.5, latency: 8, error_rate: 0.2, probe: 30}\n"
    fleet.say(f"{SCALED}    labels: {{stable: 1}}\n{gates}")
    fleet.up()
    fleet.version(2)
    with Load((fleet.grpc, fleet.rest)) as load:
        for words, version in ((("start", "scaled"), 2), (("undo", "scaled"), 1)):
            command = ["rollout", *words, "--fleet", str(fleet.file)]
            with followed(command, fleet.file.parent / "followed.txt", fleet.env) as rollout:
                rollout.until(None, load.enters)
                assert rollout.process.returncode == 0, rollout.said
            assert f"docker server on port {fleet.grpc_port}: all 5 golden requests of 1 model equal" in rollout.said
            assert sums(fleet.rest, label="stable") == 6 * version
    assert load.failures == []
    assert set(load.versions) == {1, 2}
    assert "stable: 1" in fleet.file.read_text()


def test_a_server_that_is_killed_comes_back_and_status_says_why(fleet: Fleet) -> None:
    fleet.up()
    server = psutil.Process(fleet.container.attrs["State"]["Pid"]).children()[0]
    server.send_signal(signal.SIGKILL)
    wait_for(lambda: fleet.container.attrs["RestartCount"] == 1, what="the restart")
    wait_for(lambda: fleet.container.attrs["State"]["Health"]["Status"] == "healthy", what="its health")
    assert sums(fleet.grpc) == sums(fleet.rest) == 6
    assert "ended before: exit code 137: it was killed" in fleet.toolkit("serve", "status").stdout
    assert "is running already" in fleet.up().stderr


def test_running_out_of_memory_is_told_as_that(fleet: Fleet) -> None:
    fleet.say(f"{HUNGRY}server: {{memory: 768m}}\n")
    fleet.up()
    with connect(fleet.rest, timeout=60) as client, pytest.raises(ServingError):
        client.predict("hungry", {"elements": np.array([1 << 29], np.int32)})
    wait_for(lambda: fleet.container.attrs["RestartCount"] == 1, what="the restart")
    wait_for(lambda: fleet.container.attrs["State"]["Health"]["Status"] == "healthy", what="its health")
    out = "it ran out of memory: its limit is 768 MiB, server.memory in models.yaml"
    assert f"ended before: {out}" in fleet.toolkit("serve", "status").stdout
    assert sums(fleet.grpc) == 6


def test_a_version_that_does_not_load_is_an_error_with_the_last_lines_and_nothing_is_left(
    fleet: Fleet, left: Callable[[], dict[str, set[str]]]
) -> None:
    before = left()
    broken = fleet.folder / "models/scaled/1/saved_model.pb"
    broken.write_bytes(broken.read_bytes()[:100])
    done = fleet.up(code=1)
    ended = meaning(fleet.engine.refused(1))
    assert f"the container ended before every model was available: {ended}; its last lines:\n" in done.stderr
    # The real server names the folder too, in other words.
    assert re.search(r"^    .*/models/scaled/1" + (": " if fleet.engine.embedded else ""), done.stderr, re.M)
    assert left() == before
    assert not [path for path in fleet.state.rglob("*") if path.is_file()]


def test_a_new_version_that_does_not_load_leaves_the_old_one_answering(fleet: Fleet) -> None:
    fleet.say(f"{SCALED}    labels: {{stable: 1}}\n")
    fleet.up()
    broken = fleet.folder / "later/2/saved_model.pb"
    broken.write_bytes(broken.read_bytes()[:100])
    fleet.version(2)
    done = fleet.toolkit("labels", "set", "scaled", "canary=2", code=1)
    assert "model 'scaled-canary': version 2 END (" in done.stderr
    assert "The server serves the same versions as before" in done.stderr
    assert "canary" not in fleet.file.read_text()
    assert sums(fleet.grpc) == 6
    # It is no version of the model's own name, so nothing of it is in the way.
    fleet.toolkit("serve", "reload")
    assert sums(fleet.rest) == 6
    # A server starts with all of its models or not at all.
    fleet.say(f"{SCALED}    labels: {{stable: 1, canary: 2}}\n")
    fleet.toolkit("serve", "down")
    done = fleet.up(code=1)
    assert "tfserving labels remove scaled canary --fleet" in done.stderr


def test_other_settings_replace_the_container(fleet: Fleet) -> None:
    fleet.up()
    first = fleet.container
    fleet.say(f"{SCALED}server: {{cpus: 1.5, batching: {{max_batch_size: 64}}}}\n")
    done = fleet.up()
    assert f"Replacing {first.name}, which runs with other settings" in done.stderr
    second = fleet.container
    assert second.id != first.id
    assert second.attrs["HostConfig"]["NanoCpus"] == 1_500_000_000
    assert "--enable_batching=true" in second.attrs["Config"]["Cmd"]
    assert sums(fleet.grpc) == 6


def test_gpus_that_are_not_there_are_an_error_before_anything_is_replaced(fleet: Fleet) -> None:
    fleet.up()
    first = fleet.container
    fleet.say(f"{SCALED}server: {{gpus: all, image: 'tensorflow/serving:2.21.0-gpu'}}\n")
    fleet.docker.images.get("tensorflow/serving:2.21.0").tag("tensorflow/serving:2.21.0-gpu")
    done = fleet.up(code=1)
    assert "the engine has no GPU support. Install NVIDIA's driver and the NVIDIA Container Toolkit" in done.stderr
    assert fleet.container.id == first.id
    assert sums(fleet.grpc) == 6


def test_two_fleets_live_on_one_host(fleet: Fleet, exported: Path, tmp_path: Path) -> None:
    other = make_fleet(fleet.docker, fleet.host, exported, tmp_path / "other")
    other.version(2)
    try:
        fleet.up()
        done = fleet.toolkit("serve", "--engine", "docker", *fleet.ports, code=2)
        assert f"can't listen on port {fleet.grpc_port}" in done.stderr
        other.up()
        assert fleet.container.name != other.container.name
        assert (sums(fleet.grpc), sums(other.grpc)) == (6, 12)
        fleet.toolkit("serve", "down")
        assert sums(other.rest) == 12
        assert fleet.containers == []
    finally:
        remove_all(other)


def test_tls_on_grpc_is_verified_by_clients(fleet: Fleet) -> None:
    authority = Authority(fleet.folder)
    files = "certificate: server.pem, key: server.key, client_ca: ca.pem, verify_clients: true"
    fleet.say(f"{SCALED}server: {{tls: {{{files}}}}}\n")
    fleet.up()
    address = f"grpcs://localhost:{fleet.grpc_port}"

    tls = Tls(
        ca=Path(authority.path("ca.pem")),
        certificate=Path(authority.path("client.pem")),
        key=Path(authority.path("client.key")),
    )
    with connect(address, tls=tls) as client:
        assert client.predict("scaled", [[1, 2, 3]]).outputs["sums"].tolist() == [6.0]
    # Labels move too, by the file, of which the server reads a change within ten seconds.
    done = fleet.toolkit("labels", "set", "scaled", "stable=1")
    every = "" if fleet.engine.embedded else ", the server reads models.config every 10 s"
    what = f"serving the versions of models.yaml (step 1 of 1{every}) …"
    step = f"The docker server on port {fleet.grpc_port}: {what}"
    assert step in done.stderr.splitlines()
    assert sums(fleet.rest, label="stable") == 6
    for stranger in (None, Tls(authority.path("ca.pem"))):
        with connect(address, tls=stranger, timeout=2) as client, pytest.raises(ServingError):
            client.predict("scaled", [[1, 2, 3]])


def test_logs_are_shown_and_followed_until_ctrl_c(fleet: Fleet) -> None:
    fleet.up()
    lines = fleet.toolkit("serve", "logs").stdout.splitlines()
    assert any("scaled" in line for line in lines)
    assert fleet.toolkit("serve", "logs", "--tail", "1").stdout.splitlines() == lines[-1:]
    with fleet.process("serve", "logs", "--follow") as process:
        fleet.version(2)
        # Lines begin with the time; those of the real server with the place in its source, too.
        loading = (
            r"\S+ info: loading model 'scaled' version 2" if fleet.engine.embedded else r".*\{name: scaled version: 2\}"
        )
        await_line(process, loading)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_the_embedded_server_s_image_takes_changes_by_its_file(fleet: Fleet) -> None:
    fleet.say(f"{SCALED}server: {{image: '{EMBEDDED_IMAGE}'}}\n")
    fleet.version(2)
    fleet.up()
    fleet.toolkit("labels", "set", "scaled", "stable=1", "canary=2")
    assert [sums(fleet.grpc), sums(fleet.grpc, name=CANARY)] == [6, 12]
    fleet.toolkit("labels", "set", "scaled", "stable=2")
    assert [sums(fleet.rest), sums(fleet.rest, label="stable")] == [12, 12]
    assert "loading model 'scaled' version 1" in fleet.toolkit("serve", "logs").stdout
    assert re.search(
        "scaled: version 2 AVAILABLE.* Clients get version 2, stable", fleet.toolkit("serve", "status").stdout
    )


def test_restart_is_the_same_container_again_and_no_fault(fleet: Fleet) -> None:
    fleet.up()
    first = fleet.container
    done = fleet.toolkit("serve", "restart")
    assert "scaled  version 1, the newest" in done.stdout
    assert fleet.container.id == first.id
    assert fleet.container.attrs["State"]["StartedAt"] != first.attrs["State"]["StartedAt"]
    assert sums(fleet.grpc) == 6
    assert "ended before" not in fleet.toolkit("serve", "status").stdout
    # Neither is an end by hand, and the log of what has ended is still there.
    before = fleet.toolkit("serve", "logs").stdout
    fleet.container.stop()
    assert fleet.toolkit("serve", "logs").stdout.startswith(before)
    shown = fleet.toolkit("serve", "status", code=1).stdout
    assert f"{first.name}  " in shown
    assert "exited" in shown
    assert "ended before" not in shown


def test_commands_for_a_server_that_is_not_up_say_so(fleet: Fleet) -> None:
    for command, state in (("logs", "running"), ("restart", "up")):
        done = fleet.toolkit("serve", command, code=3)
        assert f"no server of {fleet.file} is {state}. Start one with `" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_run_with_docker_ends_with_its_command(
    fleet: Fleet, left: Callable[[], dict[str, set[str]]], number: int
) -> None:
    before = left()
    with fleet.process("serve", "--engine", "docker", *fleet.ports) as process:
        await_line(process, "Ctrl-C")
        assert sums(fleet.grpc) == sums(fleet.rest) == 6
        assert len(fleet.toolkit("serve", "logs", "--tail", "2").stdout.splitlines()) == 2
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "\nDraining. Ctrl-C again stops it at once …\n" in errors
    assert errors.endswith("Stopped.\n")
    assert left() == before
    assert not [path for path in fleet.state.rglob("*") if path.is_file()]


def test_what_ends_by_itself_ends_the_command_with_the_reason(fleet: Fleet) -> None:
    with fleet.process("serve", "--engine", "docker", *fleet.ports) as process:
        await_line(process, "Ctrl-C")
        psutil.Process(fleet.container.attrs["State"]["Pid"]).children()[0].send_signal(signal.SIGSEGV)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The container ended: exit code 139: it crashed, by a segmentation fault" in errors
    assert fleet.containers == []


def test_a_wrong_image_is_named_with_what_it_lacks(fleet: Fleet) -> None:
    fleet.say(f"{SCALED}server: {{image: 'base:raw'}}\n")
    done = fleet.up(code=1)
    assert "tensorflow_model_server" in done.stderr
    assert fleet.containers == []
    image = f"127.0.0.1:{free_ports(1)[0]}/nobody/has:this"
    fleet.say(f"{SCALED}server: {{image: '{image}'}}\n")
    done = fleet.up(code=1)
    assert f"Error: cannot pull image {image}: " in done.stderr
    assert ". Set server.image in models.yaml to another image\n" in done.stderr


def test_what_is_wrong_is_found_before_anything_starts(fleet: Fleet) -> None:
    fleet.say(f"{SCALED}server: {{memory: 300m}}\n")
    assert "server.memory: got 300 MiB, expected at least " in fleet.up(code=2).stderr
    fleet.say(SCALED)
    done = fleet.toolkit("serve", "up", "--port", "9500", "--rest-port", "9500", code=2)
    assert "gRPC and REST can't share port 9500" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "tfserving", "serve", "up", "--fleet", str(fleet.file)],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "Docker can't be used: no Docker Engine is running: nothing listens on its socket. Start" in done.stderr
    assert fleet.containers == []

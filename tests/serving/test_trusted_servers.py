"""A server of this machine with `trust`, and somebody else who can write to the folder of its versions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from tests.exporting import export_scaled
from tests.k8s.rolled import Rolled
from tests.servers import ROOT, free_ports, wait_for
from tests.serving.signed_versions import make_key, write_manifest
from tests.signed import sign_with
from tfserving.cli import tfserving
from tfserving.clients import Client, connect
from tfserving.clients.errors import ServingError
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.golden import RECORDS
from tfserving.foundation.manifest import MANIFEST, read_manifest_file
from tfserving.serving import admitted
from tfserving.serving.docker import bake
from tfserving.serving.models_yaml.fleet import read_fleet

WEIGHTS = "variables/variables.data-00000-of-00001"
MODELS = "models:\n  scaled:\n    builder: tests.scaled:build\n"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed versions 1 and 2 of scales 1 and 2, and the key."""
    folder = tmp_path_factory.mktemp("trusted")
    (folder / "models.yaml").write_text(MODELS)
    export_scaled(folder / "models.yaml", [1, 2])
    make_key(folder, "ours")
    for version in (1, 2):
        sign_with(folder / "models/scaled" / str(version), folder / "ours.key")
    return folder


@pytest.fixture
def trusted(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rolled]:
    """A fleet that trusts the key, with version 1, and with the others at hand."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shutil.copytree(exported / "models/scaled", tmp_path / "later")
    rolled = Rolled(tmp_path, "embedded", {"XDG_STATE_HOME": str(tmp_path / "state")})
    rolled.file.write_text(f"{MODELS}trust: {{keys: [{exported / 'ours.pub'}]}}\n")
    rolled.have(1)
    yield rolled
    rolled.stop()


def run(rolled: Rolled, *words: str, code: int = 0) -> str:
    """Runs `tfserving WORDS`, which must exit with `code`; returns what it prints."""
    done = CliRunner().invoke(tfserving, [*words, "--fleet", str(rolled.file)])
    # A command is a process of its own.
    admitted.release()
    assert done.exit_code == code, done.output
    return done.output


def scale(rolled: Rolled) -> float:
    """Which version answers, by its scale."""
    with connect(rolled.server.url("grpc")) as client:
        return float(client.predict("scaled", [[1, 0, 0]]).outputs["sums"][0])


def scale_after_a_restart(rolled: Rolled) -> float:
    """Which version another process answers with that has the server's command line, and ports of its own."""
    (server,) = psutil.Process(rolled.server.process.pid).children()
    ports = dict(zip(("--port", "--rest_api_port"), free_ports(2), strict=True))
    same = [word for word in server.cmdline() if word.partition("=")[0] not in ports]
    with subprocess.Popen([*same, *(f"{flag}={port}" for flag, port in ports.items())], cwd=ROOT) as process:
        try:
            with connect(f"grpc://127.0.0.1:{ports['--port']}") as client:
                wait_for(lambda: answers(client))
                return float(client.predict("scaled", [[1, 0, 0]]).outputs["sums"][0])
        finally:
            process.terminate()


def answers(client: Client) -> bool:
    with contextlib.suppress(ServingError):
        return client.metadata("scaled").version > 0
    return False


def digest(version: Path) -> str:
    return f"sha256:{read_manifest_file(version / MANIFEST).digest()}"


def replace_weights(rolled: Rolled, version: int, by: int) -> None:
    """Changes a version of the folder to one with the weights of another, with the time that the file had."""
    file = rolled.folder / "models/scaled" / str(version) / WEIGHTS
    before = file.stat()
    shutil.copy(rolled.folder / "later" / str(by) / WEIGHTS, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_attack_what_runs_stays_what_was_signed_whatever_the_folder_has(trusted: Rolled) -> None:
    first = trusted.have(1)
    trusted.start()
    assert scale(trusted) == 1
    said = run(trusted, "serve", "status")
    assert f"version 1: manifest {digest(first)}, signed by " in said
    # A weight is changed while the server runs, and a server starts with its configuration, as after a crash.
    replace_weights(trusted, 1, by=2)
    assert scale(trusted) == 1
    assert scale_after_a_restart(trusted) == 1
    # A newer version that nobody signed appears. No command loads it, and the server goes on.
    unsigned = trusted.have(2)
    (unsigned / "assets.extra/model.sig").unlink()
    assert f"{unsigned} is not signed" in run(trusted, "serve", "reload", code=2)
    assert f"{unsigned} is not signed" in run(trusted, "labels", "set", "scaled", "stable=2", code=2)
    assert scale(trusted) == 1
    said = run(trusted, "serve", "status")
    assert "version 2 is on disk but not admitted: run `" in said
    # Whoever starts another server gets none.
    assert f"{unsigned} is not signed" in run(trusted, "serve", "--engine", "embedded", "--port", "1", code=2)
    # The golden answers of version 1 are those of another model now: `verify` compares with those that were signed.
    shutil.copy(trusted.folder / "later/2" / RECORDS, first / RECORDS)
    write_manifest(first)
    servers = ("--server", f"{trusted.server.url('grpc')},{trusted.server.url('rest')}")
    assert "signed" in run(trusted, "verify", "scaled/1", *servers, code=1)
    # What the others sign is served by the next command.
    trusted.have(1)
    second = trusted.have(2)
    run(trusted, "serve", "reload")
    wait_for(lambda: scale(trusted) == 2)
    (served,) = json.loads(run(trusted, "serve", "status", "--json"))["servers"]
    (manifest,) = served["models"]["scaled"]["manifests"]
    assert (manifest["version"], manifest["digest"], manifest["from"]) == (2, digest(second), "server")
    assert "ours.pub" in manifest["signer"]
    assert "golden requests of 1 model equal over gRPC and REST" in run(trusted, "verify", *servers)
    # The copies go with the server.
    store = next((trusted.folder / "state").rglob("admitted"))
    assert [path.name for path in (store / "scaled").iterdir() if path.is_dir()] == ["2"]
    trusted.server.process.send_signal(signal.SIGINT)
    trusted.server.process.wait(30)
    assert not [*store.iterdir()]


def test_attack_a_version_changes_between_two_phases_of_its_rollout(trusted: Rolled, exported: Path) -> None:
    trust = f"trust: {{keys: [{exported / 'ours.pub'}]}}\n"
    attack = f"cp {trusted.folder}/later/1/{WEIGHTS} {trusted.folder}/models/scaled/2/{WEIGHTS}"
    limits = f"{{commands: [[sh, -c, '{attack}']], window: 0.1, bake: 0, longest: 20, latency: 8, probe: 40}}\n"
    trusted.file.write_text(f"{MODELS}    labels: {{stable: 1}}\n{trust}rollout: {limits}")
    trusted.start()
    unsigned = trusted.have(2)
    (unsigned / "assets.extra/model.sig").unlink()
    assert f"{unsigned} is not signed" in trusted.rollout("start", "scaled", code=2).stderr
    trusted.have(2)
    trusted.rollout("start", "scaled")
    assert (trusted.folder / "models/scaled/2" / WEIGHTS).read_bytes() == (
        trusted.folder / "later/1" / WEIGHTS
    ).read_bytes()
    assert scale(trusted) == 2
    assert read_fleet(trusted.file).models["scaled"].labels == {"stable": 2}
    # Going on with what the folder has now is refused, and going back isn't.
    assert "2 was changed since its export" in run(trusted, "serve", "reload", code=2)
    assert scale(trusted) == 2


def test_attack_a_file_changes_between_the_check_of_an_image_and_its_build(trusted: Rolled, tmp_path: Path) -> None:
    read, staged = read_fleet(trusted.file), tmp_path / "context.tar"
    right = (trusted.folder / "later/1" / WEIGHTS).read_bytes()
    (tmp_path / "copies").mkdir(mode=0o700)
    copied, versions = bake._copied(read, ("scaled",), tmp_path / "copies", Progress())
    replace_weights(trusted, 1, by=2)
    with staged.open("wb") as file:
        bake._stage(copied, ("scaled",), "{}", file)
    assert "ours.pub" in str(versions["scaled", 1].signer)
    with tarfile.open(staged) as tar:
        packed = tar.extractfile(f"models/scaled/1/{WEIGHTS}")
        assert packed is not None
        assert packed.read() == right
        assert not [name for name in tar.getnames() if name.endswith((".pem", ".pub", ".key"))]

"""A fleet of `scaled` at version 1 on this machine, its server, and the toolkit's rollouts of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from click.testing import CliRunner, Result

from tests.k8s.followed import Followed, followed, phases_told
from tests.k8s.load import NOWHERE, Load, Outcome
from tests.manifests import sealed
from tests.servers import ROOT, Served, serve
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.clients.errors import ServingError
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.model_server import VARIABLE
from tfserving.k8s.rollout.local import LocalStore
from tfserving.k8s.rollout.state import Phase, State
from tfserving.serving.models_yaml.fleet import CANARY, STABLE, canary_name, read_fleet
from tfserving.serving.running import fleet_folder

# Few requests and short blocks of time are enough to be sure of what is so much worse.
ROLLOUT = "rollout: {window: 0.2, bake: 0.5, longest: 20, latency: 8, error_rate: 0.2, probe: 40}\n"
MODELS = "models:\n  scaled:\n    builder: tests.scaled:build  # ours\n    labels: {stable: 1}\n"
WITH_CANARY = MODELS.replace("{stable: 1}", "{stable: 1, canary: 1}")

PHASES: tuple[Phase, ...] = ("loading", "proving", "canary", "stable", "baking", "unloading")


@dataclass
class Rolled:
    """The fleet in `folder`, beside versions that it may have later, and its server."""

    folder: Path
    engine: str
    env: dict[str, str] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def file(self) -> Path:
        return self.folder / "models.yaml"

    def have(self, version: int, at: int | None = None) -> Path:
        """Copies a version to where the fleet has its own, as version `at` if that is given."""
        target = self.folder / "models/scaled" / str(at or version)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder / "later" / str(version), target)
        return target

    def start(self, ports: tuple[int, int] | None = None) -> None:
        """`tfserving serve`, as a user types it."""
        fleet = ["--fleet", str(self.file), "--port", "{port}", "--rest-port", "{rest_port}"]
        command = [sys.executable, "-m", "tfserving", "serve", "--engine", self.engine, *fleet]
        self.server: Served = self._stack.enter_context(serve(command, ROOT, self.env, ports))

    def stop(self) -> None:
        """Ctrl-C."""
        self._stack.close()

    def kill(self) -> None:
        """SIGKILL for the server, and what looks after it."""
        for process in psutil.Process(self.server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        os.killpg(self.server.process.pid, signal.SIGKILL)
        self.stop()

    def restart(self, load: Load) -> None:
        """Kills the server, and starts it again on its ports."""
        with load.down():
            self.kill()
            self.start((self.server.grpc_port, self.server.rest_port))

    def command(self, *words: str) -> list[str]:
        return ["rollout", *words, "--fleet", str(self.file)]

    def rollout(self, *words: str, code: int | None = 0, load: Load | None = None) -> Result:
        """`tfserving rollout WORDS` for this fleet, in this process; it must exit with `code`, if any.

        `load` hears of every phase before it begins.
        """
        with phases_told(load.enters if load else lambda _: None):
            done = CliRunner().invoke(tfserving, self.command(*words))
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert code is None or done.exit_code == code, f"{words}: {done.exit_code}\n{done.output}"
        return done

    def tries(self, *words: str) -> int:
        """The exit code of `tfserving rollout WORDS`, in this process."""
        return CliRunner().invoke(tfserving, self.command(*words)).exit_code

    @contextlib.contextmanager
    def following(self, *words: str) -> Iterator[Followed]:
        """A rollout in another shell, which holds wherever a phase begins."""
        with followed(self.command(*words), self.folder / "followed.txt", self.env) as rollout:
            yield rollout

    def status(self) -> dict[str, Any]:
        """What `rollout status` knows of the last rollout."""
        found = json.loads(self.rollout("status", "scaled", "--json").stdout)["rollouts"]
        return dict(found[0]) if found else {"phase": ""}

    @property
    def phase(self) -> str:
        return str(self.status()["phase"])

    @property
    def state(self) -> State:
        """That of the last rollout, as it is noted."""
        found = LocalStore(read_fleet(self.file), "scaled").load()
        assert found is not None
        return found

    def load(self, **settings: Any) -> Load:
        return Load((self.server.url("grpc"), self.server.url("rest")), **settings)

    def serves(self, *, stable: int, available: set[int], canary: int | None = None) -> bool:
        """Whether the server has so much under the model's name, and this alone under that of its canary."""
        with connect(self.server.url("grpc")) as client:
            found = {one.version for one in client.status("scaled") if one.state == "AVAILABLE"}
            own = {_version(client, "scaled", None), _version(client, "scaled", STABLE)}
            trial = {_version(client, canary_name("scaled"), label) for label in (None, CANARY)}
        return (own, found, trial) == ({stable}, available, {canary or NOWHERE})

    def back(self, models: str = MODELS, rollout: str = ROLLOUT) -> None:
        """Has the fleet and its server be as they were before the test, and no rollout ever."""
        shutil.rmtree(fleet_folder(read_fleet(self.file)) / "rollouts", ignore_errors=True)
        self.file.write_text(models + rollout)
        if self.server.process.poll() is not None:
            # A test that failed leaves the others a server.
            self.start((self.server.grpc_port, self.server.rest_port))
        if not self.serves(stable=1, available={1}, canary=read_fleet(self.file).models["scaled"].labels.get(CANARY)):
            done = CliRunner().invoke(tfserving, ["serve", "reload", "--fleet", str(self.file)])
            assert done.exit_code == 0, done.output
        for version in (self.folder / "models/scaled").iterdir():
            if version.name != "1":
                shutil.rmtree(version)


def _version(client: Any, name: str, label: str | None) -> Outcome:
    try:
        return int(client.metadata(name, label=label).version)
    except ServingError:
        return NOWHERE


@contextlib.contextmanager
def at_version_1(folder: Path, versions: Path, engine: str, program: Path | None = None) -> Iterator[Rolled]:
    """A new fleet in `folder`, of `versions`, on a server of `engine`, which is `program` where that is native."""
    shutil.copytree(versions / "1", folder / "models/scaled/1")
    shutil.copytree(versions, folder / "later")
    (folder / "models.yaml").write_text(MODELS + ROLLOUT)
    rolled = Rolled(folder, engine, {VARIABLE: str(program)} if program else {})
    rolled.start()
    try:
        yield rolled
    finally:
        rolled.stop()


def resealed(version: Path, *names: str) -> None:
    """Has the manifest of a version say that its files `names` are right as they are."""
    path = version / MANIFEST
    said = json.loads(path.read_bytes())
    for name in names:
        data = (version / name).read_bytes()
        said["files"][name].update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    path.write_text(sealed(said))


def crashing(version: Path) -> None:
    """Has TensorFlow end the process that loads a version, by a check of its own at the first warm-up request."""
    import tensorflow as tf

    def crashed(rows: Any) -> dict[str, Any]:
        # How many dimensions it has is known when it runs.
        scalar = tf.reshape(rows[:1, :1], tf.zeros([tf.shape(rows)[0] * 0], tf.int32))
        wrong = tf.quantization.fake_quant_with_min_max_vars_per_channel(scalar, -tf.ones(3), tf.ones(3))
        return {"sums": tf.reduce_sum(rows, axis=1) + tf.reduce_sum(wrong)}

    function = tf.function(crashed).get_concrete_function(rows=tf.TensorSpec((None, 3), tf.float32, name="rows"))
    tf.saved_model.save(tf.Module(), str(version), signatures={"serving_default": function})
    # Pods are other users.
    subprocess.run(["chmod", "-R", "a+rX", str(version)], check=True)
    found = json.loads((version / MANIFEST).read_bytes())["files"]
    resealed(version, *(name for name in found if (version / name).is_file()))

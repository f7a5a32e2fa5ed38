"""Twenty ways to get a changed byte served where `trust` is set, and what is served instead.

    models/ ──publish──► bucket ──fetch──► the server's models/ ──reload──► private copies ──► answers
       1 to 5             6 to 14 │               15 to 19                      20
                                  └──sync──► a pod's folder (7 to 14, too)

Version 1 multiplies by 1 and is served. The owner signs version 2, which multiplies by 2. Attackers can write to a hop,
have a key and versions of their own, which multiply by 3, and want the server to multiply by 3, or to serve version 1
as a newer one. Each way ends with a command that refuses, and a server that still multiplies by 1. The first test is
the way without an attack: it ends with a server that multiplies by 2.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import s3fs
from click.testing import CliRunner

from tests.exporting import export_scaled
from tests.k8s.rolled import Rolled
from tests.object_stores import Store, started
from tests.servers import wait_for
from tests.signed import make_key, sign_with
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.export.manifest import hash_files, read_manifest
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE
from tfserving.foundation.store import Store as Source
from tfserving.foundation.trust import Trust
from tfserving.k8s.copying import Wanted, sync
from tfserving.serving import admitted

# The index has the checksums of the values.
WEIGHTS = ("variables/variables.data-00000-of-00001", "variables/variables.index")
BUILDER = "{builder: tests.scaled:build}"


@dataclass
class Chain:
    """All hops of one model. `versions` has what was exported: by the owner, 1 and 2, and by who attacks, 3."""

    folder: Path
    store: Store
    owner: Path
    public: Path
    attacker: Path
    served: Rolled = field(init=False)

    @property
    def versions(self) -> Path:
        return self.folder / "versions/models"

    @property
    def exported(self) -> Path:
        """The owner's folder of version 2, which `publish` reads."""
        return self.folder / "owner/models/scaled/2"

    @property
    def fetched(self) -> Path:
        """Version 2 in the folder of the server's models.yaml."""
        return self.folder / "server/models/scaled/2"

    @property
    def objects(self) -> str:
        return "bucket/models/scaled/2"

    def run(self, where: str, *words: str) -> tuple[int, str]:
        """The exit code of `tfserving WORDS` in one of the projects, and what it printed."""
        s3fs.S3FileSystem.clear_instance_cache()
        fleet = self.folder / where / "models.yaml"
        done = CliRunner(env=self.store.env).invoke(tfserving, [*words, "--fleet", str(fleet)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        # A command is a process of its own.
        admitted.release()
        return done.exit_code, done.output

    def publish(self) -> tuple[int, str]:
        return self.run("owner", "export", "publish", "scaled/2", "s3://bucket/models")

    def fetch(self) -> tuple[int, str]:
        return self.run("server", "export", "fetch", "s3://bucket/models", "scaled/2")

    def reload(self) -> tuple[int, str]:
        return self.run("server", "serve", "reload")

    def sync(self) -> set[str]:
        """The versions that a pod has after a pass of its sync container."""
        pod = self.folder / "pod"
        pod.mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.store.env.items():
                patch.setenv(name, value)
            wanted = Wanted(trust=Trust(keys=(self.public,)))
            sync(Source("s3://bucket/models"), pod, wanted, lambda _: None, {})
        return {str(path.relative_to(pod)) for path in pod.glob("*/[0-9]*")}

    def answer(self) -> float:
        """What the server multiplies by."""
        with connect(self.served.server.url("grpc")) as client:
            return float(client.predict("scaled", [[1, 0, 0]]).outputs["sums"][0])

    def put(self, version: Path) -> None:
        """Has the bucket have the files of `version` as version 2, and no other."""
        self.empty()
        for path in sorted(version.rglob("*")):
            if path.is_file():
                self.store.system.pipe_file(f"{self.objects}/{path.relative_to(version)}", path.read_bytes())

    def empty(self) -> None:
        self.store.system.invalidate_cache()
        if found := self.store.system.find("bucket"):
            self.store.system.rm(found)

    def reset(self) -> None:
        """Has the owner's folder have version 2 as it was signed, the server's version 1, and the bucket none."""
        for folder in (self.exported, self.fetched, self.folder / "pod", self.folder / "server/models/scaled/3"):
            shutil.rmtree(folder, ignore_errors=True)
        if self.fetched.is_symlink():
            self.fetched.unlink()
        shutil.copytree(self.versions / "scaled/2", self.exported)
        self.empty()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    keys = {name: make_key(folder, name) for name in ("owner", "attacker")}
    trust = f"trust: {{keys: ['{keys['owner'][1]}']}}\n"
    models = f"models:\n  scaled: {BUILDER}\n"
    for name, text in {"versions": models, "owner": models + trust, "server": models + trust}.items():
        (folder / name).mkdir()
        (folder / name / "models.yaml").write_text(text)
    export_scaled(folder / "versions/models.yaml", [1, 2, 3])
    another = shutil.copytree(folder / "versions/models/scaled/3", folder / "versions/models/other/2")
    relist(another, model="other", version=2)
    for version in ("scaled/1", "scaled/2", "other/2"):
        sign_with(folder / "versions/models" / version, keys["owner"][0])
    shutil.copytree(folder / "versions/models/scaled/1", folder / "server/models/scaled/1")
    state = {"XDG_STATE_HOME": str(folder / "state")}
    (folder / "weed").mkdir()
    with started(folder / "weed") as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", state["XDG_STATE_HOME"])
        store.system.mkdir("bucket")
        made = Chain(folder, store, *keys["owner"], keys["attacker"][0])
        made.served = Rolled(folder / "server", "embedded", state)
        made.served.start()
        try:
            yield made
        finally:
            made.served.stop()


@pytest.fixture(autouse=True)
def _as_it_was(chain: Chain) -> None:
    chain.reset()


def weights(chain: Chain, version: Path) -> None:
    """The attacker's weights, in files of the same size."""
    for name in WEIGHTS:
        replaced = (chain.versions / "scaled/3" / name).read_bytes()
        assert len(replaced) == (version / name).stat().st_size
        (version / name).write_bytes(replaced)


def listed_weights(chain: Chain, version: Path) -> None:
    """The attacker's weights, in a manifest that lists them."""
    weights(chain, version)
    relist(version)


def relist(folder: Path, **changes: Any) -> None:
    """Has the manifest of a version list what is there, with a new digest."""
    manifest = read_manifest(folder)
    (folder / MANIFEST).write_text(manifest.model_copy(update={"files": hash_files(folder), **changes}).text())


def unsigned(chain: Chain, version: Path) -> None:
    """The attacker's weights in a version without a signature."""
    listed_weights(chain, version)
    (version / SIGNATURE).unlink()


def signed_by_another(chain: Chain, version: Path) -> None:
    """The attacker's weights, signed by the attacker."""
    listed_weights(chain, version)
    sign_with(version, chain.attacker)


def older(chain: Chain, version: Path) -> None:
    """Version 1 of the owner, with its signature, in place of version 2."""
    shutil.rmtree(version)
    shutil.copytree(chain.versions / "scaled/1", version)


def of_another_model(chain: Chain, version: Path) -> None:
    """A version of another model that the owner signed, which multiplies by 3."""
    shutil.rmtree(version)
    shutil.copytree(chain.versions / "other/2", version)


def signature_of_another(chain: Chain, version: Path) -> None:
    """The attacker's weights with the owner's signature of version 1."""
    listed_weights(chain, version)
    shutil.copy(chain.versions / "scaled/1" / SIGNATURE, version / SIGNATURE)


def graph(_: Chain, version: Path) -> None:
    """A graph with other names, of the same size."""
    data = (version / SAVED_MODEL).read_bytes()
    assert b"sums" in data
    (version / SAVED_MODEL).write_bytes(data.replace(b"sums", b"SUMS"))
    relist(version)


def added(_: Chain, version: Path) -> None:
    """One more file, which the manifest lists: TensorFlow Serving reads such a file's batch sizes."""
    (version / "batching_params.pbtxt").write_text("max_batch_size { value: 1 }")
    relist(version)


def linked(chain: Chain, version: Path) -> None:
    """Links to the attacker's weights."""
    for name in WEIGHTS:
        (version / name).unlink()
        (version / name).symlink_to(chain.versions / "scaled/3" / name)


Attack = Callable[[Chain, Path], None]
IN_A_FOLDER: tuple[Attack, ...] = (weights, listed_weights, unsigned, signed_by_another, linked)
IN_THE_BUCKET: tuple[Attack, ...] = (
    *(weights, listed_weights, unsigned, signed_by_another, signature_of_another, graph),
    *(older, of_another_model, added),
)


# What each is refused for.
REASONS: dict[Attack, str] = {
    weights: "SHA-256",
    listed_weights: f"signed: {MANIFEST}, {WEIGHTS[0]}, {WEIGHTS[1]} differ",
    unsigned: f"is not signed: it has no {SIGNATURE}",
    signed_by_another: "is not signed by anyone who is trusted",
    signature_of_another: "differ",
    graph: f"signed: {MANIFEST}, {SAVED_MODEL} differ",
    older: "is version 1 of scaled, expected version 2 of scaled",
    of_another_model: "is version 2 of other, expected version 2 of scaled",
    added: f"signed: {MANIFEST}, batching_params.pbtxt differ",
    linked: "is a link",
}


def test_what_the_owner_signed_goes_all_the_way(chain: Chain) -> None:
    for step in (chain.publish, chain.fetch, chain.reload):
        code, printed = step()
        assert code == 0, printed
    wait_for(lambda: chain.answer() == 2)
    assert chain.sync() == {"scaled/2"}
    # As it was, for the others.
    shutil.rmtree(chain.fetched)
    assert chain.reload()[0] == 0
    wait_for(lambda: chain.answer() == 1)


@pytest.mark.parametrize("attack", IN_A_FOLDER, ids=lambda attack: attack.__name__)
def test_attack_in_the_folder_of_the_owner_is_not_published(chain: Chain, attack: Attack) -> None:
    attack(chain, chain.exported)
    code, printed = chain.publish()
    assert (code, REASONS[attack] in printed) == (1, True), printed
    chain.store.system.invalidate_cache()
    assert not chain.store.system.exists(f"{chain.objects}/{MANIFEST}")
    assert chain.fetch()[0] == 1
    assert chain.answer() == 1


@pytest.mark.parametrize("attack", IN_THE_BUCKET, ids=lambda attack: attack.__name__)
def test_attack_in_the_bucket_is_neither_fetched_nor_synced(chain: Chain, attack: Attack) -> None:
    changed = shutil.copytree(chain.exported, chain.folder / "changed", dirs_exist_ok=True)
    attack(chain, changed)
    chain.put(changed)
    shutil.rmtree(changed)
    code, printed = chain.fetch()
    assert (code, "s3://bucket/models/scaled/2" in printed, REASONS[attack] in printed) == (1, True, True), printed
    assert not chain.fetched.exists()
    assert chain.sync() == set()
    assert chain.answer() == 1


@pytest.mark.parametrize("attack", IN_A_FOLDER, ids=lambda attack: attack.__name__)
def test_attack_in_the_folder_of_the_server_is_not_loaded(chain: Chain, attack: Attack) -> None:
    shutil.copytree(chain.exported, chain.fetched)
    attack(chain, chain.fetched)
    code, printed = chain.reload()
    assert (code, str(chain.fetched) in printed, REASONS[attack] in printed) == (2, True, True), printed
    assert chain.answer() == 1


def test_attack_on_what_is_served_reaches_no_server(chain: Chain) -> None:
    for version in (chain.fetched.parent / "1", chain.fetched.parent / "3"):
        # Version 1 in place, and a newer one, while the server runs.
        shutil.copytree(chain.versions / "scaled/3", version, dirs_exist_ok=True)
    try:
        assert chain.reload()[0] == 2
        assert chain.answer() == 1
    finally:
        shutil.rmtree(chain.fetched.parent / "1")
        shutil.copytree(chain.versions / "scaled/1", chain.fetched.parent / "1")


def test_these_are_twenty_ways() -> None:
    assert len(IN_A_FOLDER) * 2 + len(IN_THE_BUCKET) + 1 == 20

"""`tfserving export provenance`: an in-toto statement with a SLSA predicate, read and verified by other programs."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement
from sigstore.dsse import Statement as SigstoreStatement

from tests.export.conftest import Project
from tests.manifests import PROVENANCE
from tests.signed import make_key
from tfserving.export.check import CheckError
from tfserving.export.manifest import Manifest, read_manifest
from tfserving.export.provenance import BuilderFile, SourceCommit
from tfserving.export.slsa import statement
from tfserving.foundation import extras
from tfserving.foundation.manifest import MANIFEST

COMMIT = 40 * "a"


@pytest.fixture
def full(copied: Path) -> Manifest:
    """The manifest of `copied`, with a source, data and a package of a local version."""
    made = PROVENANCE.model_copy(
        update={
            "source": SourceCommit(repository="https://example.com/r.git", commit=COMMIT, dirty=True, path="team"),
            "builder_file": BuilderFile(path="team/zoo.py", sha256=64 * "b"),
            "training_data": {"rows": f"sha256:{64 * 'c'}", "labels": f"git:{40 * 'd'}"},
            "packages": {"tensorflow": "2.21.0", "torch": "2.9.0+cpu"},
        }
    )
    manifest = read_manifest(copied).model_copy(
        update={"provenance": made, "saved_model": "/home/me/found", "checkpoint": "ckpt-4", "options": ("freeze",)}
    )
    (copied / MANIFEST).write_text(manifest.text())
    return read_manifest(copied)


def parsed(content: dict[str, Any]) -> Any:
    """The predicate, as in-toto's library reads and validates it: a field that it lacks is an error."""
    made = Statement([], "", {})
    ParseDict(content, made.pb)
    made.validate()
    assert made.pb.predicate_type == "https://slsa.dev/provenance/v1"
    return ParseDict(content["predicate"], provenance_pb2.Provenance())


def test_the_subjects_are_all_files_of_the_version(copied: Path, full: Manifest) -> None:
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement(copied)["subject"]}
    assert subjects.keys() == {*full.files, MANIFEST}
    for name, sha256 in subjects.items():
        assert sha256 == hashlib.sha256((copied / name).read_bytes()).hexdigest()


def test_the_predicate_has_what_the_manifest_has(copied: Path, full: Manifest) -> None:
    content = statement(copied, "https://ci.example/export@v1")
    predicate = parsed(content)
    definition, details = predicate.build_definition, predicate.run_details
    assert definition.build_type == "pkg:pypi/tfserving#export/v1"
    assert content["predicate"]["buildDefinition"]["externalParameters"] == {
        "model": "scale",
        "version": 1,
        "builder": "zoo:scale",
        "savedModel": "found",
        "checkpoint": "ckpt-4",
        "options": ["freeze"],
    }
    source, builder, labels, rows, *packages = definition.resolved_dependencies
    assert (source.uri, dict(source.digest)) == ("git+https://example.com/r.git", {"gitCommit": COMMIT})
    assert (source.annotations["dirty"], source.annotations["path"]) == (True, "team")
    assert (builder.name, dict(builder.digest)) == ("team/zoo.py", {"sha256": 64 * "b"})
    found = {one.name: (dict(one.digest), one.annotations["kind"]) for one in (rows, labels)}
    assert found == {
        "rows": ({"sha256": 64 * "c"}, "training data"),
        "labels": ({"gitCommit": 40 * "d"}, "training data"),
    }
    assert [one.uri for one in packages] == [
        "pkg:generic/python@3.11.0",
        "pkg:pypi/tensorflow@2.21.0",
        "pkg:pypi/torch@2.9.0%2Bcpu",
    ]
    assert details.builder.id == "https://ci.example/export@v1"
    assert dict(details.builder.version) == {"tfserving": "0.1.0", "python": "3.11.0"}
    assert details.metadata.invocation_id == f"sha256:{full.digest}"
    assert details.metadata.started_on.ToDatetime() == PROVENANCE.started.replace(tzinfo=None)
    assert details.metadata.finished_on.ToDatetime() == full.created.replace(tzinfo=None)
    assert "/home/me" not in json.dumps(content)


def test_sigstores_own_reader_accepts_the_statement(version: Path) -> None:
    data = json.dumps(statement(version)).encode()
    read = SigstoreStatement(data)
    assert read._matches_digest(_hashed(version / "saved_model.pb"))
    assert not read._matches_digest(_hashed(Path(__file__)))


def _hashed(path: Path) -> Any:
    from sigstore.hashes import Hashed
    from sigstore_models.common.v1 import HashAlgorithm

    return Hashed(algorithm=HashAlgorithm.SHA2_256, digest=hashlib.sha256(path.read_bytes()).digest())


def test_attack_a_changed_version_gets_no_statement(copied: Path) -> None:
    (copied / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(CheckError, match=r"saved_model\.pb: got 5 bytes"):
        statement(copied)


def test_the_command_prints_the_statement_or_writes_it_whole(exported: Project, tmp_path: Path) -> None:
    done = exported.run("provenance", "scale")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == statement(exported.folder / "models/scale/1")
    file = tmp_path / "scale.json"
    again = exported.run("provenance", "scale/1", "--output", str(file))
    assert (again.returncode, again.stdout) == (0, "")
    assert file.read_text() == done.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["scale/9"], "has no version 9"),
        (["scale", "--builder-id", "my laptop"], "--builder-id: got 'my laptop', expected a URI"),
        (["scale", "--sign", "nowhere.key"], "nowhere.key: No such file or directory"),
        (["scale", "--output", "nowhere/file"], "the folder nowhere does not exist"),
        (["zoo"], "neither a model nor the folder of a SavedModel"),
    ],
    ids=["version", "builder", "key", "output", "model"],
)
def test_a_wrong_argument_of_the_command_is_named(exported: Project, arguments: list[str], problem: str) -> None:
    done = exported.run("provenance", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_signed_statement_is_verified_by_openssl(exported: Project, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key, public = make_key(tmp_path, "team", curve, password="" if curve.key_size == 256 else "hunter2")
    done = exported.run("provenance", "scale", "--sign", str(key), env={"TFSERVING_SIGN_PASSWORD": "hunter2"})
    assert done.returncode == 0, done.stderr
    envelope = json.loads(done.stdout)
    payload = base64.b64decode(envelope["payload"])
    assert json.loads(payload) == statement(exported.folder / "models/scale/1")
    (signature,) = envelope["signatures"]
    assert signature["keyid"] == hashlib.sha256(public.read_bytes()).hexdigest()
    # https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md
    kind = b"application/vnd.in-toto+json"
    assert envelope["payloadType"].encode() == kind
    (tmp_path / "signature").write_bytes(base64.b64decode(signature["sig"]))
    digest = {256: "sha256", 384: "sha384", 521: "sha512"}[curve.key_size]
    verify = ["openssl", "dgst", f"-{digest}", "-verify", str(public), "-signature", str(tmp_path / "signature")]
    for text, verdict in ((payload, "Verified OK"), (payload.replace(b"scale", b"other"), "Verification failure")):
        data = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(text), text)
        assert verdict in subprocess.run(verify, input=data, capture_output=True, check=False).stdout.decode()


def test_without_the_extra_the_command_names_it(exported: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    done = exported.run("provenance", "scale")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Install the extra 'sign'" in done.stderr

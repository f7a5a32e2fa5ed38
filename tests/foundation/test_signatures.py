"""A signature is read without trust: whatever is in the file, it is accepted whole or refused in one line."""

from __future__ import annotations

import base64
import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing
from model_signing._signing import sign_sigstore_pb

from tests.signed import make_key, read_signature, sign_with, tiny_version, write_signature
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE
from tfserving.foundation.trust import Trust, TrustError, accept
from tfserving.foundation.version_files import VersionError

# The library has no types.
_HASHING: Any = hashing.Config
_SIGNING: Any = signing.Config
# What stands in place of each part of the file.
OTHERS: list[Any] = [None, True, 7, -1.5, "", "x", "é\n", [], [1], {}, {"a": 1}, 10**30]


class Owner:
    """A version that the trusted key signed, and that key, which signs whatever a test wants."""

    def __init__(self, folder: Path) -> None:
        self.key, public = make_key(folder, "owner")
        self.trust = Trust(keys=(public,))
        self.version = sign_with(tiny_version(folder / "models"), self.key)
        self.signature = read_signature(self.version)
        self.statement = json.loads(base64.b64decode(self.signature["dsseEnvelope"]["payload"]))

    def signs(self, statement: Any, encode: Callable[[bytes], bytes] = sign_sigstore_pb.pae) -> None:
        """The trusted key signs this statement."""
        payload = json.dumps(statement).encode()
        private: Any = serialization.load_pem_private_key(self.key.read_bytes(), None)
        made = private.sign(encode(payload), ec.ECDSA(hashes.SHA256()))
        signatures = [{"sig": base64.b64encode(made).decode(), "keyid": ""}]
        envelope = self.signature["dsseEnvelope"] | {
            "payload": base64.b64encode(payload).decode(),
            "signatures": signatures,
        }
        write_signature(self.version, self.signature | {"dsseEnvelope": envelope})

    def accepted(self) -> str | None:
        return accept(self.version, "scaled", 1, self.trust).signer

    def refused(self, words: str = "") -> None:
        with pytest.raises(VersionError) as caught:
            self.accepted()
        text = str(caught.value)
        assert words in text
        assert len(text) < 1500
        if isinstance(caught.value, TrustError):
            assert len(text.splitlines()) == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return Owner(tmp_path_factory.mktemp("owner"))


@pytest.fixture
def owner(made: Owner, tmp_path: Path) -> Owner:
    changed = copy.copy(made)
    changed.version = Path(shutil.copytree(made.version, tmp_path / "models/scaled/1"))
    changed.statement = copy.deepcopy(made.statement)
    return changed


def places(content: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
    yield path
    for key in content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        yield from places(content[key], *path, key)


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(content)
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return changed


def test_a_statement_that_the_owner_signs_by_hand_is_accepted(owner: Owner) -> None:
    owner.signs(owner.statement)
    assert owner.accepted()


def test_every_part_of_the_file_with_another_value_is_refused_in_one_line(owner: Owner) -> None:
    # Nothing is in this list, and nobody signed the identifier of a key.
    free = {("verificationMaterial", "tlogEntries"), ("dsseEnvelope", "signatures", 0, "keyid")}
    tried = 0
    for path in set(places(owner.signature)) - free:
        for other in OTHERS:
            write_signature(owner.version, put(owner.signature, path, other))
            owner.refused()
            tried += 1
    assert tried > 100


def test_every_part_of_a_signed_statement_with_another_value_is_refused_in_one_line(owner: Owner) -> None:
    # The model's name is for readers. Paths to ignore have no effect, as every file must be listed.
    free = [("subject", 0, "name"), ("predicate", "serialization", "ignore_paths")]
    for path in places(owner.statement):
        if any(path[: len(one)] == one for one in free):
            continue
        for other in OTHERS:
            # JSON's 0 and false are equal in Python; the value that is there is not another one.
            owner.signs(put(owner.statement, path, other))
            owner.refused()


def test_a_file_with_flipped_bits_is_accepted_only_if_it_means_the_same(owner: Owner) -> None:
    path = owner.version / SIGNATURE
    data = path.read_bytes()
    chosen = random.Random(41)  # noqa: S311
    errors = []
    for bit in chosen.sample(range(8 * len(data)), 200):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert owner.accepted()
        except VersionError as error:
            errors.append(str(error))
    assert len(errors) > 150
    assert all(len(error.splitlines()) == 1 for error in errors)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is not JSON at line 1"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"[" * 200_000, "it is nested too deep"),
        (b'{"mediaType":' * 100_000, "it is nested too deep"),
        (b"9" * 5000, "is no signature"),
        (b" " * (9 << 20), f"{SIGNATURE}: got 9437184 bytes, expected at most 8388608"),
        (b"[]", "the file is an empty list, expected an object"),
        (b'"text"', "expected an object"),
        (b"{}", "its mediaType is None"),
    ],
    ids=["empty", "cut", "UTF-16", "lists", "objects", "digits", "large", "list", "text", "nothing"],
)
def test_what_is_no_signature_is_refused_in_one_line(owner: Owner, content: bytes, words: str) -> None:
    write_signature(owner.version, content)
    owner.refused(words)


def test_attack_a_payload_that_is_nested_deep_is_refused(owner: Owner) -> None:
    envelope = owner.signature["dsseEnvelope"] | {"payload": base64.b64encode(b"[" * 200_000).decode()}
    write_signature(owner.version, owner.signature | {"dsseEnvelope": envelope})
    owner.refused("the payload is nested too deep")


@pytest.mark.parametrize("where", ["verification_material", "dsse_envelope", "media_type", "messageSignature"])
def test_attack_a_second_name_of_a_field_that_only_the_library_reads_is_refused(owner: Owner, where: str) -> None:
    write_signature(owner.version, owner.signature | {where: owner.signature["verificationMaterial"]})
    owner.refused(f"the file has {where}")


def test_attack_two_signers_in_one_signature_are_refused(owner: Owner) -> None:
    chain = {"certificates": [{"rawBytes": ""}]}
    material = owner.signature["verificationMaterial"] | {"x509CertificateChain": chain}
    write_signature(owner.version, owner.signature | {"verificationMaterial": material})
    owner.refused("publicKey and x509CertificateChain, expected one signer")


def test_attack_a_second_signature_in_the_envelope_is_refused(owner: Owner) -> None:
    envelope = owner.signature["dsseEnvelope"]
    two = envelope | {"signatures": 2 * envelope["signatures"]}
    write_signature(owner.version, owner.signature | {"dsseEnvelope": two})
    owner.refused("dsseEnvelope.signatures has 2, expected one")
    write_signature(owner.version, owner.signature | {"dsseEnvelope": envelope | {"signatures": []}})
    owner.refused("dsseEnvelope.signatures is an empty list")


def test_a_signature_that_does_not_name_its_key_is_refused(owner: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    write_signature(owner.version, owner.signature | {"verificationMaterial": {"publicKey": {}, "tlogEntries": []}})
    owner.refused("publicKey.hint is None, expected the SHA-256 of the key's PEM text")
    # The library prints a warning for it, which would be in the middle of a command's JSON.
    assert capsys.readouterr().out == ""


def test_a_statement_of_the_format_before_1_0_is_refused(owner: Owner) -> None:
    files = owner.statement["predicate"]["resources"]
    old = {
        "_type": owner.statement["_type"],
        "subject": [{"name": one["name"], "digest": {"sha256": one["digest"]}} for one in files],
        "predicateType": "https://model_signing/Digests/v0.1",
        "predicate": {"unused": "for now"},
    }
    owner.signs(old)
    owner.refused("predicateType of the payload is 'https://model_signing/Digests/v0.1', expected")


@pytest.mark.parametrize("missing", [MANIFEST, SAVED_MODEL])
def test_attack_a_statement_that_leaves_a_file_out_is_refused(owner: Owner, missing: str) -> None:
    predicate = owner.statement["predicate"]
    predicate["resources"] = [one for one in predicate["resources"] if one["name"] != missing]
    predicate["serialization"]["ignore_paths"].append(missing)
    digest = hashes.Hash(hashes.SHA256())
    for one in predicate["resources"]:
        digest.update(bytes.fromhex(one["digest"]))
    owner.statement["subject"][0]["digest"]["sha256"] = digest.finalize().hex()
    owner.signs(owner.statement)
    owner.refused(f"signed: {missing} differ")


def library_signs(owner: Owner, config: Any) -> None:
    (owner.version / SIGNATURE).unlink()
    signer = _SIGNING()
    signer.use_elliptic_key_signer(private_key=owner.key)
    signer.set_hashing_config(config).sign(owner.version, owner.version / SIGNATURE)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: _HASHING().set_ignored_paths(paths=["variables"]), "variables/variables.index differ"),
        (lambda: _HASHING().set_ignored_paths(paths=["assets.extra"]), "assets.extra/manifest.json differ"),
        (lambda: _HASHING().use_file_serialization(hashing_algorithm="blake3"), "hash_type is 'blake3', expec"),
        (lambda: _HASHING().use_file_serialization(hashing_algorithm="blake2"), "hash_type is 'blake2b', expect"),
        (lambda: _HASHING().use_shard_serialization(), "serialization.method is 'shards', expected \"files\""),
        (lambda: _HASHING().set_allow_symlinks(True), "allow_symlinks is True, expected false"),
    ],
    ids=["files ignored", "manifest ignored", "BLAKE3", "BLAKE2", "shards", "links"],
)
def test_attack_a_signature_by_the_owner_that_covers_less_is_refused(
    owner: Owner, config: Callable[[], Any], words: str
) -> None:
    library_signs(owner, config())
    owner.refused(words)


def test_paths_to_ignore_have_no_effect_when_every_file_is_listed(owner: Owner) -> None:
    owner.statement["predicate"]["serialization"]["ignore_paths"] = [".", "variables", "/etc", 7]
    owner.signs(owner.statement)
    assert owner.accepted()
    (owner.version / "variables/more").write_text("more")
    owner.refused("variables/more is not in the manifest")

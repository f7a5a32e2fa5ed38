"""Credentials of docker's configuration, with a real registry: by password, by a token server, by a helper."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from tests.authority import Authority as ServerAuthority
from tests.export.conftest import ROOT
from tests.export.registries import started
from tests.export.test_oci_hostile import Hostile
from tests.exporting import run_export
from tests.signed import Authority, tiny_version
from tfserving.export.oci.place import Place

USER, PASSWORD = "somebody", "right-password"
# bcrypt of the password.
HASHED = "$2b$04$abcdefghijklmnopqrstuuS80hwFD6gSIL20SCUGvmL7S939BjOHW"


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_version(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def with_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    (folder / "htpasswd").write_text(f"{USER}:{HASHED}\n")
    with started(folder, auth={"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}) as address:
        yield address


Log = Callable[[dict[str, Any]], None]


@pytest.fixture
def log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """Writes docker's configuration."""

    def write(content: dict[str, Any]) -> None:
        (tmp_path / "docker").mkdir(exist_ok=True)
        (tmp_path / "docker/config.json").write_text(json.dumps(content))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))

    return write


def auth(password: str = PASSWORD) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}


def publish(version: Path, address: str) -> Any:
    return run_export(ROOT, "publish", str(version), f"oci://{address}/models")


def test_a_password_in_dockers_configuration_is_used(with_password: str, version: Path, log_in: Log) -> None:
    log_in({"auths": {with_password: auth()}})
    done = publish(version, with_password)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize("known", ["nobody", "another registry", "a wrong password"])
def test_without_the_right_password_the_error_names_how_to_log_in(
    with_password: str, version: Path, log_in: Log, known: str
) -> None:
    content = {
        "nobody": {},
        "another registry": {"elsewhere:5000": auth()},
        "a wrong password": {with_password: auth("x")},
    }
    log_in({"auths": content[known]})
    done = publish(version, with_password)
    assert done.returncode == 1
    assert f"docker login {with_password}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_credential_helper_is_used(
    with_password: str, version: Path, log_in: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(f"""#!/bin/sh\nread host; echo '{{"Username": "{USER}", "Secret": "{PASSWORD}"}}'\n""")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    log_in({"credHelpers": {with_password: "test"}})
    assert publish(version, with_password).returncode == 0
    helper.write_text("#!/bin/sh\necho no JSON\n")
    done = publish(version, with_password)
    assert done.returncode == 1
    assert "a credential helper's, can't be used" in done.stderr


def test_a_configuration_that_is_none_is_an_error_without_its_contents(
    with_password: str, version: Path, log_in: Log, tmp_path: Path
) -> None:
    log_in({})
    (tmp_path / "docker/config.json").write_text(PASSWORD)
    done = publish(version, with_password)
    assert done.returncode == 1
    assert f"{tmp_path / 'docker/config.json'} is not a configuration of docker" in done.stderr
    assert PASSWORD not in done.stderr


class TokenServer(Hostile):
    """A token server as registries have them: it issues tokens to who knows the password.

    https://distribution.github.io/distribution/spec/auth/token/
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        authority = Authority(folder)
        key, certificate = authority.certificate("tokens")
        self._key = key.read_bytes()
        self.bundle = certificate
        self._der = "".join(line for line in certificate.read_text().splitlines() if not line.startswith("-----"))

    def answer(self, _path: str, _headers: dict[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        if not _path.startswith("/token?"):
            return None
        if _headers.get("authorization") != f"Basic {auth()['auth']}":
            return 401, {}, b"{}"
        query = parse_qs(urlsplit(_path).query)
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "tests", "sub": USER, "aud": "registry", "nbf": now - 9, "iat": now, "exp": now + 60}
        token = jwt.encode(
            {**claims, "jti": "1", "access": access}, self._key, algorithm="ES256", headers={"x5c": [self._der]}
        )
        return 200, {}, json.dumps({"token": token}).encode()


def test_a_token_server_issues_a_token_for_each_repository(version: Path, log_in: Log, tmp_path: Path) -> None:
    tokens = TokenServer(tmp_path)
    realm = f"http://{tokens.address}/token"
    settings = {"realm": realm, "service": "registry", "issuer": "tests", "rootcertbundle": str(tokens.bundle)}
    try:
        with started(tmp_path, auth={"token": settings}) as address:
            log_in({"auths": {address: auth()}})
            done = publish(version, address)
            assert done.returncode == 0, done.stderr
            got = run_export(ROOT, "fetch", f"oci://{address}/models", "scaled/1", "--folder", str(tmp_path / "got"))
            assert got.returncode == 0, got.stderr
            log_in({"auths": {address: auth("wrong")}})
            refused = run_export(ROOT, "fetch", f"oci://{address}/models", "scaled/1", "--folder", str(tmp_path / "no"))
            assert refused.returncode == 1
            assert f"docker login {address}" in refused.stderr
    finally:
        tokens.close()
    asked = {parse_qs(urlsplit(path).query)["scope"][0] for _, path, _ in tokens.seen}
    assert "repository:models/scaled:pull" in asked
    assert any("push" in scope for scope in asked)


def test_a_registry_with_tls_needs_a_certificate_of_a_known_authority(
    version: Path, log_in: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry runs on this machine, where TLS isn't needed: it is used as one elsewhere."""
    log_in({})
    monkeypatch.setattr(Place, "is_loopback", False)
    authority = ServerAuthority(tmp_path)
    tls = {"certificate": authority.path("server.pem"), "key": authority.path("server.key")}
    with started(tmp_path, tls=tls) as address:
        done = publish(version, address)
        assert done.returncode == 1
        assert "its certificate can't be verified" in done.stderr
        assert "REQUESTS_CA_BUNDLE" in done.stderr
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.path("ca.pem"))
        assert publish(version, address).returncode == 0
        plain = run_export(ROOT, "publish", str(version), f"oci://{address}/models", "--plain-http")
        assert plain.returncode == 1


def test_a_registry_elsewhere_without_tls_is_refused(
    with_password: str, version: Path, log_in: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its password isn't sent, unless --plain-http allows it."""
    log_in({"auths": {with_password: auth()}})
    monkeypatch.setattr(Place, "is_loopback", False)
    done = publish(version, with_password)
    assert done.returncode == 1
    assert "For a registry without TLS use --plain-http" in done.stderr or "certificate" in done.stderr
    plain = run_export(ROOT, "publish", str(version), f"oci://{with_password}/models", "--plain-http")
    assert plain.returncode == 0, plain.stderr

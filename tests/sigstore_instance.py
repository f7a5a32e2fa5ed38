"""A Sigstore instance on this machine, of one entry per log: what Fulcio, its certificate log and Rekor sign.

The certificates, timestamps, log entries and checkpoints are real, so the library signs with it and verifies what it
signed. It certifies whoever a token names, without verifying the token.
https://github.com/sigstore/architecture-docs
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_START = {"start": "2025-01-01T00:00:00Z"}
# https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
_ISSUER_V1, _ISSUER_V2 = (x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}") for number in (1, 8))
_TIMESTAMPS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


class Instance:
    """Its keys, and its client trust configuration in the file `config`."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.config = folder / "sigstore.json"
        self._root, self._certificates, self._log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fulcio")])
        now = datetime.now(timezone.utc)
        self._ca = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._root.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(issues=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._root.public_key()), critical=False)
            .sign(self._root, hashes.SHA256())
        )

    @contextmanager
    def running(self) -> Iterator[Instance]:
        """The instance on a port of this machine, with its configuration written."""
        instance = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._respond({f"{kind}_endpoint": f"{instance.url}/{kind}" for kind in ("authorization", "token")})

            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("/signingCert"):
                    token = self.headers["Authorization"].removeprefix("Bearer ")
                    self._respond(instance.certified(content["certificateSigningRequest"], token))
                else:
                    self._respond(instance.logged(content), 201)

            def log_message(self, *_: object) -> None: ...

            def _respond(self, content: object, code: int = 200) -> None:
                data = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            self.config.write_text(json.dumps(self._config()))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield self
            finally:
                server.shutdown()

    def certified(self, request: str, token: str) -> dict[str, Any]:
        """Fulcio's response: a certificate for the token's owner, with the timestamp of the certificate log."""
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        csr = x509.load_pem_x509_csr(base64.b64decode(request))
        issuer = claims["iss"].encode()
        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._ca.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(minutes=10))
            .add_extension(_usage(issues=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(claims["email"])]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V1, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, bytes([0x0C, len(issuer)]) + issuer), critical=False)
        )
        before = builder.sign(self._root, hashes.SHA256()).tbs_certificate_bytes
        listed = x509.UnrecognizedExtension(_TIMESTAMPS, self._timestamp(before))
        made = builder.add_extension(listed, critical=False).sign(self._root, hashes.SHA256())
        chain = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (made, self._ca)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _timestamp(self, tbs: bytes) -> bytes:
        """The list of one timestamp of a certificate without it, as DER (RFC 6962)."""
        milliseconds = int(time.time() * 1000)
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + hashlib.sha256(_spki(self._root)).digest()
        signed += struct.pack("!I", len(tbs))[1:] + tbs + b"\0\0"
        signature = self._certificates.sign(signed, ec.ECDSA(hashes.SHA256()))
        one = b"\0" + hashlib.sha256(_spki(self._certificates)).digest() + struct.pack("!QH", milliseconds, 0)
        one += b"\x04\x03" + struct.pack("!H", len(signature)) + signature
        listed = struct.pack("!HH", len(one) + 2, len(one)) + one
        return b"\x04" + (bytes([len(listed)]) if len(listed) < 128 else bytes([0x81, len(listed)])) + listed

    def logged(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Rekor's response: the entry for a signed statement, alone in its log."""
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        sha256 = [
            hashlib.sha256(one).hexdigest()
            for one in (content["envelope"].encode(), base64.b64decode(envelope["payload"]))
        ]
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": sha256[0]},
            "payloadHash": {"algorithm": "sha256", "value": sha256[1]},
            "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": content["verifiers"][0]}],
        }
        body = _canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        key_id = hashlib.sha256(_spki(self._log)).digest()
        entry: dict[str, Any] = {
            "body": base64.b64encode(body).decode(),
            "integratedTime": int(time.time()),
            "logID": key_id.hex(),
            "logIndex": 0,
        }
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"log\n1\n{base64.b64encode(root).decode()}\n"
        signature = base64.b64encode(key_id[:4] + self._log.sign(note.encode(), ec.ECDSA(hashes.SHA256()))).decode()
        promise = self._log.sign(_canonical(entry), ec.ECDSA(hashes.SHA256()))
        entry["verification"] = {
            "signedEntryTimestamp": base64.b64encode(promise).decode(),
            "inclusionProof": {
                "checkpoint": f"{note}\n\u2014 log {signature}\n",
                "hashes": [],
                "logIndex": 0,
                "rootHash": root.hex(),
                "treeSize": 1,
            },
        }
        return {"entry": entry}

    def _config(self) -> dict[str, Any]:
        def service(path: str = "") -> dict[str, Any]:
            return {"url": self.url + path, "majorApiVersion": 1, "validFor": _START, "operator": "test"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            spki = _spki(key)
            public = {"rawBytes": _text(spki), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": _START}
            key_id = {"keyId": _text(hashlib.sha256(spki).digest())}
            return {"baseUrl": self.url, "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": key_id}

        raw = _text(self._ca.public_bytes(serialization.Encoding.DER))
        authority = {
            "subject": {"organization": "test", "commonName": "fulcio"},
            "uri": self.url,
            "certChain": {"certificates": [{"rawBytes": raw}]},
            "validFor": _START,
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self._log)],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self._certificates)],
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service()],
                "oidcUrls": [service()],
                "rekorTlogUrls": [service()],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [],
                "tsaConfig": {"selector": "ANY"},
            },
        }


def token(email: str, issuer: str = "https://tokens.example.com") -> str:
    """The token of a job in CI whose identity is `email`."""
    now = int(time.time())
    claims = {"aud": "sigstore", "sub": email, "email": email, "iss": issuer, "iat": now, "exp": now + 600}
    parts = ({"alg": "ES256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


def _usage(*, issues: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    no = dict.fromkeys((*others, "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not issues, key_cert_sign=issues, crl_sign=issues, **no)

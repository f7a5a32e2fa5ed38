"""Verifies that a version on disk is what was exported."""

from __future__ import annotations

from pathlib import Path

from tfserving.export.errors import ExportError
from tfserving.export.manifest import Manifest, hash_files, read_manifest
from tfserving.export.proof import FreshProcess, Proof, prove
from tfserving.export.savedmodel import read_signatures
from tfserving.export.tolerances import Judge
from tfserving.foundation.golden import GoldenError, read_golden


class CheckError(ExportError):
    """A version is not what was exported; the text says every difference that was found."""


def check_files(folder: Path) -> Manifest:
    """The manifest of the version in `folder`, when every file and signature is as it says.

    Raises CheckError, or ManifestError when the manifest itself is missing or was changed.
    """
    manifest = read_manifest(folder)
    there = hash_files(folder)
    problems = [f"{name} is missing" for name in sorted(manifest.files.keys() - there.keys())]
    problems += [f"{name} is there and not in the manifest" for name in sorted(there.keys() - manifest.files.keys())]
    for name in sorted(manifest.files.keys() & there.keys()):
        wanted, found = manifest.files[name], there[name]
        if wanted.size != found.size:
            problems.append(f"{name} has {found.size} bytes, the manifest says {wanted.size}")
        elif wanted.sha256 != found.sha256:
            problems.append(f"{name} has SHA-256 {found.sha256}, the manifest says {wanted.sha256}")
    if not problems:
        signatures = read_signatures(folder)
        problems += [
            f"signature {name!r} is {signatures.get(name)}, the manifest says {manifest.signatures.get(name)}"
            for name in sorted(signatures.keys() | manifest.signatures.keys())
            if signatures.get(name) != manifest.signatures.get(name)
        ]
    if problems:
        raise CheckError("\n  ".join(["it is not what was exported:", *problems]))
    return manifest


def check_golden(folder: Path, manifest: Manifest) -> Proof:
    """How a fresh process answers the golden requests in `folder`, within the tolerances of its `manifest`.

    Raises ProofError when it answers otherwise, CheckError when the requests can't be read.
    """
    try:
        requests = read_golden(folder).requests
    except GoldenError as error:
        raise CheckError(str(error)) from None
    refused = {manifest.builder.partition(":")[0].partition(".")[0]} if manifest.builder else set()
    with FreshProcess() as fresh:
        _, proof = prove(fresh, folder, manifest.signatures, requests, Judge(manifest.tolerances, most=1.0), refused)
    return proof

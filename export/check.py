"""Verifies that a version on disk is unchanged since its export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tfserving.export.errors import ExportError
from tfserving.export.manifest import Manifest, read_manifest
from tfserving.export.proof import FreshProcess, Proof, prove
from tfserving.export.savedmodel import read_signatures
from tfserving.export.tolerances import Judge
from tfserving.foundation.devices import device_kind
from tfserving.foundation.golden import GoldenError, is_version, read_golden
from tfserving.foundation.trust import Trust, accept
from tfserving.foundation.version_files import VersionError


class CheckError(ExportError):
    """A version was changed since its export. The text lists every difference."""


def check_files(folder: Path) -> Manifest:
    """Return the manifest of the version in `folder`, after comparing every file and signature with it.

    Raises CheckError, or ManifestError when the manifest itself is missing or was changed.
    """
    return check_signed(folder, None)[0]


def check_signed(folder: Path, trust: Trust | None) -> tuple[Manifest, str | None]:
    """Return the manifest of the version in `folder` as `check_files` does, and who of `trust` signed it.

    With `trust`, a version in a folder MODEL/NUMBER must be that one. Raises CheckError or ManifestError.
    """
    manifest = read_manifest(folder)
    named = (manifest.model, manifest.version)
    place = folder.absolute()
    if trust and is_version(place.name):
        named = (place.parent.name, int(place.name))
    try:
        accepted = accept(folder, *named, trust)
    except VersionError as error:
        raise CheckError(str(error)) from None
    signatures = read_signatures(folder)
    problems = [
        f"signature {name!r}: got {signatures.get(name)}, expected {manifest.signatures.get(name)}"
        for name in sorted(signatures.keys() | manifest.signatures.keys())
        if signatures.get(name) != manifest.signatures.get(name)
    ]
    if problems:
        raise CheckError("\n  ".join([f"{folder} was changed since its export:", *problems]))
    return manifest, accepted.signer


def check_golden(folder: Path, manifest: Manifest) -> Proof:
    """Run the golden requests in `folder` in a fresh process, and compare within the tolerances of its `manifest`.

    They are those of this machine's device, without TF32. Raises ProofError when an output differs, CheckError when
    the requests can't be read or the manifest has no tolerances for the device.
    """
    try:
        requests = read_golden(folder).requests
    except GoldenError as error:
        raise CheckError(str(error)) from None
    refused = {manifest.builder.partition(":")[0].partition(".")[0]} if manifest.builder else set()
    with FreshProcess() as fresh:
        gpus = fresh.gpus()
        device = device_kind(gpu=bool(gpus), tf32=False)
        if device not in manifest.tolerances:
            known = ", ".join(manifest.tolerances) or "none"
            on = f"{gpus[0]}, the kind {device!r}" if gpus else "a processor, the kind 'cpu'"
            hint = ". Set CUDA_VISIBLE_DEVICES=-1 to check it on the processor" * (
                bool(gpus) and "cpu" in manifest.tolerances
            )
            raise CheckError(f"this machine runs it on {on}, and the manifest has only the tolerances of {known}{hint}")
        _, proof = prove(
            fresh, folder, manifest.signatures, requests, Judge(manifest.tolerances[device], most=1.0), refused
        )
    return replace(proof, device=device)

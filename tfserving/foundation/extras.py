"""The extras of this package, and the modules that each of them installs."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_REPORTS = ("PIL", "fsspec", "hdrh", "httptools", "jinja2", "matplotlib")
_FLEET = ("docker", "pydantic", "ruamel", "yaml")
# What the embedded server imports, which may be installed without the rest of its extra, in an image.
EMBEDDED = ("grpc_reflection", "httptools", "simdjson", "tensorflow", "uvloop")
# By extra the modules that its rooms import and that `pip install tfserving` alone doesn't bring.
EXTRAS: dict[str, tuple[str, ...]] = {
    "clients": (*_REPORTS, "pydantic", "yaml"),
    "export": (*_REPORTS, "keras", "pydantic", "ruamel", "tensorflow", "yaml"),
    # Without pygrpc_native the embedded server uses grpcio.
    "serving": (*_FLEET, *EMBEDDED, "cyclonedx", "packageurl", "pygrpc_native"),
    "k8s": (*_REPORTS, *_FLEET, "scipy"),
}
# What signing and verifying import.
SIGNATURES = ("cryptography", "in_toto_attestation", "model_signing", "OpenSSL", "securesystemslib", "sigstore")
# What calling a registry imports.
REGISTRIES = ("oras", "requests", "urllib3")
# What the models of MLflow need.
MLFLOW = ("mlflow",)
# By protocol the extras with the file systems of object stores, and with what reads registries.
_STORES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "oci": "oci"}
_OTHER_STORES = {"abfs": "adlfs", "az": "adlfs"}


def missing_extra(error: ModuleNotFoundError, extra: str, command: str) -> str | None:
    """Return the sentence that names the extra `command` needs; None for a module that `extra` doesn't install."""
    module = (error.name or "").partition(".")[0]
    return _install(command, module, extra) if module in EXTRAS[extra] else None


def missing_for_embedded(command: str) -> str | None:
    """Return the sentence that names what `command` lacks to run the embedded server; None when it lacks nothing."""
    module = next((name for name in EMBEDDED if find_spec(name) is None), None)
    return None if module is None else _install(command, module, "serving")


def missing_for_signatures(what: str) -> str | None:
    """Return the sentence that names what `what`, such as `trust`, lacks for signatures; None when it lacks nothing."""
    module = next((name for name in SIGNATURES if find_spec(name) is None), None)
    return None if module is None else _install(what, module, "sign")


def missing_for_store(url: str) -> str:
    """Return the sentence that names what reading or writing `url`, in an object store, needs."""
    protocol = url.partition("://")[0]
    remedy = f"Install {_OTHER_STORES.get(protocol, f'a file system of fsspec for {protocol}://')}."
    if extra := _STORES.get(protocol):
        remedy = f"Install the extra {extra!r}: {how_to_install(extra)}."
    return f"{url}: {protocol}:// needs a Python package that is not installed. {remedy}"


def missing_for(extra: str, what: str) -> str:
    """Return the sentence that names the extra which `what` needs."""
    return f"{what} needs a Python package that is not installed. Install the extra {extra!r}: {how_to_install(extra)}."


def how_to_install(extras: str) -> str:
    """Return the command that installs `extras` (with commas between them) into this environment, in backticks.

    It names where the toolkit was installed from: a clone, a wheel or a repository (PEP 610).
    """
    # `cpu` has tensorflow-cpu, the others tensorflow: two packages of the same files.
    names = set(extras.split(","))
    if _is_installed("tensorflow-cpu"):
        extras = "cpu" if names & {"export", "serving"} else extras
    elif _is_installed("tensorflow") and names == {"cpu"}:
        extras = "export,serving"
    program = "pip install"
    for mark, tool in (("uv-receipt.toml", "uv tool install"), ("pipx_metadata.json", "pipx install")):
        if Path(sys.prefix, mark).exists():
            # These tools replace the extras that were chosen before.
            program, extras = f"{tool} --force", "all"
    return f"`{program} {shlex.quote(_source(extras))}`"


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return bool(distribution(package))
    except PackageNotFoundError:
        return False


def repository() -> str | None:
    """Return the repository and commit that the toolkit was installed from, as pip takes it; None for others."""
    found = _direct_url()
    if (source := found.get("vcs_info")) is None:
        return None
    return f"{source['vcs']}+{found['url']}@{source['commit_id']}"


def _source(extras: str) -> str:
    if found := repository():
        return f"tfserving[{extras}] @ {found}"
    url = urlsplit(_direct_url().get("url", ""))
    return f"{unquote(url.path)}[{extras}]" if url.scheme == "file" else f"tfserving[{extras}]"


def _direct_url() -> dict[str, Any]:
    """Return where the toolkit was installed from (PEP 610); nothing when that was a package index."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found: dict[str, Any] = json.loads(distribution("tfserving").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return found


def _install(command: str, module: str, extra: str) -> str:
    return f"`{command}` needs the Python module {module!r}. Install the extra {extra!r}: {how_to_install(extra)}."

"""The extras of this package, and the modules that each of them installs."""

from __future__ import annotations

from importlib.util import find_spec

_REPORTS = ("PIL", "fsspec", "hdrh", "httptools", "jinja2", "matplotlib")
_FLEET = ("docker", "pydantic", "ruamel", "yaml")
# What the embedded server imports, which may be installed without the rest of its extra, in an image.
EMBEDDED = ("grpc_reflection", "httptools", "simdjson", "tensorflow", "uvloop")
# By extra the modules that its rooms import and that `pip install tfserving` alone doesn't bring.
EXTRAS: dict[str, tuple[str, ...]] = {
    "clients": _REPORTS,
    "export": (*_REPORTS, "keras", "pydantic", "ruamel", "tensorflow", "yaml"),
    # Without pygrpc_native the embedded server uses grpcio.
    "serving": (*_FLEET, *EMBEDDED, "pygrpc_native"),
    "k8s": (*_REPORTS, *_FLEET, "scipy"),
}


def missing_extra(error: ModuleNotFoundError, extra: str, command: str) -> str | None:
    """Return the sentence that names the extra `command` needs; None for a module that `extra` doesn't install."""
    module = (error.name or "").partition(".")[0]
    return _install(command, module, extra) if module in EXTRAS[extra] else None


def missing_for_embedded(command: str) -> str | None:
    """Return the sentence that names what `command` lacks to run the embedded server; None when it lacks nothing."""
    module = next((name for name in EMBEDDED if find_spec(name) is None), None)
    return None if module is None else _install(command, module, "serving")


def _install(command: str, module: str, extra: str) -> str:
    return (
        f"`{command}` needs the Python module {module!r}. Install the extra {extra!r}: "
        f"pip install 'tfserving[{extra}]' (in a clone: pip install '.[{extra}]')"
    )

"""The extras of this package, and the modules that each of them installs."""

from __future__ import annotations

# By extra the modules that its rooms import and that `pip install tfserving` alone doesn't bring.
_REPORTS = ("PIL", "fsspec", "hdrh", "httptools", "jinja2", "matplotlib")
_FLEET = ("docker", "pydantic", "ruamel", "yaml")
EXTRAS: dict[str, tuple[str, ...]] = {
    "clients": _REPORTS,
    "export": (*_REPORTS, "keras", "pydantic", "ruamel", "tensorflow", "yaml"),
    "serving": (*_FLEET, "grpc_reflection", "httptools", "simdjson", "tensorflow", "uvicorn", "uvloop"),
    "k8s": (*_REPORTS, *_FLEET),
}


def missing_extra(error: ModuleNotFoundError, extra: str, command: str) -> str | None:
    """The line that says which extra `command` needs; None when `error` is about a module that `extra` doesn't install.

    A module of the user's own that is missing is no extra's.
    """
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS[extra]:
        return None
    return (
        f"`{command}` needs the Python module {module!r}. Install the extra {extra!r}: "
        f"pip install 'tfserving[{extra}]' (in a clone: pip install '.[{extra}]')"
    )

"""What is installed in this environment: Python, the toolkit and its extras, TensorFlow."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import tfserving
from tfserving.doctor.finding import Finding
from tfserving.foundation.extras import EXTRAS, how_to_install

_GIVES = {
    "clients": "models by name, load tests, reports",
    "export": "export of models",
    "serving": "`tfserving serve` and the embedded server",
    "k8s": "rollouts and Kubernetes",
}
# The packages that have TensorFlow's files.
_TENSORFLOW = ("tensorflow", "tensorflow-cpu")


def python() -> Finding:
    """Return which Python runs this."""
    found = f"{platform.python_version()}, {sys.executable}"
    return Finding("Python", "ok", found, data={"version": platform.python_version(), "path": sys.executable})


def toolkit() -> Finding:
    """Return the version of the toolkit, and which of its extras are installed."""
    lacking = {extra: [module for module in modules if find_spec(module) is None] for extra, modules in EXTRAS.items()}
    installed = [extra for extra, modules in lacking.items() if not modules]
    missing = [extra for extra, modules in lacking.items() if modules]
    found = f"{tfserving.__version__} with {', '.join(installed) or 'no extras'}"
    hint = ""
    if missing:
        gives = "; ".join(f"{extra}: {_GIVES[extra]}" for extra in missing)
        hint = f"Not installed: {gives}. Install with {how_to_install(','.join(missing))}."
    return Finding(
        "tfserving",
        "missing" if missing else "ok",
        found,
        hint,
        {
            "version": tfserving.__version__,
            "path": str(Path(tfserving.__file__).parent),
            "extras": installed,
            "missing_extras": missing,
        },
    )


def tensorflow() -> Finding:
    """Return which TensorFlow is installed, without importing it."""
    found = {name: package_version(name) for name in _TENSORFLOW}
    present = {name: value for name, value in found.items() if value}
    data = {"packages": present}
    text = ", ".join(f"{name} {value}" for name, value in present.items())
    if not present:
        hint = f"Exports models and runs the embedded server. Install with {how_to_install('cpu')}."
        return Finding("TensorFlow", "missing", "not installed", hint, data)
    if len(present) > 1:
        hint = "They are two packages of the same files. Make a new environment with one of them."
        return Finding("TensorFlow", "problem", text, hint, data)
    if find_spec("tensorflow") is None:
        hint = f"Its package is there, its files are not. Install it again: {how_to_install('cpu')}."
        return Finding("TensorFlow", "problem", text, hint, data)
    if (needed := _needed()) and not next(iter(present.values())).startswith(f"{needed}."):
        hint = f"This toolkit is for TensorFlow {needed}. Install with {how_to_install('cpu')}."
        return Finding("TensorFlow", "problem", text, hint, data)
    return Finding("TensorFlow", "ok", text, data=data)


def package_version(package: str) -> str | None:
    """Return the version of an installed package; None if it isn't installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _needed() -> str | None:
    """Return the release of TensorFlow that the extras name, such as `2.21`."""
    from importlib.metadata import requires

    for text in requires("tfserving") or ():
        name, found, rest = text.partition("==")
        if found and name.strip() == "tensorflow":
            return rest.partition(".*")[0]
    return None

"""What is installed in this environment: Python, the toolkit and its extras, TensorFlow, a GPU for it."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distributions, version
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
_SECONDS = 2


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
    found = {name: _version(name) for name in _TENSORFLOW}
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


def gpu() -> Finding:
    """Return which GPUs the driver lists, and whether TensorFlow here can use them."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SECONDS, check=False)
        names = [line.partition(": ")[2].partition(" (")[0] for line in done.stdout.splitlines() if ": " in line]
    except (OSError, subprocess.TimeoutExpired):
        names = []
    cuda = any(one.name.startswith("nvidia-cudnn") for one in distributions() if one.name)
    data = {"gpus": names, "cuda_packages": cuda, "tensorflow_has_cuda": bool(_version("tensorflow"))}
    if not names:
        hint = "Optional: models run on the CPU. A GPU needs NVIDIA's driver."
        return Finding("GPU", "missing", "no NVIDIA GPU found", hint, data)
    found = ", ".join(names)
    if not cuda or _version("tensorflow-cpu"):
        hint = (
            "TensorFlow here can't use it. Install `tensorflow[and-cuda]`, in an environment without tensorflow-cpu, "
            "or serve with Docker and server.gpus."
        )
        return Finding("GPU", "missing", found, hint, data)
    return Finding("GPU", "ok", found, data=data)


def _version(package: str) -> str | None:
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

"""Which engines can run a server here, and which `tfserving serve` takes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserving.doctor.finding import Finding
from tfserving.doctor.fleet import server_settings
from tfserving.foundation.extras import how_to_install, missing_for_embedded
from tfserving.foundation.gpus import all_gpus
from tfserving.foundation.model_server import find_model_server, no_model_server

_NEEDS_SERVING = "needs the extra 'serving'"
_TOOLKIT = "Install it, run `sudo nvidia-ctk runtime configure --runtime=docker`, and restart Docker."


def docker(file: Path) -> Finding:
    """Return whether there is a Docker Engine, and whether it has the image of the fleet."""
    use = "Runs TensorFlow Serving itself, with limits and a health check."
    try:
        from tfserving.serving.docker import daemon
        from tfserving.serving.engines import EngineError

        client = daemon.connect()
    except ModuleNotFoundError:
        hint = f"{use} Install with {how_to_install('serving')}."
        return Finding("Docker", "missing", "not checked", hint)
    except EngineError as error:
        return Finding("Docker", "missing", str(error), use)
    with contextlib.closing(client):
        version = client.version()["Version"]
        settings = server_settings(file)
        assert settings, "its modules are imported already"
        name = settings.image_name
        there = any(name in image.tags for image in client.images.list(name))
        gpus = gives_gpus(client.info())
    data = {"version": version, "image": name, "image_is_here": there, "gives_gpus": gpus}
    if reason := daemon.unusable():
        return Finding("Docker", "problem", reason, use, data)
    found = f"{version}; image {name} {'is on this machine' if there else 'would be pulled'}"
    if gpus:
        found += "; with NVIDIA's Container Toolkit"
    elif settings.gpus or all_gpus():
        found += "; without NVIDIA's Container Toolkit, so containers have no GPU"
        if settings.gpus:
            return Finding("Docker", "problem", found, f"server.gpus needs it. {_TOOLKIT}", data)
    return Finding("Docker", "ok", found, data=data)


def gives_gpus(info: Mapping[str, Any]) -> bool:
    """Return whether an engine can give GPUs to containers, by what `docker info` reports and what is on PATH.

    It can with the runtime `nvidia`, with the toolkit's hook (https://github.com/NVIDIA/nvidia-container-toolkit), or
    with devices by CDI (https://docs.docker.com/build/building/cdi/).
    """
    devices = info.get("DiscoveredDevices") or ()
    return (
        "nvidia" in (info.get("Runtimes") or ())
        or any(str(device.get("ID", "")).startswith("nvidia.com/gpu") for device in devices)
        or shutil.which("nvidia-container-runtime-hook") is not None
    )


def native() -> Finding:
    """Return whether there is a tensorflow_model_server."""
    path = find_model_server()
    if path is None:
        return Finding("native", "missing", "no tensorflow_model_server", f"Optional: {no_model_server()}.")
    return Finding("native", "ok", path, data={"path": path})


def embedded() -> Finding:
    """Return whether this environment can run the embedded server."""
    if missing_for_embedded("serve"):
        hint = f"Serves without Docker. Install with {how_to_install('cpu')}."
        return Finding("embedded", "missing", _NEEDS_SERVING, hint)
    return Finding("embedded", "ok", "the embedded server can run")


def why_not(engine: str, name: str) -> Finding:
    """Return whether `serve --engine NAME` could take an engine, by the code that it uses."""
    try:
        from tfserving.serving.engines.choice import ENGINES, why_not
    except ModuleNotFoundError:
        return Finding(engine, "missing", _NEEDS_SERVING)
    reason = why_not(next(one for one in ENGINES if one.name == engine), name)
    return Finding(engine, "missing" if reason else "ok", reason or "")


@dataclass(frozen=True)
class Verdict:
    """Whether `tfserving serve` can work here: with which engine and why, or why not."""

    engine: str | None
    reasons: tuple[str, ...]

    @property
    def possible(self) -> bool:
        """Whether it can."""
        return self.engine is not None

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"possible": self.possible, "engine": self.engine, "reasons": list(self.reasons)}


def verdict(name: str, engines: Mapping[str, Finding], findings: Mapping[str, Finding]) -> Verdict:
    """Return what `serve --engine NAME` will use.

    `engines` has a finding of `why_not` for each engine that may be taken, in the order of preference, and `findings`
    those of all other checks.
    """
    taken = next((engine for engine, finding in engines.items() if finding.state == "ok"), None)
    passed = [f"{engine}: {finding.found}" for engine, finding in engines.items() if finding.state != "ok"]
    if taken is None:
        return Verdict(None, ("no engine can be used:", *passed))
    problems = [finding for finding in findings.values() if finding.state == "problem"]
    if findings["models.yaml"].state == "missing":
        problems.append(findings["models.yaml"])
    models = findings["models.yaml"].data.get("models", {})
    unexported = [model for model, versions in models.items() if not versions]
    stopping = [f"{finding.name}: {finding.found}" for finding in problems if _stops(finding, taken)]
    if unexported and findings["TensorFlow"].state != "ok":
        stopping.append(f"{', '.join(unexported)}: not exported, and exporting needs TensorFlow")
    if stopping:
        return Verdict(None, tuple(stopping))
    if name != "auto":
        return Verdict(taken, (f"--engine {name} selects it",))
    return Verdict(taken, tuple(passed) or ("it is the first choice, and can be used",))


def _stops(finding: Finding, engine: str) -> bool:
    """Whether a problem stops a server of `engine`: that of another engine or a cluster does not."""
    if finding.name in ("Docker", "native", "embedded"):
        return False
    if finding.name in ("TensorFlow", "CPU"):
        return engine == "embedded"
    if finding.name == "GPU":
        # The Docker Engine may be on another machine.
        return engine != "docker"
    return finding.name != "Kubernetes"

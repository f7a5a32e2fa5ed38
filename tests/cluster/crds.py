"""Kinds that clusters have when others have installed them: the API server checks manifests of these, and nothing acts.

They are files of Go modules: of those that are built, or in the versions and with the sums that are written here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.binaries import ARGO_ROLLOUTS, KSERVE, cache
from tests.servers import wait_for


@dataclass(frozen=True)
class Source:
    """A Go module at a version, with Go's sum of it, and its files that define kinds."""

    module: str
    version: str
    sum: str
    files: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the files are kept."""
        return cache() / f"{Path(self.module).name}-{self.version}"


_MONITORING = "example/prometheus-operator-crd/monitoring.coreos.com"
SOURCES = (
    Source(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.93.0",
        "h1:AohlYJT+En8TmNpAcEUJ3GsaJTAqfEBwHmGTVpRm/Io=",
        (f"{_MONITORING}_servicemonitors.yaml", f"{_MONITORING}_prometheusrules.yaml"),
    ),
)


def missing() -> list[Source]:
    """What has yet to be downloaded."""
    return [source for source in SOURCES if not source.folder.exists()]


def download() -> None:
    """Downloads what is missing, and says so."""
    for source in missing():
        print(f"Downloading {source.module}@{source.version} for its kinds …", file=sys.stderr, flush=True)
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache(), prefix=".crds-") as name:
            found = _downloaded(source, Path(name))
            whole = Path(name) / "whole"
            whole.mkdir()
            for file in source.files:
                shutil.copyfile(found / file, whole / Path(file).name)
            whole.rename(source.folder)


def _downloaded(source: Source, empty: Path) -> Path:
    """The module's folder in Go's cache."""
    command = ["go", "mod", "download", "-json", f"{source.module}@{source.version}"]
    done = subprocess.run(command, cwd=empty, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    answer = json.loads(done.stdout)
    if answer["Sum"] != source.sum:
        raise RuntimeError(f"{source.module}@{source.version} has the sum {answer['Sum']}, not {source.sum}")
    return Path(answer["Dir"])


def apply(kubectl: Callable[..., str]) -> None:
    """Installs the kinds. Some are too large for what a client's apply notes on them."""
    services = KSERVE.required("github.com/kserve/kserve") / "crd/full/serving.kserve.io_inferenceservices.yaml"
    rollouts = ARGO_ROLLOUTS.required("github.com/argoproj/argo-rollouts") / "crds"
    ours = (rollouts / f"{kind}-crd.yaml" for kind in ("rollout", "analysis-template"))
    places = (*(source.folder for source in SOURCES), services, *ours)
    kubectl("apply", "--server-side", *(word for place in places for word in ("-f", str(place))))
    wait_until_established(kubectl)


def wait_until_established(kubectl: Callable[..., str]) -> None:
    """Waits until objects of all kinds can be made. `kubectl wait` fails for a kind that has no conditions yet."""

    def established() -> bool:
        kinds = json.loads(kubectl("get", "crd", "--output=json"))["items"]
        conditions = [kind.get("status", {}).get("conditions") or [] for kind in kinds]
        return all(any(one["type"] == "Established" and one["status"] == "True" for one in of) for of in conditions)

    wait_for(established, what="the kinds")

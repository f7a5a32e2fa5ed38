"""The cluster's programs, built from Go modules: no package registry has them.

Each folder of `go/` is a module. What it builds is kept outside of the repository, under the hash of the module's
files, and moved into place when it is whole: a build that ended half way is never taken for a built one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).with_name("go")


@dataclass(frozen=True)
class Module:
    """A Go module that builds programs. `files` are wanted from the modules that it requires: module to folder."""

    name: str
    programs: tuple[str, ...]
    estimate: str
    files: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> Path:
        return SOURCES / self.name

    @property
    def folder(self) -> Path:
        """Where what it builds is kept."""
        text = b"".join(path.name.encode() + path.read_bytes() for path in sorted(self.source.iterdir()))
        return cache() / f"{self.name}-{hashlib.sha256(text).hexdigest()[:16]}"

    def path(self, program: str) -> Path:
        return self.folder / program

    def required(self, module: str) -> Path:
        """The folder of the files that are wanted from `module`."""
        return self.folder / module.replace("/", "_")


KUBERNETES = Module(
    "kubernetes",
    ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"),
    "some 8 minutes on 2 cores",
)
DNS = Module("dns", ("coredns",), "a minute or two")
GATEWAY = Module(
    "gateway",
    ("contour",),
    "a minute or two",
    (
        ("github.com/projectcontour/contour", "examples/contour"),
        ("sigs.k8s.io/gateway-api", "config/crd/standard"),
    ),
)
KSERVE = Module("kserve", ("manager",), "some 4 minutes on 2 cores", (("github.com/kserve/kserve", "config"),))
METRICS = Module("metrics", ("metrics-server",), "some 4 minutes on 2 cores")
ARGO_ROLLOUTS = Module(
    "argo", ("rollouts-controller",), "some 5 minutes", (("github.com/argoproj/argo-rollouts", "manifests"),)
)
PAUSE = Module("pause", ("pause",), "seconds")
HELM = Module("helm", ("helm",), "some 3 minutes")
POLICIES = Module("policies", ("kube-router",), "some 4 minutes on 2 cores")
# What only tests by hand need: `python -m tests.cluster build` builds the rest.
ADAPTER = Module("adapter", ("adapter",), "some 4 minutes on 2 cores")
# For tests of publishing, which build it.
FAKE_GCS = Module("gcs", ("fake-gcs-server",), "some 3 minutes on 2 cores")
# They need no C library, and some run in images that have none.
STATIC = (PAUSE, KSERVE, METRICS, ADAPTER, ARGO_ROLLOUTS, HELM, POLICIES, FAKE_GCS)
MODULES = (PAUSE, KUBERNETES, DNS, GATEWAY, KSERVE, METRICS, ARGO_ROLLOUTS, HELM, POLICIES)


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tensorflow-serving-toolkit/cluster"


def missing() -> list[Module]:
    """The modules that have yet to be built."""
    return [module for module in MODULES if not module.folder.exists()]


def build(*more: Module) -> None:
    """Builds what is missing, and says so."""
    for module in (*missing(), *more):
        build_one(module)


def build_one(module: Module) -> None:
    """Builds a module that is missing, and says so."""
    if not module.folder.exists():
        print(f"Building {', '.join(module.programs)}: {module.estimate} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        _build(module)
        print(f"Built {module.name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _build(module: Module) -> None:
    module.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=module.folder.parent, prefix=f".{module.name}-") as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        # A module without programs of its own lists those of others as its tools.
        what = "." if (module.source / "main.go").exists() else "tool"
        target = whole / module.programs[0] if what == "." else f"{whole}/"
        _go(module, "build", "-trimpath", "-ldflags", _ldflags(module), "-o", str(target), what)
        for required, folder in module.files:
            found = _go(module, "list", "-m", "-f", "{{.Dir}}", required).strip()
            # Files of Go's module cache are read-only, and so would be their copies.
            copied = whole / required.replace("/", "_")
            shutil.copytree(Path(found) / folder, copied, copy_function=shutil.copyfile)
            copied.chmod(0o755)
        if lacking := [program for program in module.programs if not (whole / program).is_file()]:
            raise RuntimeError(f"go build in {module.source} made no {', '.join(lacking)}")
        whole.rename(module.folder)


def _go(module: Module, *words: str) -> str:
    env = {**os.environ, **({"CGO_ENABLED": "0"} if module in STATIC else {})}
    done = subprocess.run(["go", *words], cwd=module.source, env=env, check=False, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"go {' '.join(words)} in {module.source} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def _ldflags(module: Module) -> str:
    """Drops symbols, and stamps Kubernetes' version, which its programs and kubectl compare."""
    found = re.search(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)", (module.source / "go.mod").read_text())
    if not found:
        return "-s -w"
    major, minor, patch = found.groups()
    package = "k8s.io/component-base/version"
    stamps = {"gitVersion": f"v{major}.{minor}.{patch}", "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s -w", *(f"-X {package}.{name}={value}" for name, value in stamps.items())])

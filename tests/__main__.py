"""Runs the tests in parts: what bears company beside each other, what measures alone, what needs an engine last.

python -m tests                      what needs no Docker Engine and no cluster: `make test`
python -m tests --engines            the rest
python -m tests --again 5            runs up to 5 tests that failed once more, alone, and passes when they do
python -m tests tests/clients -x     a part, with pytest's options
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.cluster.shared import shared

# Most tests wait for processes now and then: as many workers as a small machine has cores would leave cores idle.
WORKERS = 4
NOTHING_COLLECTED = 5
ENGINES = "docker or cluster"
# Pods take their time to start and to drain.
WORKERS_OF_PODS = 2
BESIDE = ("--dist=loadgroup", "--no-loadscope-reorder")
# What each part is, the marker of its tests, and how they run.
WITHOUT_ENGINES = (
    (
        "that run beside each other",
        f"not alone and not ({ENGINES})",
        ("-n", str(WORKERS), *BESIDE),
    ),
    ("that measure, one after the other", f"alone and not ({ENGINES})", ()),
)
WITH_ENGINES = (
    ("of Docker", "docker", ()),
    ("of Kubernetes that run beside each other", "cluster and not alone", ("-n", str(WORKERS_OF_PODS), *BESIDE)),
    ("of Kubernetes that change all of the cluster", "cluster and alone", ()),
)
LAST_FAILED = Path(__file__).resolve().parents[1] / ".pytest_cache/v/cache/lastfailed"
MORE = """\
What else there is:
  make test-engines    the tests of Docker and Kubernetes; they start an engine and a node of their own, where these
                       are installed and they run as root, and say why when they are skipped
  make test-all        both, one after the other
  make check           lint, format and types"""


def main() -> int:
    """Runs the parts that the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests", description="Runs the tests; other options are pytest's.")
    parser.add_argument("--engines", action="store_true", help="the tests of Docker and Kubernetes, not the others")
    parser.add_argument("--again", type=int, default=0, metavar="N", help="run up to N that failed once more, alone")
    arguments, options = parser.parse_known_args()
    if not any(Path(option.partition("::")[0]).exists() for option in options):
        options.append("tests")
    started = time.monotonic()
    LAST_FAILED.unlink(missing_ok=True)
    codes = []
    with contextlib.ExitStack() as stack:
        env: dict[str, str] = {}
        for what, marker, how in WITH_ENGINES if arguments.engines else WITHOUT_ENGINES:
            print(f"Running the tests {what} …", flush=True)
            chosen = measuring(options) if marker.startswith("alone") else options
            if marker.startswith("cluster") and not env:
                env = stack.enter_context(of_pods(options))
            codes.append(pytest("-m", marker, *how, *chosen, env=env) if chosen else NOTHING_COLLECTED)
    code = max((code for code in codes if code != NOTHING_COLLECTED), default=NOTHING_COLLECTED)
    if code == 1 and 1 <= len(failed := last_failed()) <= arguments.again:
        print(f"Running the {len(failed)} that failed once more, alone …", flush=True)
        code = pytest(*failed)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{'Failed' if code else 'Passed'} after {minutes} min {seconds} s.", flush=True)
    if not arguments.engines:
        print(MORE, flush=True)
    return code


def measuring(options: list[str]) -> list[str]:
    """`options` with the folders among them replaced by their files that measure: the others needn't be imported.

    Nothing when there is no such file.
    """
    folders = [Path(option) for option in options if Path(option).is_dir()]
    if not folders:
        return options
    tests = sorted(path for folder in folders for path in folder.rglob("test_*.py"))
    found = [str(path) for path in tests if "mark.alone" in path.read_text()]
    return [*found, *(option for option in options if not Path(option).is_dir())] if found else []


def of_pods(options: list[str]) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The engine and the cluster that the tests of Kubernetes share, where any of `options` is one."""
    words = ("--collect-only", "-q", "-m", "cluster", *options)
    found = subprocess.run([sys.executable, "-m", "pytest", *words], check=False, capture_output=True)
    return contextlib.nullcontext({}) if found.returncode == NOTHING_COLLECTED else shared()


def pytest(*arguments: str, env: Mapping[str, str] = MappingProxyType({})) -> int:
    """Runs pytest in a process of its own, with these variables too; returns its exit code."""
    return subprocess.call([sys.executable, "-m", "pytest", *arguments], env={**os.environ, **env})


def last_failed() -> list[str]:
    """The tests that failed, without the groups that pytest-xdist adds to their names."""
    found = json.loads(LAST_FAILED.read_text()) if LAST_FAILED.is_file() else {}
    names = []
    for test in found:
        name, at, group = test.rpartition("@")
        names.append(name if at and "]" not in group else test)
    return names


if __name__ == "__main__":
    sys.exit(main())

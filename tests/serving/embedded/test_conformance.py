"""A real TensorFlow Serving's recorded answers, played to the embedded server: tests/conformance/README.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.serving.embedded.running import ROOT

CORPUS = ROOT / "tests/conformance"
# What is documented about an exchange that is not answered exactly: its identifier stands in a table of that page.
DOCUMENTED = set(re.findall(r"`([a-z_]+-[a-z0-9-]+-[0-9]{4})`", (ROOT / "docs/compatibility.md").read_text()))
# They wait for files to be polled more than they work.
AT_A_TIME = 3
SERVER = f"{sys.executable} -m tfserving.serving.embedded --explain_errors=false --allow_file_and_python_ops"


def play(transcript: Path, folder: Path) -> list[dict[str, Any]]:
    """The results of one transcript's exchanges."""
    results = folder / f"{transcript.stem}.json"
    command = [sys.executable, str(CORPUS / "replay.py"), "--server", SERVER, "--json", str(results), str(transcript)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert results.exists(), done.stdout + done.stderr
    return json.loads(results.read_text())["results"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("conformance")
    transcripts = sorted((CORPUS / "public").glob("*.jsonl"), key=lambda path: -path.stat().st_size)
    assert len(transcripts) > 30
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return [result for played in pool.map(lambda path: play(path, folder), transcripts) for result in played]


def exact(results: Iterable[dict[str, Any]]) -> float:
    buckets = Counter(result["bucket"] for result in results)
    return buckets["exact"] / buckets.total()


@pytest.mark.timeout(900)
def test_whatever_differs_is_documented(results: list[dict[str, Any]]) -> None:
    assert len(results) >= 2378
    differing = {result["id"]: result["why"] for result in results if result["bucket"] != "exact"}
    assert differing.keys() - DOCUMENTED == set(), [differing[one] for one in differing.keys() - DOCUMENTED]
    assert DOCUMENTED - differing.keys() == set()


def test_nearly_all_is_answered_byte_for_byte(results: list[dict[str, Any]]) -> None:
    assert exact(result for result in results if result["category"].startswith("rest-")) >= 0.98
    predict = ("grpc-dtypes", "grpc-inputs", "grpc-output-filter", "grpc-shapes", "grpc-tensor-form", "grpc-values")
    assert exact(result for result in results if result["category"] in (*predict, "grpc-wrong-dtype")) >= 0.99


def test_the_corpus_compares_as_it_says() -> None:
    subprocess.run([sys.executable, str(CORPUS / "selftest.py")], cwd=CORPUS, check=True, capture_output=True)

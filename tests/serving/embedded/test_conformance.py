"""A real TensorFlow Serving's recorded answers, played to the servers that are there: tests/conformance/README.md."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ModelServer
from tests.serving.embedded.running import ROOT, both_embedded, both_transports, prepared
from tfserving.serving.embedded.release import installed, minor

CORPUS = ROOT / "tests/conformance"
# What is documented about an exchange that is not answered exactly: its identifier stands in a table of that page. What
# begins with a release is about that one and newer ones.
DOCUMENTED = {
    exchange
    for line in (ROOT / "docs/compatibility.md").read_text().splitlines()
    if not (since := re.match(r"\| (\d+\.\d+) \|", line)) or minor(since[1]) <= installed().minor
    for exchange in re.findall(r"`([a-z_]+-[a-z0-9-]+-[0-9]{4})`", line)
}
# They wait for files to be polled more than they work.
AT_A_TIME = 6
# What makes the embedded server as lenient and as terse as the real one: docs/compatibility.md.
AS_THE_REAL_ONE = ("--explain_errors=false", "--allow_file_and_python_ops", "--check_shapes=false")
# TensorFlow's environment when the answers were recorded, as tests/conformance/driver.py has it.
ENV = {"CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0"}


@pytest.fixture(scope="module")
def command(engine: ModelServer) -> Iterator[str]:
    """What starts a server; the embedded one answers as the real one, without explanations."""
    if not engine.embedded:
        yield shlex.join(engine.command)
        return
    with prepared(**ENV) as server:
        yield shlex.join([*server.command, *engine.flags, *AS_THE_REAL_ONE])


def play(command: str, transcripts: list[Path], results: Path) -> list[dict[str, Any]]:
    """The results of some transcripts' exchanges."""
    replay = [sys.executable, str(CORPUS / "replay.py"), "--server", command, "--json", str(results)]
    done = subprocess.run([*replay, *transcripts], cwd=ROOT, capture_output=True, text=True, check=False, timeout=580)
    assert results.exists(), done.stdout + done.stderr
    return json.loads(results.read_text())["results"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def results(command: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("conformance")
    transcripts = sorted((CORPUS / "public").glob("*.jsonl"), key=lambda path: -path.stat().st_size)
    assert len(transcripts) > 30
    shares = [transcripts[number::AT_A_TIME] for number in range(AT_A_TIME)]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        played = [pool.submit(play, command, share, folder / f"{share[0].stem}.json") for share in shares]
        return [result for future in played for result in future.result()]


def exact(results: Iterable[dict[str, Any]]) -> float:
    buckets = Counter(result["bucket"] for result in results)
    return buckets["exact"] / buckets.total()


@both_transports
@pytest.mark.timeout(900)
def test_nothing_is_answered_wrongly(results: list[dict[str, Any]], engine: ModelServer) -> None:
    """Of the real server, another release than the recorded one may have other words."""
    assert len(results) >= 2378
    documented = DOCUMENTED if engine.embedded else set()
    assert {result["id"]: result["why"] for result in results if result["bucket"] == "wrong"}.keys() <= documented


@both_embedded
def test_whatever_differs_is_documented(results: list[dict[str, Any]]) -> None:
    differing = {result["id"]: result["why"] for result in results if result["bucket"] != "exact"}
    assert differing.keys() - DOCUMENTED == set(), [differing[one] for one in differing.keys() - DOCUMENTED]
    assert DOCUMENTED - differing.keys() == set()


@both_transports
def test_nearly_all_is_answered_byte_for_byte(results: list[dict[str, Any]]) -> None:
    assert exact(result for result in results if result["category"].startswith("rest-")) >= 0.98
    predict = ("grpc-dtypes", "grpc-inputs", "grpc-output-filter", "grpc-shapes", "grpc-tensor-form", "grpc-values")
    assert exact(result for result in results if result["category"] in (*predict, "grpc-wrong-dtype")) >= 0.99


def test_the_corpus_compares_as_it_says() -> None:
    subprocess.run([sys.executable, str(CORPUS / "selftest.py")], cwd=CORPUS, check=True, capture_output=True)

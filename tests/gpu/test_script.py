"""`python -m tests.gpu` runs to its end, in its time, and leaves a whole file. Its claims need a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.gpu.__main__ import CHECKS, PARTS
from tests.gpu.lab import ROOT, Lab
from tests.gpu.record import Record
from tests.servers import wait_for

SMI = '#!/bin/sh\ncase "$*" in *query-gpu*) echo "0, GPU-1a2b, NVIDIA H200, 143771, 672, 580.65, 9.0";; esac\n'


def checks_of(path: Path) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(path.read_text())["checks"]}


def run_script(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=580)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "out.json", on_gpu=True, minutes=1, machine={})


def test_without_a_gpu_it_exits_with_3_and_writes_nothing(tmp_path: Path) -> None:
    done = run_script(str(tmp_path / "out.json"), PATH=str(tmp_path))
    assert done.returncode == 3, done.stderr
    assert "nvidia-smi lists no GPU. --on-cpu runs" in done.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--only", "sped"), "got sped, expected the begin of a check's name"),
        (("--model", "resnet5"), "got resnet5, expected some of custom, dense"),
    ],
)
def test_names_that_do_not_exist_are_refused_before_anything_starts(
    tmp_path: Path, words: tuple[str, ...], error: str
) -> None:
    done = run_script(str(tmp_path / "out.json"), *words)
    assert done.returncode == 2
    assert error in " ".join(done.stderr.split())
    assert not [*tmp_path.iterdir()]


def test_every_check_is_a_method_that_tells_what_it_shows() -> None:
    for name in CHECKS:
        part, _, method = name.partition(".")
        assert getattr(PARTS[part], method).__doc__, name


@pytest.mark.timeout(600)
def test_the_steps_run_on_a_cpu_and_leave_a_whole_file(tmp_path: Path) -> None:
    """Exports, servers, verification, load and the speed in process, all of them real, of one tiny model."""
    steps = (
        "machine.device",
        "memory.growth",
        "proof.export_all",
        "proof.verify",
        "speed.start",
        "speed.in_process",
        "speed.served",
    )
    chosen = [word for step in steps for word in ("--only", step)]
    out, work = tmp_path / "out.json", tmp_path / "work"
    done = run_script(str(out), "--on-cpu", "--model", "encoder", *chosen, "--work", str(work), "--minutes", "9")
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text())
    assert (content["finished"], content["on_gpu"], content["skipped"]) == (True, False, [])
    assert content["machine"]["packages"].keys() & {"tensorflow", "tensorflow-cpu"}
    found = checks_of(out)
    assert [*found] == [*steps]
    # Without a GPU nothing is judged.
    assert {check["outcome"] for check in found.values()} == {"unjudged"}
    assert {claim["holds"] for check in found.values() for claim in check["claims"]} == {None}
    figures = {name: check["figures"] for name, check in found.items()}
    assert figures["machine.device"]["tensorflow"]["product"] == 8
    assert "serving: " in figures["memory.growth"]["start_line"]
    assert figures["proof.export_all"]["exported_on_gpu"]["encoder"]["status"] == "exported"
    for device in ("cpu", "gpu"):
        verified = figures["proof.verify"][f"golden_outputs_of_{device}"]
        assert {row["output"] for row in verified["rows"]} == {"embedding", "logits", "label"}
        assert verified["failed"] == []
    assert {*figures["speed.in_process"]["encoder"]} == {"1", "8", "32"}
    for server in ("batching", "batching-1-thread"):
        served = figures["speed.served"][f"encoder_{server}"]
        assert served["rows_per_second"] > 0
        assert served["errors"] == {}
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(work) in " ".join(one.info["cmdline"] or ())]


def test_the_file_is_whole_after_each_figure(record: Record, tmp_path: Path) -> None:
    def check() -> None:
        record.figure("used_mib", 672)
        (found,) = checks_of(tmp_path / "out.json").values()
        assert (found["outcome"], found["figures"]) == ("running", {"used_mib": 672})

    record.run("memory.growth", "what it shows", check)
    assert record.of("passed") == ["memory.growth"]


def test_a_check_that_fails_does_not_stop_the_others(record: Record, tmp_path: Path) -> None:
    def raises() -> None:
        raise RuntimeError("no blas support")

    record.run("first", "", raises)
    record.run("second", "", lambda: record.claim("it is small", 7, False))
    record.run("third", "", lambda: record.claim("it is small", 1, True))
    found = checks_of(tmp_path / "out.json")
    assert [check["outcome"] for check in found.values()] == ["broken", "failed", "passed"]
    assert found["first"]["reason"] == "RuntimeError: no blas support"
    assert found["second"]["claims"] == [{"text": "it is small", "measured": 7, "holds": False}]


def test_a_server_ends_with_its_check_unless_it_is_kept(record: Record, tmp_path: Path) -> None:
    lab = Lab(tmp_path, record, minutes=1, tiny=True)
    servers = []
    lab.check("starts", 60, lambda: servers.extend([lab.server("a", {}), lab.server("b", {}, kept=True)]))
    assert servers[0].process.process.returncode is not None
    assert servers[1].process.process.returncode is None
    lab.close()
    assert servers[1].process.process.returncode is not None


def test_a_check_with_a_reason_is_skipped(record: Record, tmp_path: Path) -> None:
    lab = Lab(tmp_path, record, minutes=1, tiny=True)
    lab.check("late", 60, lambda: pytest.fail("it ran"), "TensorFlow does not compute on the GPU")
    assert checks_of(tmp_path / "out.json")["late"]["reason"] == "TensorFlow does not compute on the GPU"


def test_checks_without_time_are_named_as_skipped(record: Record, tmp_path: Path) -> None:
    lab = Lab(tmp_path, record, minutes=1, tiny=False)

    def slow() -> None:
        for _ in range(2):
            lab.tool("--help")

    lab.check("slow", 0.2, slow)
    late = Lab(tmp_path, record, minutes=0, tiny=True)
    late.check("late", 60, lambda: pytest.fail("it ran"))
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["skipped"] == ["slow", "late"]
    assert [check["reason"] for check in content["checks"]] == ["its time was over", "the time of the run was over"]


def test_nothing_that_was_started_is_left(record: Record, tmp_path: Path) -> None:
    """Not even a child of a process that ignores SIGTERM."""
    lab = Lab(tmp_path, record, minutes=1, tiny=True)
    started = lab.start(["sh", "-c", "trap '' TERM; sleep 300 & echo $!; wait; sleep 300"], "stubborn")
    wait_for(started.stdout, 20)
    child = psutil.Process(int(started.stdout()))
    lab.close()
    assert started.process.poll() is not None
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 20)


def test_memory_in_use_is_that_of_the_driver(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Lab(tmp_path, record, minutes=1, tiny=True).settled_mib() == 672

"""The request log: what is logged, what is not and is counted, and that its files can always be read."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.embedded.running import ROOT, wait_until
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import FRAME_SIZE, read_records
from tfserving.foundation.tensors import Array, read_flat
from tfserving.serving.embedded.core.deep import Deep
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.observability import metrics, request_log
from tfserving.serving.embedded.observability.current_request import current_request
from tfserving.serving.embedded.observability.record_files import RecordFiles
from tfserving.serving.embedded.observability.request_log import RequestLog
from tfserving.serving.embedded.rest.records import log_predict, size_of


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Iterator[str]:
    """The model that this thread asked, whose name no other test counts."""
    current_request.model, current_request.version = str(request.node.name), 1
    yield current_request.model
    current_request.reset()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("r-*.tfrecord"))


def records(folder: Path) -> list[Any]:
    return [PredictionLog.FromString(data) for path in files(folder) for data in read_records(path)]


def counted(model: str) -> dict[str, int]:
    return {status: count for (name, status), count in metrics.REQUEST_LOGS.counted().items() if name == model}


def nothing(_record: Any) -> None:
    """Fills a record with nothing."""


def test_a_sample_is_logged(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "r", 0.1)
    wanted = sum(log.wants() for _ in range(10_000))
    log.close(10)
    assert 700 < wanted < 1300


def test_a_log_that_can_not_be_made_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"--request_log=.*/none/r: .*No such file or directory"):
        RequestLog(tmp_path / "none" / "r")


@pytest.mark.parametrize(("size", "most_logged"), [(0, 4), (3000, 1), (6000, 0)])
def test_what_waits_to_be_logged_has_an_end_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, size: int, most_logged: int
) -> None:
    monkeypatch.setattr(request_log, "MOST_WAITING_BYTES", 5 * request_log.OVERHEAD_BYTES)
    log = RequestLog(tmp_path / "r")
    gate: list[None] = []
    for _ in range(10):
        # Nothing is written before the last one was noted.
        log.note(lambda _record: wait_until("the gate", lambda: bool(gate)), size)
    gate.append(None)
    log.close(10)
    logged = len(records(tmp_path))
    assert most_logged <= logged <= most_logged + 1
    assert counted(model) == {
        key: count for key, count in {"OK": logged, "RESOURCE_EXHAUSTED": 10 - logged}.items() if count
    }


def test_a_request_that_can_not_be_logged_is_counted_and_told_once_and_the_next_are_logged(
    tmp_path: Path, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_record: Any) -> None:
        raise TypeError("float() argument must be a real number")

    log = RequestLog(tmp_path / "r")
    for fill in (nothing, fail, fail, nothing):
        log.note(fill, 1)
    log.close(10)
    assert counted(model) == {"OK": 2, "INTERNAL": 2}
    assert len(records(tmp_path)) == 2
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("kind", [np.float32, np.int64, bytes])
def test_a_tensor_of_more_dimensions_than_numpy_has_is_logged(tmp_path: Path, kind: Any) -> None:
    flat = np.array([b"a", b"bc"], object) if kind is bytes else np.array([1, 2], kind)
    deep: Any = Deep(flat, (1,) * 64 + (2,))
    log = RequestLog(tmp_path / "r")

    def fill(record: Any) -> None:
        log_predict("some", {"x": deep}, {"y": deep}, record)

    log.note(fill, size_of({"x": deep}, {"y": deep}))
    log.close(10)
    (record,) = records(tmp_path)
    for proto in (record.predict_log.request.inputs["x"], record.predict_log.response.outputs["y"]):
        values, shape = read_flat(proto)
        assert shape == deep.shape
        assert values.tolist() == flat.tolist()


def test_what_is_kept_of_a_request_is_its_tensors_and_the_batch_that_they_are_part_of() -> None:
    batch = np.zeros((100, 10), np.float32)
    texts: Array = np.array([b"x" * 1000, b"yy"], object)
    assert size_of({"x": batch.copy()}, {"y": texts}) == 4000 + 1002
    assert size_of({"x": batch[3:4]}) == 4000


def test_a_log_whose_disk_hangs_does_not_hold_up_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog(tmp_path / "r")
    gate: list[None] = []
    for _ in range(3):
        log.note(lambda _record: wait_until("the gate", lambda: bool(gate)), 1)
    log.close(0.05)
    gate.append(None)
    assert "2 requests were not logged, because the server stopped" in caplog.text
    wait_until("they are written after all", lambda: len(records(tmp_path)) == 3)


def test_a_full_disk_leaves_whole_records_and_logging_goes_on_when_there_is_room(tmp_path: Path) -> None:
    # The limit of a file's size is a process's own. It stands for a disk: it takes a record by half, too.
    script = f"""
import logging, time
from pathlib import Path
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.observability.request_log import RequestLog
from tests.serving.embedded.observability.test_request_log import fill_with
logging.basicConfig(format="%(message)s")
log = RequestLog(Path({str(tmp_path / "r")!r}))
for line in iter(input, "end"):
    log.note(fill_with(int(line)), int(line))
    while log._bytes:
        time.sleep(0.001)
    print(dict(metrics.REQUEST_LOGS.counted()), flush=True)
log.close(10)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    def log(size: int) -> str:
        assert process.stdin
        assert process.stdout
        print(size, file=process.stdin, flush=True)
        return process.stdout.readline()

    assert log(1000) == "{('', 'OK'): 1}\n"
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
    assert log(1001) == "{('', 'OK'): 1, ('', 'UNKNOWN'): 1}\n"
    assert log(100) == "{('', 'OK'): 1, ('', 'UNKNOWN'): 2}\n", "the next second is waited for"
    (file,) = files(tmp_path)
    assert 1000 < file.stat().st_size < 1100, "the half record is cut off again"
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until("there is room", lambda: "'OK'): 2" in log(1002))
    process.stdin.write("end\n")
    _, said = process.communicate()
    assert process.returncode == 0
    sizes = [len(record.predict_log.request.inputs["x"].tensor_content) for record in records(tmp_path)]
    assert (sizes[0], set(sizes[1:])) == (1000, {1002})
    first, second = said.splitlines()
    assert first == f"can't write requests to {file}: File too large"
    assert second.startswith(f"requests are logged again, to {file}; ")


def fill_with(size: int) -> request_log.Fill:
    """Fills a record with so many bytes."""

    def fill(record: Any) -> None:
        record.predict_log.request.inputs["x"].tensor_content = bytes(size)

    return fill


def test_files_that_together_would_become_too_large_go_the_oldest_first(tmp_path: Path) -> None:
    (tmp_path / "r-notes.tfrecord").write_bytes(b"not ours" * 1000)
    most, record = 40_000, b"x" * (1000 - FRAME_SIZE)
    former = RecordFiles(tmp_path / "r", most, 2)
    ours = RecordFiles(tmp_path / "r", most, 2)
    former.append(b"the former one's first")
    for _ in range(200):
        ours.append(record)
        assert sum(path.stat().st_size for path in ours_of(tmp_path)) <= most
    ours.append(b"last")
    assert former.path.exists(), "another process writes to it"
    assert list(read_records(ours.path))[-1] == b"last"
    assert 6 < len(ours_of(tmp_path)) <= 9
    assert (tmp_path / "r-notes.tfrecord").exists()
    former.close()
    for _ in range(10):
        ours.append(record)
    assert not former.path.exists()
    ours.close()


def ours_of(folder: Path) -> list[Path]:
    return [path for path in files(folder) if path.name != "r-notes.tfrecord"]


def test_a_file_that_is_removed_or_can_not_be_made_any_more_is_followed_by_another(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    written = RecordFiles(tmp_path / "logs" / "r")
    written.append(b"1")
    written.path.unlink()
    written.append(b"2")
    assert list(read_records(written.path)) == [b"2"]
    (tmp_path / "logs").rename(tmp_path / "away")
    written.append(b"3")
    (tmp_path / "away" / written.path.name).unlink()
    with pytest.raises(FileNotFoundError):
        written.append(b"4")
    (tmp_path / "logs").mkdir()
    written.append(b"5")
    assert list(read_records(written.path)) == [b"5"]
    written.close()
    empty = RecordFiles(tmp_path / "logs" / "e")
    empty.close()
    assert not empty.path.exists()

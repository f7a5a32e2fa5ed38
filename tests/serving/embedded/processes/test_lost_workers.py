"""Workers that end or hang: others answer, and new ones take their places."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.servers import ModelServer
from tests.serving.embedded import saved_models
from tests.serving.embedded.running import Asker, Process, embedded_only, wait_until, workers_of
from tests.serving.embedded.saved_models import rows

pytestmark = embedded_only
TIMEOUT = 5
PAGE = "/monitoring/prometheus/metrics"
CONFIG = """model_config_list {{
  config {{ name: "scale" base_path: "{0}/scale" model_platform: "tensorflow" }}
  config {{ name: "fatal" base_path: "{0}/fatal" model_platform: "tensorflow" }}
}}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lost")
    saved_models.scale(folder / "scale", 1, 1.0)
    saved_models.fatal(folder / "fatal")
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    (folder / "models.config").write_text(CONFIG.format(folder))
    return folder


@pytest.fixture(scope="module")
def server(engine: ModelServer, folder: Path) -> Iterator[Process]:
    server = Process(
        "--workers=2",
        f"--worker_timeout_seconds={TIMEOUT}",
        f"--model_config_file={folder}/models.config",
        f"--monitoring_config_file={folder}/monitoring",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=0",
        engine=engine,
    )
    yield server.ready()
    server.stop()


@pytest.fixture
def whole(server: Process) -> Process:
    """The server, with both of its workers."""
    wait_until("both workers", lambda: len(workers_of(server)) == 2 and ends(server) == joins(server))
    return server


def ends(server: Process) -> int:
    return server.output.count(" ended with exit code ")


def joins(server: Process) -> int:
    return server.output.count("a new worker serves in its place")


def kill_by_request(server: Process) -> None:
    """Sends a request that ends the worker which gets it."""
    with pytest.raises(httpx2.TransportError):
        httpx2.post(f"http://127.0.0.1:{server.rest_port}/v1/models/fatal:predict", json={"instances": [1]}, timeout=60)


def status(server: Process, path: str, seconds: float = 1) -> tuple[int, str]:
    """The status and the text of a GET on a connection of its own; 0 when the worker that got it hangs."""
    try:
        response = httpx2.get(f"http://127.0.0.1:{server.rest_port}{path}", timeout=seconds, trust_env=False)
    except httpx2.TransportError:
        return 0, ""
    return response.status_code, response.text


def several(server: Process, path: str, seconds: float) -> list[tuple[int, str]]:
    """As `status`, on so many connections at a time that each worker gets some."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: status(server, path, seconds), range(8)))


def test_a_request_that_ends_workers_does_not_keep_the_server_down(whole: Process) -> None:
    answered, lost = 0, 0
    for number in range(3):
        before = joins(whole)
        kill_by_request(whole)
        while joins(whole) == before:
            # On a connection of its own, so of whichever worker there is.
            if status(whole, "/v1/models/scale", 20)[0] == 200:
                answered += 1
            else:
                lost += 1
            assert lost < 20, f"the place of worker {number} stays empty: {whole.output}"

    # What is lost was in the queue of the one that ended.
    assert answered > 10 * lost
    hint = r"3 workers ended by SIGABRT within \d+ s: TensorFlow ends the process when one of its checks fails"
    assert re.search(hint, whole.output)
    assert "Check failed" in whole.output
    assert ends(whole) == 3


def test_a_version_that_ends_whoever_loads_it_ends_no_two_at_a_time(whole: Process, folder: Path) -> None:
    ended = ends(whole)
    staged = saved_models.fatal(folder / "staged", 2)
    saved_models.warmup(staged, {"x": rows(1)[0]})
    staged.rename(folder / "fatal" / "2")

    wait_until("version 2's end", lambda: '"END"' in status(whole, "/v1/models/fatal/versions/2")[1])
    text = status(whole, "/v1/models/fatal/versions/2")[1]
    assert "the process that loaded it ended; the server's log has its output" in text
    # Another worker may end one, so a second one tries.
    wait_until("new workers", lambda: joins(whole) == ended + 2)
    assert ends(whole) == ended + 2
    assert '"AVAILABLE"' in status(whole, "/v1/models/fatal/versions/1")[1]


def test_a_worker_that_hangs_is_replaced_and_meanwhile_readiness_and_metrics_tell(whole: Process) -> None:
    wait_until("readiness", lambda: status(whole, "/readyz")[0] == 200)
    asks = [Asker(whole) for _ in range(20)]
    for ask in asks:
        ask.predict("scale", {"x": rows(1)})
        ask.close()
    before = counted(status(whole, PAGE)[1])
    hanging = max(workers_of(whole))
    began = time.monotonic()
    os.kill(hanging, signal.SIGSTOP)

    # The worker that works does so in time.
    pages = {text for state, text in several(whole, PAGE, 2) if state == 200}
    assert pages
    for page in pages:
        assert f"# worker {hanging} did not respond: the sums contain its last counts" in page
        assert counted(page) >= before, "what was counted goes back"
    wait_until(
        "an answer that it is not ready",
        lambda: (503, "not ready: 1 of 2 workers hang\n") in several(whole, "/readyz", 0.5),
        TIMEOUT,
    )

    wait_until("its end", lambda: hanging not in workers_of(whole), 2 * TIMEOUT)
    assert time.monotonic() - began > TIMEOUT - 1
    killed = f"worker {hanging} has not responded for {TIMEOUT} s and is killed"
    wait_until("the reason", lambda: whole.says(killed))
    wait_until("a new worker", lambda: len(workers_of(whole)) == 2 and ends(whole) == joins(whole))
    wait_until("readiness", lambda: status(whole, "/readyz")[0] == 200)
    assert counted(status(whole, PAGE)[1]) >= before, "what was counted goes back"


def test_what_is_changed_while_a_worker_hangs_is_changed_when_it_is_replaced(whole: Process, folder: Path) -> None:
    wait_until("readiness", lambda: status(whole, "/readyz")[0] == 200)
    os.kill(min(workers_of(whole)), signal.SIGSTOP)
    saved_models.scale(folder / "scale", 2, 2.0)

    wait_until("version 2", lambda: "AVAILABLE" in status(whole, "/v1/models/scale/versions/2")[1], 3 * TIMEOUT)
    wait_until("a new worker", lambda: len(workers_of(whole)) == 2 and ends(whole) == joins(whole))
    assert {status(whole, "/v1/models/scale/versions/2")[0] for _ in range(10)} == {200}


def test_all_workers_may_end_at_once(whole: Process) -> None:
    for worker in workers_of(whole):
        os.kill(worker, signal.SIGKILL)

    wait_until("an answer", lambda: status(whole, "/v1/models/scale")[0] == 200)
    wait_until("new workers", lambda: len(workers_of(whole)) == 2 and ends(whole) == joins(whole))
    whole.signal(signal.SIGTERM)
    assert whole.wait() == 0


def counted(page: str) -> int:
    """How many requests to `scale` were answered."""
    return int(re.findall(r'request_count{model_name="scale",status="OK"} (\d+)', page)[0])

"""The script that runs TensorFlow Serving: which requests it waits for, how long, and what ends the wait.

Its server here is a small program, so that each test says when a request is answered. The stand-in, below `serve`,
is in tests/test_drain.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.servers import free_ports, wait_for
from tfserving.serving.config import Places, serve_script
from tfserving.serving.models_yaml.server import ServerSettings

# Each request computes until there is a file of the name that it sends.
SERVER = """
import socket, sys, threading
from pathlib import Path

def answer(connection):
    with connection:
        if name := connection.recv(1000).decode():
            while not Path(name).exists():
                pass
            connection.sendall(b"answered")

listening = socket.create_server(("", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()
"""
# One that takes nothing from its connections.
DEAF = SERVER.replace("while True:", "while threading.Event().wait():")


@dataclass
class Run:
    """The script and its server, and the file that answers all requests."""

    process: subprocess.Popen[str]
    port: int
    go: Path
    began: float = 0.0

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def request(self) -> bytes:
        """Sends a request; returns its answer, nothing when it was cut off."""
        with self.connect() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(str(self.go).encode())
            return connection.recv(100)
        return b""

    @property
    def server(self) -> psutil.Process:
        return psutil.Process(self.process.pid).children()[0]

    def computes(self) -> bool:
        """Whether a request is in flight: nothing else takes that long."""
        return sum(self.server.cpu_times()[:2]) > 0.5

    def send(self, number: int) -> None:
        self.began = time.monotonic()
        self.process.send_signal(number)

    def says(self, text: str) -> None:
        """The next line that the script prints."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert re.search(text, line), line

    def ended(self, code: int = 0) -> float:
        """Waits for the end; returns the seconds since the signal. The script printed nothing more."""
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == code
        assert errors == ""
        return time.monotonic() - self.began


Start = Callable[..., Run]
# The server's own code: the drain wasn't complete.
CUT_OFF = 128 + signal.SIGTERM


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the script with settings of `server:` in models.yaml."""
    started: list[Run] = []

    def start(program: str = SERVER, env: dict[str, str] | None = None, **settings: object) -> Run:
        (port,) = free_ports(1)
        script = tmp_path / "serve.sh"
        places = Places(port, port, "", "", str)
        script.write_text(serve_script(ServerSettings.model_validate(settings), places))
        process = subprocess.Popen(
            ["bash", str(script), sys.executable, "-c", program, str(port)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        run = Run(process, port, tmp_path / f"go-{len(started)}")
        started.append(run)

        def listens() -> bool:
            with contextlib.suppress(ConnectionRefusedError), run.connect():
                return True
            return False

        wait_for(listens, what="the server")
        # The socket that listens stays.
        wait_for(lambda: len(run.server.net_connections("tcp")) == 1, what="the end of that connection")
        return run

    yield start
    for run in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.communicate()


@pytest.fixture
def client() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_request_in_flight_is_answered_first(start: Start, client: ThreadPoolExecutor, number: int) -> None:
    run = start()
    answer = client.submit(run.request)
    wait_for(run.computes, what="the request")
    run.send(number)
    run.says("^Draining: waiting for requests in flight, at most 60 s …$")
    # Longer than any time in which it could have been taken for idle.
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(2.5)
    # New ones are taken meanwhile.
    later = client.submit(run.request)
    wait_for(lambda: len(run.server.net_connections("tcp")) == 3, what="the second connection")
    run.go.touch()
    assert (answer.result(), later.result()) == (b"answered", b"answered")
    run.ended()


def test_a_server_without_connections_ends_at_once(start: Start) -> None:
    run = start()
    run.send(signal.SIGTERM)
    assert run.ended() < 1


def test_a_code_of_the_servers_own_is_kept(start: Start) -> None:
    ends = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    run = start(SERVER.replace("listening =", f"{ends}listening ="))
    run.send(signal.SIGTERM)
    run.ended(7)


def test_connections_without_requests_are_not_waited_for(start: Start) -> None:
    run = start()
    with run.connect(), run.connect():
        run.send(signal.SIGTERM)
        run.says("^Draining: ")
        assert 1 <= run.ended() < 3


def test_a_request_that_was_not_read_is_waited_for_and_cut_off_when_the_time_is_over(start: Start) -> None:
    run = start(DEAF, drain_seconds=2)
    with run.connect() as connection:
        connection.sendall(b"request")
        run.send(signal.SIGTERM)
        run.says("^Draining: waiting for requests in flight, at most 2 s …$")
        run.says("^Draining: 2 s are over. Requests in flight are cut off.$")
        assert 2 <= run.ended(CUT_OFF) < 4


def test_an_answer_that_its_client_has_not_read_is_waited_for(start: Start) -> None:
    large = SERVER.replace('b"answered"', 'b"answered" * (1 << 20)')
    run = start(large)
    with run.connect() as connection:
        connection.sendall(str(run.go).encode())
        run.go.touch()
        wait_for(lambda: connection.recv(1, socket.MSG_PEEK), what="the first byte")
        run.send(signal.SIGTERM)
        run.says("^Draining: ")
        with pytest.raises(subprocess.TimeoutExpired):
            run.process.wait(2.5)
        received = 0
        while data := connection.recv(1 << 20):
            received += len(data)
        assert received == len(b"answered") << 20
    run.ended()


def test_a_second_signal_ends_the_wait(start: Start, client: ThreadPoolExecutor) -> None:
    run = start()
    answer = client.submit(run.request)
    wait_for(run.computes, what="the request")
    run.send(signal.SIGTERM)
    run.says("^Draining: waiting")
    run.send(signal.SIGTERM)
    run.says("^Draining: received another signal. Requests in flight are cut off.$")
    assert run.ended(CUT_OFF) < 1
    assert answer.result() == b""


def test_nothing_is_waited_for_when_whoever_started_it_is_gone(start: Start, client: ThreadPoolExecutor) -> None:
    run = start()
    answer = client.submit(run.request)
    wait_for(run.computes, what="the request")
    run.send(signal.SIGHUP)
    assert run.ended(CUT_OFF) < 1
    assert answer.result() == b""


def test_the_environment_says_another_time(start: Start) -> None:
    run = start(DEAF, env={"DRAIN_SECONDS": "01"})
    with run.connect() as connection:
        connection.sendall(b"request")
        run.send(signal.SIGTERM)
        run.says("at most 1 s")
        run.says("^Draining: 1 s are over")
        run.ended(CUT_OFF)


@pytest.mark.parametrize("wrong", ["1.5", "-1", "soon", "9999999"])
def test_a_time_that_is_none_is_an_error_before_the_server_starts(tmp_path: Path, wrong: str) -> None:
    done = script(tmp_path, "echo", "started", env={"DRAIN_SECONDS": wrong})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: DRAIN_SECONDS: got '{wrong}', expected a whole number of seconds, such as 60.\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 255"), 255),
        (("sh", "-c", "kill -ABRT $$"), 134),
        (("nowhere",), 127),
    ],
    ids=["ends", "fails", "aborts", "is not there"],
)
def test_a_server_that_ends_by_itself_ends_the_script_with_its_code(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    done = script(tmp_path, *words)
    assert done.returncode == code
    assert done.stderr == "" or "nowhere: command not found" in done.stderr


def test_a_request_that_waits_for_a_batch_is_in_flight(tmp_path: Path) -> None:
    """It computes nothing, and the server has read it."""
    batching = {"batch_timeout_micros": 2_500_000}
    settings = ServerSettings.model_validate({"batching": batching})
    text = serve_script(settings, Places(8500, 8501, str(tmp_path), "", str))
    assert "\nquiet=400\n" in text
    assert '\nports=" 2134 2135 "\n' in text


def script(folder: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the script to the end of its server."""
    path = folder / "serve.sh"
    path.write_text(serve_script(ServerSettings(), Places(8500, 8501, "", "", str)))
    return subprocess.run(
        ["bash", str(path), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
        timeout=30,
    )

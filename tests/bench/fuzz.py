"""Send mutated requests of the conformance corpus to an embedded server, and check that it keeps running.

    python -m tests.bench.fuzz --requests 200000

The requests use both protocols, from several threads. A tenth of them are not mutations: hypothesis generates them from
the parts of requests. The command fails, and prints the request, when a request gets no response, when the server ends,
and when a response is an internal error of the server. The output is the memory, threads and descriptors of the server
after a fifth of the requests, and at the end.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from tests.bench import structures
from tests.serving.embedded.running import ROOT, Process

CORPUS = ROOT / "tests/conformance"
THREADS = 8
SECONDS = 60.0
# What is this server's own mistake begins with the name of a Python exception.
MISTAKES = ("Error: ", "Exception: ", "Exception calling")
PIECES = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"%", b"%00", b"/"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0.0", b"1e-400", b"18446744073709551616", b"9" * 400),
    *(
        b'{"b64":"YQ=="}',
        b"[[[[",
        b"]]]]",
        b'"instances"',
        b'"inputs"',
        b'"signature_name"',
        b"versions/-1",
        b"labels/",
    ),
)


@dataclass(frozen=True)
class Recorded:
    """A recorded request: of REST with method and path, or of gRPC with the method's name, and its bytes."""

    rest: bool
    method: str
    path: str
    body: bytes


def recorded() -> list[Recorded]:
    """The corpus' requests that are sent to the server of all models."""
    found = []
    for line in (CORPUS / "public/core.jsonl").read_text().splitlines()[1:]:
        exchange = json.loads(line)
        request = exchange.get("request", {})
        if exchange["kind"] == "rest" and "body_repeat" not in request:
            body = base64.b64decode(request["body_b64"]) if "body_b64" in request else request.get("body", "").encode()
            found.append(Recorded(True, request["method"], request["path"], body))
        elif exchange["kind"] == "grpc":
            found.append(Recorded(False, exchange["method"], "", base64.b64decode(request["b64"])))
    # One model's graph makes as large a tensor as it is told: 24 GB end any server.
    return [request for request in found if b"huge" not in request.body]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few bytes changed, cut, doubled, or put in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(changed) + 1)
        what = chance.randrange(6)
        if what == 0 and changed:
            changed[at % len(changed)] ^= 1 << chance.randrange(8)
        elif what == 1:
            del changed[at : at + chance.randrange(1, 9)]
        elif what == 2:
            changed[at:at] = changed[at : at + chance.randrange(1, 40)]
        elif what == 3:
            changed[at:at] = chance.choice(PIECES)
        elif what == 4:
            changed[at:at] = chance.randbytes(chance.randrange(1, 5))
        else:
            changed[at : at + chance.randrange(1, 20)] = chance.choice(PIECES)
    return bytes(changed)


def overwritten(data: bytes, chance: random.Random) -> bytes:
    """`data` with some bytes replaced, as long as before: most such messages can still be parsed."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4)) if changed else 0):
        at = chance.randrange(len(changed))
        changed[at] = chance.choice((0, 1, 127, 128, 255, changed[at] ^ 1 << chance.randrange(8)))
    return bytes(changed)


class Sender:
    """Sends requests from one thread, and says what is wrong with what comes back."""

    def __init__(self, server: Process) -> None:
        self._port = server.rest_port
        self._rest = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")

    def send(self, request: Recorded, chance: random.Random) -> tuple[str, str]:
        """The status of the answer to `request`, mutated, and what is wrong with it, or nothing."""
        if not request.rest:
            change = overwritten if chance.random() < 0.8 else mutated
            return self.over_grpc(request.method, change(request.body, chance))
        body = mutated(request.body, chance)
        path = mutated(request.path.encode(), chance).decode("latin-1") if chance.random() < 0.2 else request.path
        # A request line that breaks the message's own frame is another test.
        path = "".join(character for character in path if "!" <= character <= "~") or "/"
        return self.over_rest(request.method, path, body)

    def over_rest(self, method: str, path: str, body: bytes) -> tuple[str, str]:
        """The status of the answer to a REST request, and what is wrong with it, or nothing."""
        try:
            self._rest.request(method, path, body)
            answer = self._rest.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except (AssertionError, ValueError):
            # The client's own checks of what it is asked to send.
            self._rest.close()
            return "not sent", ""
        except (http.client.HTTPException, OSError) as error:
            self._rest.close()
            if isinstance(error, (http.client.BadStatusLine, ConnectionError)) and method == "CONNECT":
                return "closed", ""
            return "none", f"{method} {path} {body!r}: {error!r}"
        status = str(answer.status)
        wrong = any(mistake in text for mistake in MISTAKES) and status.startswith("5")
        return status, f"{method} {path} {body!r}: {status} {text}" if wrong else ""

    def over_grpc(self, method: str, body: bytes) -> tuple[str, str]:
        """The status of the answer to a gRPC request, and what is wrong with it, or nothing."""
        try:
            self._channel.unary_unary(method)(body, timeout=SECONDS)  # type: ignore[arg-type]
        except grpc.RpcError as error:
            status, details = error.code().name, error.details() or ""
            wrong = status in ("DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED")
            wrong = wrong or (any(mistake in details for mistake in MISTAKES) and status in ("INTERNAL", "UNKNOWN"))
            return status, f"{method} {body!r}: {status} {details}" if wrong else ""
        return "OK", ""


def measure(server: Process) -> dict[str, float]:
    """What the server uses: megabytes, threads, descriptors."""
    process = psutil.Process(server.process.pid)
    return {
        "mb": process.memory_info().rss / 1e6,
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
    }


def start(folder: Path, transport: str) -> Process:
    """The server that the corpus' requests are for."""
    head = json.loads((CORPUS / "public/core.jsonl").open(encoding="utf-8").readline())
    (file,) = head["files"]
    (folder / "models.conf").write_text(file["text"].replace("${MODELS}", str(CORPUS / "models")))
    flags = ("--allow_version_labels_for_unavailable_models", "--max_body_bytes=100000000")
    return Process(f"--model_config_file={folder}/models.conf", f"--grpc_transport={transport}", *flags)


def fuzz(requests: int, seed: int, only: list[int] | None = None, transport: str = "auto") -> dict[str, Any]:
    """Sends `requests` requests, or `only` some of them; what came of it, and the first few that were wrong."""
    corpus = recorded()
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    lock = threading.Lock()
    # What each thread sent last: when the server ends, one of them is why.
    sent: dict[int, int] = {}

    def work(numbers: Iterator[int]) -> None:
        sender = Sender(server)
        for number in numbers:
            # Any of them can be sent again by itself.
            chance = random.Random(seed * 1_000_003 + number)  # noqa: S311 - no secret
            sent[threading.get_ident()] = number
            status, problem = sender.send(chance.choice(corpus), chance)
            with lock:
                statuses[status] += 1
                if problem:
                    wrong.append(f"{number}: {problem[:2000]}")
            if server.process.poll() is not None:
                return

    with tempfile.TemporaryDirectory() as folder:
        server = start(Path(folder), transport).ready()
        try:
            began = time.monotonic()
            first = requests // 10
            measures = []
            if not only:
                send_structures(Sender(server), first, seed, statuses, wrong)
            for numbers in (only, []) if only else (range(first), range(2 * first, requests)):
                with ThreadPoolExecutor(THREADS) as pool:
                    for worker in [pool.submit(work, iter(numbers[part::THREADS])) for part in range(THREADS)]:
                        worker.result()
                ended = server.process.poll()
                assert ended is None, (
                    f"the server ended with {ended} at {sorted(sent.values())}:\n{server.output[-3000:]}"
                )
                measures.append(measure(server))
            seconds = time.monotonic() - began
        finally:
            server.stop()
    return {
        "requests": statuses.total(),
        "seconds": seconds,
        "statuses": dict(statuses.most_common()),
        "after_a_fifth": measures[0],
        "at_the_end": measures[1],
        "wrong": wrong[:20],
        "wrong_in_all": len(wrong),
    }


def send_structures(sender: Sender, requests: int, seed: int, statuses: Counter[str], wrong: list[str]) -> None:
    """Sends requests that hypothesis makes up."""

    @settings(max_examples=requests, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @hypothesis_seed(seed)
    @given(st.one_of(structures.rest_requests(), structures.grpc_requests()))
    def send(request: structures.Rest | structures.Grpc) -> None:
        if isinstance(request, structures.Rest):
            status, problem = sender.over_rest("POST", request.path, request.body)
        else:
            status, problem = sender.over_grpc(request.method, request.body)
        statuses[status] += 1
        if problem:
            wrong.append(problem[:2000])

    send()


def main() -> int:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of the requests to send")
    parser.add_argument("--transport", default="auto", choices=["auto", "native", "grpcio"], help="what carries gRPC")
    arguments = parser.parse_args()
    result = fuzz(arguments.requests, arguments.seed, arguments.only, arguments.transport)
    print(json.dumps(result, indent=2))
    return 1 if result["wrong_in_all"] else 0


if __name__ == "__main__":
    sys.exit(main())

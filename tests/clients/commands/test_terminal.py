"""What a server says can't act on the terminal of a command, nor look like the command's own words."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.clients.hostile import HttpServer, for_ever, http_server, whole
from tfserving.cli import tfserving
from tfserving.clients.address import read_address
from tfserving.clients.bench.senders import TOO_LARGE, RestSender
from tfserving.clients.printable import printable
from tfserving.foundation.golden import GoldenRequest, log_of
from tfserving.foundation.records import write_records

# Sets the title, clears the screen, turns text around, forges a line; as C1 controls, as markup of rich and of plots.
EVIL = "\x1b]0;t\x07\x1b[2J\x9b31m\u202e\u2066\r\nall equal\x85\u2028\x00[/bold][link=x]$\\frac{$"
INFO = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}], "unknown_rank": False}}
OUTPUTS = {"y": INFO, f"t{EVIL}": {**INFO, "dtype": "DT_STRING"}, f"d{EVIL}": {**INFO, "dtype": f"DT_{EVIL}"}}
SIGNATURE = {"inputs": {"x": INFO}, "outputs": OUTPUTS, "method_name": f"predict{EVIL}", "defaults": {}}
PLAIN = {**SIGNATURE, "outputs": {key: OUTPUTS[key] for key in ("y", f"t{EVIL}")}}


def served(signatures: dict[str, Any]) -> bytes:
    definition = {"signature_def": {"signature_def": signatures}}
    return whole(json.dumps({"model_spec": {"version": "3"}, "metadata": definition}).encode())


def versions(state: str, message: str) -> bytes:
    status = {"error_code": f"OOPS{EVIL}", "error_message": message}
    return whole(json.dumps({"model_version_status": [{"version": "3", "state": state, "status": status}]}).encode())


def run(server: HttpServer, command: str, *options: str) -> Result:
    return CliRunner().invoke(tfserving, [command, "m", "--server", server.url, *options])


def check(result: Result, code: int) -> None:
    """Nothing but lines of what is printable, and none that the server made."""
    assert result.exit_code == code, (result.output, result.exception)
    for line in result.output.split("\n"):
        assert line.isprintable(), line
        assert not line.startswith("all equal")
    assert len(result.output) < 100_000


def test_what_a_server_says_is_harmless(tmp_path: Path) -> None:
    with http_server(keep=True) as server:
        server.answers = {
            "/m": versions(f"END{EVIL}", EVIL + "x" * 200_000),
            "/metadata": served({"serving_default": SIGNATURE, f"a{EVIL}": SIGNATURE, "n" * 9000: SIGNATURE}),
        }
        shown = run(server, "metadata")
        check(shown, 0)
        assert "\\x1b]0;t\\x07\\x1b[2J\\x9b31m\\u202e" in shown.stdout
        assert json.loads(run(server, "metadata", "--json").stdout)["version"] == 3
        check(run(server, "predict", "--input", '{"z": [1]}'), 2)
        check(run(server, "predict", "--input", "[1]", "--signature", "nope"), 2)
        check(run(server, "bench", "--signature", "nope"), 2)
        server.answers["/metadata"] = served({"serving_default": PLAIN})
        for texts in ([EVIL, {"b64": "G10wO3QH"}], [EVIL] * 60, ["x" * 500_000]):
            outputs = {"y": [1.0] * len(texts), f"t{EVIL}": texts}
            server.answers[":predict"] = whole(json.dumps({"outputs": outputs}).encode())
            check(run(server, "predict", "--input", "[1]"), 0)
            assert f"t{EVIL}" in json.loads(run(server, "predict", "--input", "[1]", "--json").stdout)["outputs"]
        check(run(server, "predict", "--input", "[1]", "--output", str(tmp_path / "out.npz")), 0)
        server.answers[":classify"] = whole(json.dumps({"results": [[[EVIL, 0.5]]]}).encode())
        server.answers["/metadata"] = served(
            {"serving_default": {**PLAIN, "inputs": {"x": {**INFO, "dtype": "DT_STRING"}}}}
        )
        check(run(server, "classify", "--input", "[{}]"), 0)
        error = whole(json.dumps({"error": EVIL}).encode(), status="400 Bad")
        server.answers["/metadata"] = error
        check(run(server, "metadata"), 1)


def test_a_verification_of_a_hostile_server_is_harmless(tmp_path: Path) -> None:
    request = GoldenRequest("serving_default", {"x": np.ones(1, np.float32)}, {"y": np.ones(1, np.float32)})
    write_records(tmp_path / "captured.tfrecord", [log_of(request, "m").SerializeToString()])
    command = ["verify", str(tmp_path / "captured.tfrecord")]
    with http_server(keep=True) as server:
        command += ["--server", server.url, "--report", str(tmp_path / "report.html")]
        server.answers = {"/m": versions("AVAILABLE", ""), "/metadata": served({"serving_default": PLAIN})}
        for answer in (
            whole(json.dumps({"outputs": {"y": [1.0], f"t{EVIL}": [EVIL]}}).encode()),
            whole(json.dumps({"outputs": {"y": [2.0, 3.0], f"t{EVIL}": []}}).encode()),
            whole(json.dumps({"error": EVIL}).encode(), status="400 Bad"),
            whole(b"[" * 5000),
        ):
            server.answers[":predict"] = answer
            check(CliRunner().invoke(tfserving, command), 1)
            assert not {"\x1b", "\x9b", "\u202e"} & {*(tmp_path / "report.html").read_text()}
            assert json.loads(CliRunner().invoke(tfserving, [*command, "--json"]).stdout)["ok"] is False


def test_printable_text_keeps_letters_and_escapes_what_acts() -> None:
    assert printable("größe 数 🙂") == "größe 数 🙂"
    assert printable("a\x1b[1m\n\t\u202e\udcff\xad") == r"a\x1b[1m\n\t\u202e\udcff\xad"
    assert printable("x" * 30, 10) == "xxxxxxxxxx… (20 more characters)"


@pytest.mark.parametrize("declared", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: "])
def test_a_load_test_ends_an_answer_that_is_endless(declared: bytes) -> None:
    async def sent(url: str) -> str:
        sender = RestSender(read_address(url), "/v1/models/m", 20.0, 1 << 20)
        try:
            return await sender.send(b"{}")
        finally:
            await sender.close()

    with http_server() as server:
        server.answers[""] = for_ever(b"x" * 99_999, declared)
        assert asyncio.run(sent(server.url)) == TOO_LARGE

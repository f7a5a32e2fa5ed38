"""The commands that call a server."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.clients.conftest import ON_SERVERS, ROOT, Server
from tests.servers import free_ports
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.clients.commands.images import ImageFile, Images
from tfserving.clients.commands.metadata import metadata
from tfserving.clients.commands.predict import predict
from tfserving.clients.commands.verify import verify
from tfserving.clients.errors import NotFound
from tfserving.clients.labels import versions_by_label
from tfserving.clients.results import Signature, TensorInfo
from tfserving.foundation.examples import read_examples
from tfserving.foundation.golden import read_golden
from tfserving.foundation.records import write_records

pytestmark = ON_SERVERS
ROWS = [[1.0, 2.0, 3.0]]
COMMAND = [sys.executable, "-m", "tfserving"]


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(tfserving, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture
def ask(server: Server, protocol: str) -> Any:
    """Runs `predict` for model `scale` over either protocol; returns its outputs, or the Result with `check` False."""

    def asking(*arguments: object, stdin: str | None = None, check: bool = True, model: str = "scale") -> Any:
        as_json = ("--json",) if check else ()
        result = run("predict", model, "--server", server.url(protocol), *as_json, *arguments, stdin=stdin)
        assert "Traceback" not in result.output
        if not check:
            return result
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["outputs"]

    return asking


def test_json_on_the_command_line(ask: Any) -> None:
    assert ask("--input", "[[1, 2, 3]]") == {"scaled": [[3.0, 6.0, 9.0]], "total": [18.0]}
    assert ask("--input", "x=[[1, 2, 3]]", model="scale/1")["total"] == [12.0]
    assert ask("--input", '{"x": [[1, 2, 3]]}', "--label", "stable")["total"] == [12.0]
    assert ask("--input", "a=[0.5]", "--input", "n=[2]", "--signature", "two") == {"sum": [2.5], "twice": [4]}
    assert ask("--input", "NaN", "--signature", "single")["y"] != 0
    assert ask("--input", "-1.5", "--signature", "single") == {"y": -1.5}
    assert ask("--input", '["äb", {"b64": "Yw=="}]', "--signature", "upper")["text"] == ["äB", "C"]


def test_json_may_be_longer_than_a_file_name(ask: Any) -> None:
    rows = [[1, 2, 3]] * 2000
    assert ask("--input", json.dumps(rows))["total"] == [18.0] * 2000
    assert ask("--input", json.dumps({"inputs": {"x": rows}}))["total"] == [18.0] * 2000


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": {"x": ROWS}},
        {"inputs": ROWS},
        {"instances": ROWS},
        {"instances": [{"x": row} for row in ROWS]},
        {"x": ROWS},
        {"signature_name": "serving_default", "instances": ROWS},
        ROWS,
    ],
)
def test_every_form_of_a_json_file(ask: Any, tmp_path: Path, body: Any) -> None:
    (tmp_path / "input.json").write_text(json.dumps(body))
    assert ask("--input", tmp_path / "input.json")["total"] == [18.0]
    assert ask("--input", "-", stdin=json.dumps(body))["total"] == [18.0]


def test_a_request_body_names_its_signature_unless_the_option_does(ask: Any) -> None:
    body = json.dumps({"signature_name": "two", "instances": [{"a": 1, "n": 2}, {"a": 3, "n": 4}]})
    assert ask("--input", body)["sum"] == [3.0, 7.0]
    assert (
        "signature 'serving_default' expects"
        in ask("--input", body, "--signature", "serving_default", check=False).stderr
    )


def test_numpy_files(ask: Any, tmp_path: Path) -> None:
    rows = np.array(ROWS, np.float32)
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "two.npz", a=np.array([1], np.float32), n=np.array([2], np.int32))
    np.savez(tmp_path / "half.npz", a=np.array([1], np.float32))
    assert ask("--input", tmp_path / "rows.npy")["total"] == [18.0]
    assert ask("--input", f"x={tmp_path / 'rows.npy'}")["total"] == [18.0]
    assert ask("--input", tmp_path / "two.npz", "--signature", "two")["sum"] == [3.0]
    assert ask("--input", tmp_path / "half.npz", "--input", "n=[2]", "--signature", "two")["sum"] == [3.0]


def test_outputs_go_into_a_file(ask: Any, tmp_path: Path) -> None:
    file = tmp_path / "answer.npz"
    ask("--input", "[[1, 2, 3]]", "--output", file)
    with np.load(file) as answer:
        np.testing.assert_array_equal(answer["scaled"], np.array([[3, 6, 9]], np.float32))
    ask("--input", '["a", "bcd"]', "--signature", "upper", "--output", file)
    with np.load(file) as answer:
        assert answer["text"].tolist() == [b"A", b"BCD"]
    assert list(tmp_path.iterdir()) == [file]


def test_outputs_that_a_file_cannot_hold_are_an_error(ask: Any, tmp_path: Path) -> None:
    file = tmp_path / "answer.npz"
    result = ask("--input", '["nul\\u0000"]', "--signature", "upper", "--output", file, check=False)
    assert result.exit_code == 1
    assert "output 'text' has strings that end with NUL bytes" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_shown_as_a_table_with_their_types(server: Server) -> None:
    asked = ("predict", "scale", "--server", server.url("grpc"))
    shown = run(*asked, "--input", "[[1, 2, 3], [0, 0, 0.5]]")
    assert shown.stdout.splitlines() == [
        "scale version 2, signature serving_default",
        "scaled  float32 (2, 3)",
        "total  float32 (2,)",
        "",
        "row  scaled         total",
        "──────────────────────────",
        "0    [3. 6. 9.]     18.0",
        "1    [0.  0.  1.5]  1.5",
    ]
    shown = run(*asked, "--signature", "upper", "--input", '["ä", {"b64": "/w=="}]')
    assert [line.split() for line in shown.stdout.splitlines()[-2:]] == [
        ["0", r"ä\x00\xff", "ä"],
        ["1", r"\xff\x00\xff", r"\xff"],
    ], "nothing that a terminal acts on"


def test_outputs_that_do_not_go_by_rows_or_are_long_are_shown_one_by_one(server: Server) -> None:
    asked = ("predict", "scale", "--server", server.url("grpc"))
    assert run(*asked, "--signature", "single", "--input", "1.5").stdout.splitlines()[1:] == ["y  float32 ()", "1.5"]
    long = run(*asked, "--input", json.dumps([[1, 2, 3]] * 60)).stdout
    assert "scaled  float32 (60, 3)\n[[3. 6. 9.]\n" in long
    none = run(*asked, "--signature", "positive", "--input", "[[-1, 2, 3]]").stdout
    assert none.endswith("rows  float32 (0, 3)\n[]\n")


def test_bytes_that_are_no_text_are_base64_in_json(ask: Any) -> None:
    assert ask("--input", '["a"]', "--signature", "upper")["raw_bytes"] == [{"b64": "YQD/"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--input", "[[1, 2]]"),
            "scale version 2: inputs['x']: got float32 (1, 2), signature 'serving",
        ),
        (("--input", "[[1, 2], [3]]"), "inputs['x']: its lists have different lengths"),
        (("--input", '[["a"]]'), "inputs['x']: 'a' is not of dtype float32"),
        (
            ("--input", '{"y": [1]}'),
            "inputs['y'] is not an input of signature 'serving_default', which has 'x': float32 (?, 3)",
        ),
        (("--input", "[1]", "--signature", "two"), "signature 'two' has 2 inputs (a, n); give them as a mapping"),
        (("--input", "[1]", "--signature", "nope"), "scale version 2 lacks signature 'nope'; it has complex, flags"),
        (("--input", "rows.npy"), "the file rows.npy doesn't exist"),
        (("--input", "x=missing.json"), "the file missing.json doesn't exist"),
        (("--input", "hello"), "'hello' is neither JSON nor a file; write a string in quotes, '\"hello\"'"),
        (("--input", "[1, 2"), "'[1, 2' is not JSON: Expecting ',' delimiter"),
        (("--input", "[1]", "--input", "[2]"), "'[1]' has no name; with several --input, write each as NAME=VALUE"),
        (("--input", "x=[1]", "--input", "x=[2]"), "input 'x' is given twice"),
        (("--input", 'x={"y": 1}'), "contains inputs with names (y); write it without x="),
        (("--input", '{"instances": [{"x": 1}, {"y": 1}]}'), "instances[1] has y, expected x as in instances[0]"),
        (("--input", '{"b64": "?"}'), "is not base64"),
        (("--input", "[1e400]"), "the number 1e400 exceeds the range of 64-bit floats"),
        (("--input", "[" + "9" * 400 + "]"), "exceeds the range of 64-bit floats"),
        (("--input", "[1]", "--output", "answer.txt"), "answer.txt does not end with .npz"),
        (("--input", "[1]", "--output", "/nowhere/answer.npz"), "the folder /nowhere does not exist"),
        (("--input", "[1]", "--timeout", "0"), "0.0 is not in the range x>0"),
        ((), "--input is missing. 'scale' is not a model of models.yaml, so it has no golden request."),
    ],
)
def test_wrong_usage_is_code_2_and_says_what_would_be_right(ask: Any, arguments: tuple[str, ...], said: str) -> None:
    result = ask(*arguments, check=False)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_files_that_are_not_what_they_are_called(ask: Any, tmp_path: Path) -> None:
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], np.object_), allow_pickle=True)
    for name, data in (
        ("a.npy", b"no array"),
        ("a.npz", b""),
        ("a.json", b"{"),
        ("a.txt", b"1"),
        ("p.npy", pickled.getvalue()),
    ):
        (tmp_path / name).write_bytes(data)
        result = ask("--input", tmp_path / name, check=False)
        assert result.exit_code == 2
        assert name in result.stderr
    (tmp_path / "folder.json").mkdir()
    assert "doesn't exist" in ask("--input", tmp_path / "folder.json", check=False).stderr


def test_what_the_server_refuses_is_code_1(server: Server, protocol: str) -> None:
    for command in (("predict", "--input", "1"), ("metadata",)):
        result = run(*command, "nope", "--server", server.url(protocol))
        assert result.exit_code == 1
        assert "NOT_FOUND" in result.stderr
        assert "nope" in result.stderr


def test_a_server_that_is_not_there_is_code_3(protocol: str) -> None:
    (port,) = free_ports(1)
    url = f"{'http' if protocol == 'rest' else 'grpc'}://127.0.0.1:{port}"
    for command in (("predict", "--input", "1"), ("metadata",)):
        result = run(*command, "scale", "--server", url)
        assert result.exit_code == 3
        assert f"127.0.0.1:{port}" in result.stderr


def test_an_address_that_is_none_is_wrong_usage() -> None:
    result = run("metadata", "scale", "--server", "127.0.0.1:8500")
    assert result.exit_code == 2
    assert "write grpc://127.0.0.1:8500 or http://127.0.0.1:8500" in " ".join(result.stderr.split())


def test_metadata_shows_every_signature(server: Server, protocol: str) -> None:
    asked = ("metadata", "scale", "--server", server.url(protocol))
    shown = run(*asked)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("scale version 2\n")
    assert "  serving_default  (tensorflow/serving/predict)\n    input   x       float32 (?, 3)\n" in shown.stdout
    answer = json.loads(run(*asked, "--json", "--label", "stable").stdout)
    assert answer["version"] == 1
    assert answer["signatures"]["serving_default"]["inputs"] == {"x": {"dtype": "float32", "shape": [None, 3]}}


class TestFleet:
    """Models by their names in models.yaml."""

    @pytest.fixture
    def fleet(self, server: Server, tmp_path: Path) -> Path:
        (tmp_path / "models").symlink_to(server.models)
        (tmp_path / "models.yaml").write_text("models: {scale: {builder: own:build}, words: {builder: own:build}}")
        return tmp_path / "models.yaml"

    def test_predict_sends_a_golden_request(self, server: Server, protocol: str, fleet: Path) -> None:
        asked = ("--server", server.url(protocol), "--fleet", fleet)
        result = run("predict", "scale/1", *asked, "--json")
        assert (result.exit_code, result.stderr) == (0, "Using golden request 0 of scale/1.\n"), result.output
        golden = read_golden(server.models / "scale" / "1").requests[0]
        assert json.loads(result.stdout)["outputs"]["total"] == golden.outputs["total"].tolist()
        assert "golden request 0 of scale/1" in run("predict", "scale", "--label", "stable", *asked).stderr
        assert "golden request" in run("predict", "scale", *asked, "--signature", "upper").stderr
        result = run("predict", "scales", *asked)
        assert result.exit_code == 2
        assert "Did you mean 'scale'?" in result.stderr
        assert "model 'scale' has no version 9" in run("predict", "scale/9", *asked).stderr

    def test_the_body_of_a_request_is_printed_without_a_server(self, server: Server, fleet: Path) -> None:
        result = run("predict", "scale/1", "--print-body", "--fleet", fleet, "--server", "http://127.0.0.1:1")
        golden = read_golden(server.models / "scale" / "1").requests[0]
        np.testing.assert_array_equal(np.float32(json.loads(result.stdout)["inputs"]["x"]), golden.inputs["x"])
        given = run("predict", "scale", "--print-body", "--input", "[[1, 2, 3]]", "--server", server.url("grpc"))
        assert json.loads(given.stdout) == {"signature_name": "serving_default", "inputs": {"x": [[1.0, 2.0, 3.0]]}}

    def test_the_whole_fleet_is_verified(self, server: Server, fleet: Path) -> None:
        asked = ("--server", f"grpc://{server.grpc}", "--fleet", fleet, "--way", "alone")
        result = run("verify", *asked)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[-1] == "all 11 golden requests of 2 models equal over gRPC"
        assert "golden requests of 1 model" in run("verify", "scale/2", *asked).stdout
        result = run("verify", "scal", *asked)
        assert result.exit_code == 2
        assert "no model is called 'scal'" in result.stderr
        assert "Did you mean 'scale'?" in result.stderr


class TestVerify:
    """The command that compares what is served with what was exported."""

    def test_all_that_is_equal_is_code_0_and_said_in_the_last_line(self, server: Server) -> None:
        addresses = ("--server", f"grpc://{server.grpc},http://{server.rest}")
        result = run("verify", server.models / "scale", server.models / "words", *addresses)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[-1] == "all 11 golden requests of 2 models equal over gRPC and REST"
        assert lines[0].split() == [
            *("model", "version", "signature", "protocol", "output", "requests"),
            *("max", "abs", "max", "scale", "verdict"),
        ]
        assert "scale 1 serving_default REST total 2 0 0 equal" in [" ".join(line.split()) for line in lines]
        assert lines[-2].startswith("Tolerances: cpu, ")
        assert "\x1b" not in result.stdout

    def test_a_difference_is_code_1_and_named(self, server: Server) -> None:
        result = run("verify", server.models / "tampered", "--server", f"grpc://{server.grpc}")
        assert result.exit_code == 1
        last = result.stdout.splitlines()[-1]
        assert "tampered version 1, signature 'serving_default', output 'scaled' over gRPC: request 0: [" in last
        row = next(line for line in result.stdout.splitlines() if " scaled " in line)
        assert row.endswith("different"), "a piped row is whole"
        assert re.search(r"output 'total' over gRPC: request 0: \[\d\]: got \S+, expected \S+\n", result.stdout)

    def test_json_has_every_row(self, server: Server) -> None:
        result = run(
            "verify", server.models / "tampered", "--server", f"grpc://{server.grpc},http://{server.rest}", "--json"
        )
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        assert (report["ok"], report["models"], report["golden_requests"]) == (False, 1, 5)
        assert {row["protocol"] for row in report["rows"]} == {"grpc", "rest"}
        scaled = next(row for row in report["rows"] if row["output"] == "scaled")
        assert scaled["verdict"] == "different"
        assert scaled["ulp"] > 1000
        assert scaled["requests"] == 2

    def test_servers_that_are_not_there_are_code_3(self, server: Server) -> None:
        ports = free_ports(2)
        result = run(
            *("verify", server.models / "words"),
            *("--server", f"grpc://127.0.0.1:{ports[0]},http://127.0.0.1:{ports[1]}"),
        )
        assert result.exit_code == 3
        assert f"no gRPC server is listening on 127.0.0.1:{ports[0]}" in result.stdout

    def test_folders_without_models_are_wrong_usage(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "nowhere"):
            result = run("verify", folder)
            assert result.exit_code == 2
            assert str(folder) in result.stderr.replace("\n", "")

    def test_colour_is_for_terminals(self, server: Server) -> None:
        command = [
            *COMMAND,
            "verify",
            str(server.models / "words"),
            f"--server=grpc://{server.grpc},http://{server.rest}",
        ]
        main_end, other_end = pty.openpty()
        with subprocess.Popen(
            command, cwd=ROOT, stdout=other_end, stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm-256color"}
        ) as process:
            os.close(other_end)
            shown = b""
            while chunk := _read(main_end):
                shown += chunk
            os.close(main_end)
        assert process.returncode == 0
        assert b"\x1b[32mequal" in shown


def _read(descriptor: int) -> bytes:
    """What a terminal shows next; nothing once its other end is closed, which Linux reports as an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def test_ctrl_c_is_code_130_without_a_traceback() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        command = [*COMMAND, "metadata", "m", "--server", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        process = subprocess.Popen(
            [*command, "--timeout", "60"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        silent.settimeout(30)
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_reader_that_leaves_is_no_error(server: Server) -> None:
    command = " ".join([*COMMAND, "metadata", "scale", "--server", server.url("grpc"), "| head -n 1"])
    done = subprocess.run(command, shell=True, cwd=ROOT, text=True, capture_output=True, check=True)  # noqa: S602 - a pipe
    assert done.stdout == "scale version 2\n"
    assert "Traceback" not in done.stderr


def test_every_option_has_help() -> None:
    for command in (predict, metadata, verify):
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, (command.name, option.name)


def test_models_that_come_without_rest_are_verified_over_grpc(server: Server, tmp_path: Path) -> None:
    shutil.copytree(server.models / "words", tmp_path / "words")
    result = run("verify", tmp_path, "--server", f"grpc://{server.grpc}")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "the golden request of 1 model equal over gRPC"


def test_examples_are_classified_and_regressed(server: Server, protocol: str, tmp_path: Path) -> None:
    examples = [{"length": 2.0, "name": "rose"}, {"length": 0.5}]
    (tmp_path / "examples.json").write_text(json.dumps({"examples": examples}))
    write_records(tmp_path / "examples.tfrecord", [it.SerializeToString() for it in read_examples(examples).examples])
    flowers = ("flowers", "--server", server.url(protocol))
    for given in (json.dumps(examples), tmp_path / "examples.json", tmp_path / "examples.tfrecord"):
        result = run("classify", *flowers, "--input", given, "--json")
        assert result.exit_code == 0, result.output
        outputs = json.loads(result.stdout)["outputs"]
        assert outputs == {"classes": [["rose", "other"], ["?", "other"]], "scores": [[2.0, 0.5], [0.5, 2.0]]}
    result = run("regress", *flowers, "--signature", "length", "--input", "-", stdin=json.dumps(examples[0]))
    assert result.output.splitlines()[1:] == ["outputs  float32 (1,)", "", "row  outputs", "─────────────", "0    6.0"]
    run("classify", *flowers, "--input", json.dumps(examples), "--output", tmp_path / "answer.npz")
    with np.load(tmp_path / "answer.npz") as answer:
        assert answer["classes"].tolist() == [[b"rose", b"other"], [b"?", b"other"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[", "'[' is not JSON"),
        ("x=1", "'x=1' is neither JSON nor the name of a .json or .tfrecord file"),
        ("3", "must be an object of features"),
        ('[{"a": [1, "b"]}]', "examples[0]['a'] mixes bytes and int64"),
        ("[]", "examples is empty"),
        ("missing.tfrecord", "No such file"),
        ("missing.json", "No such file"),
    ],
)
def test_examples_that_are_none_are_wrong_usage(given: str, said: str) -> None:
    result = run("classify", "flowers", "--input", given)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_labels_are_found_with_their_versions(server: Server, protocol: str) -> None:
    with connect(server.url(protocol)) as client:
        assert versions_by_label(client, "scale") == {"stable": 1}, "one that was never set is left out"
        assert versions_by_label(client, "trial") == {"stable": 1, "canary": 2}, "the canary is a model of its own"
        with pytest.raises(NotFound):
            versions_by_label(client, "nope")


def test_tls_options(tls_server: Server, server: Server, protocol: str) -> None:
    tls = tls_server.tls
    assert tls is not None
    options = ("--tls-ca", tls.ca, "--tls-cert", tls.certificate, "--tls-key", tls.key)
    asked = ("metadata", "words", "--server", tls_server.url(protocol))
    assert run(*asked, *options).output.startswith("words version 1\n")
    assert run(*asked, *options[:2], "--timeout", 5).exit_code == 3
    result = run("metadata", "words", "--server", server.url(protocol), *options)
    assert result.exit_code == 2
    assert "doesn't use TLS; write" in " ".join(result.stderr.split())
    assert run(*asked, *options[:4]).exit_code == 2
    assert run(*asked, "--tls-ca", "missing.pem").exit_code == 2


class TestTlsByAddress:
    """TensorFlow Serving has TLS on gRPC alone: each address says whether it has it."""

    def test_both_protocols_of_one_server_are_verified_in_one_call(self, grpc_tls_server: Server) -> None:
        server, tls = grpc_tls_server, grpc_tls_server.tls
        assert tls is not None
        addresses = ("--server", f"{server.url('grpc')},{server.url('rest')}", "--tls-ca", tls.ca)
        result = run("verify", server.models / "words", *addresses)
        assert result.exit_code == 0, result.output
        assert "equal over gRPC and REST" in result.output
        against = ("--against", server.url("grpc"), "--tls-ca", tls.ca)
        result = run("verify", server.models / "words", "--server", server.url("rest"), *against)
        assert result.exit_code == 0, result.output
        assert run("verify", server.models / "words", "--server", server.url("grpc")).exit_code == 3

    def test_options_for_no_address_are_wrong_usage(self, grpc_tls_server: Server) -> None:
        server, tls = grpc_tls_server, grpc_tls_server.tls
        assert tls is not None
        plain = f"grpc://{server.grpc},http://{server.rest}"
        result = run("verify", server.models / "words", "--server", plain, "--tls-ca", tls.ca)
        assert result.exit_code == 2
        said = f"TLS options are given, but no URL uses TLS; write grpcs://{server.grpc} or https://{server.rest}"
        assert said in " ".join(result.stderr.split())
        result = run("bench", "--server", f"grpc://{server.grpc}", "words", "--tls-ca", tls.ca)
        assert result.exit_code == 2
        assert f"but no URL uses TLS; write grpcs://{server.grpc}" in " ".join(result.stderr.split())
        result = run("capture", tls.ca, "--golden", server.folder / "none.tfrecord", "--tls-ca", tls.ca)
        assert result.exit_code == 2
        assert "without a server; add --server grpcs://HOST:PORT" in " ".join(result.stderr.split())

    def test_a_load_test_has_an_address_with_tls_and_one_without(
        self, grpc_tls_server: Server, tls_server: Server, server: Server
    ) -> None:
        def measured(asked: str, page: str, given: Server) -> Result:
            assert given.tls is not None
            tls = {"ca": given.tls.ca, "cert": given.tls.certificate, "key": given.tls.key}
            options = [word for name, path in tls.items() if path for word in (f"--tls-{name}", path)]
            quick = ("--concurrency", 1, "--window", 0.1, "--warm-up", 0.1, "--json")
            metrics = ("--metrics", f"{page}/monitoring/prometheus/metrics")
            return run("bench", "words", "--input", '["a"]', "--server", asked, *metrics, *options, *quick)

        result = measured(grpc_tls_server.url("grpc"), grpc_tls_server.url("rest"), grpc_tls_server)
        assert (result.exit_code, result.stderr) == (0, "")
        assert json.loads(result.stdout)["steps"][0]["server_latency_mean_ms"] > 0
        with connect(tls_server.url("grpc"), tls=tls_server.tls) as client:
            # Its page has latencies of the model from then on.
            client.predict("words", ["a"])
        result = measured(server.url("grpc"), tls_server.url("rest"), tls_server)
        assert (result.exit_code, result.stderr) == (0, "")


class TestImages:
    """Images as inputs, as their signature wants them."""

    @pytest.fixture(scope="class")
    @classmethod
    def image(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("images") / "red.png"
        Image.new("RGB", (6, 4), (255, 0, 51)).save(path)
        return path

    def array(self, image: Path, info: TensorInfo, images: Images | None = None) -> Any:
        signature = Signature("", {"image": info}, {})
        return (images or Images()).fitted({"image": ImageFile(image)}, signature)["image"]

    def test_pixels_have_the_type_and_the_channels_that_are_wanted(self, image: Path) -> None:
        pixels = self.array(image, TensorInfo("uint8", (None, 4, 6, 3)))
        assert (pixels.dtype, pixels.shape, pixels[0, 0, 0].tolist()) == (np.uint8, (1, 4, 6, 3), [255, 0, 51])
        assert self.array(image, TensorInfo("float32", (None, None, None, 1))).shape == (1, 4, 6, 1)
        scaled = self.array(image, TensorInfo("float32", (None, 4, 6, 3)), Images(scale=1 / 255))
        np.testing.assert_allclose(scaled[0, 0, 0], [1, 0, 0.2], rtol=1e-6)

    def test_another_size_is_refused_unless_it_may_be_changed(self, image: Path) -> None:
        info = TensorInfo("float32", (None, 2, 3, 3))
        with pytest.raises(ValueError, match="is 4 high and 6 wide, the signature requires 2 and 3; add --resize"):
            self.array(image, info)
        assert self.array(image, info, Images(resize=True)).shape == (1, 2, 3, 3)

    def test_strings_are_the_bytes_of_the_file(self, image: Path) -> None:
        assert self.array(image, TensorInfo("string", (None,))).tolist() == [image.read_bytes()]

    def test_an_input_without_a_batch_gets_the_image_alone(self, image: Path) -> None:
        assert self.array(image, TensorInfo("string", ())).item() == image.read_bytes()
        assert self.array(image, TensorInfo("uint8", (None, None, 3))).shape == (4, 6, 3)
        with pytest.raises(ValueError, match="which the input can't hold"):
            self.array(image, TensorInfo("uint8", (None, 4, 6)))

    def test_what_is_no_image_or_holds_none_is_refused(self, image: Path, tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(ValueError, match=r"text.png can't be read as an image"):
            self.array(tmp_path / "text.png", TensorInfo("uint8", (None, 4, 6, 3)))
        with pytest.raises(ValueError, match=r"got float32 \(\?, 3\)"):
            self.array(image, TensorInfo("float32", (None, 3)))
        with pytest.raises(ValueError, match="1, 3 or 4 channels, the signature requires 5"):
            self.array(image, TensorInfo("uint8", (None, 4, 6, 5)))

    def test_an_image_is_an_input_of_the_command(self, ask: Any, image: Path) -> None:
        assert ask("--input", image, model="words")["length"] == [image.stat().st_size]
        result = ask("--input", image, check=False)
        assert result.exit_code == 2
        assert "which the input can't hold" in result.stderr


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_never_responds_is_named(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = run("metadata", "scale", "--server", f"{scheme}://{address}", "--timeout", "0.2")
    assert result.exit_code == 3
    assert f"{address} sent no complete response within the timeout. Check --server" in result.stderr


@pytest.mark.parametrize(("scheme", "port"), [("grpcs", "gRPC"), ("https", "REST")])
def test_a_closed_port_is_no_fault_of_a_certificate(scheme: str, port: str) -> None:
    result = run("metadata", "scale", "--server", f"{scheme}://127.0.0.1:{free_ports(1)[0]}", "--timeout", "2")
    assert result.exit_code == 3
    assert f"no {port} server is listening on" in result.stderr


def test_a_list_of_what_is_published_shows_what_a_server_has(server: Server, tmp_path: Path) -> None:
    with connect(server.url("grpc")) as client:
        expected = {one.version: one.state for one in client.status("scale")}
    words = ["export", "list", server.models, "scale", "--fleet", tmp_path / "none.yaml"]
    result = run(*words, "--server", server.url("grpc"), "--json")
    assert result.exit_code == 0, result.output
    (model,) = json.loads(result.stdout)["models"]
    assert {one["version"]: one["served"] for one in model["versions"] if one["served"]} == expected
    lines = run(*words, "--server", server.url("grpc")).stdout.splitlines()
    assert sum("server: AVAILABLE" in line for line in lines) == list(expected.values()).count("AVAILABLE") > 0
    # A model that the server doesn't have is listed all the same.
    (tmp_path / "published/unknown/1").mkdir(parents=True)
    unknown = run("export", "list", tmp_path / "published", *words[4:], "--server", server.url("rest"), "--json")
    assert [one["served"] for one in json.loads(unknown.stdout)["models"][0]["versions"]] == [None]
    assert run(*words, "--server", "grpc://127.0.0.1:9").exit_code == 3

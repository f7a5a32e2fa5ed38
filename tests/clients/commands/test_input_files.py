"""Files that aren't what they are called: one line and exit code 2, before anything is sent."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.clients.conftest import ROOT
from tfserving.cli import tfserving
from tfserving.clients.bench.load import Load, Window, step_of
from tfserving.clients.bench.step_json import read_step, step_json
from tfserving.clients.commands import array_files, images
from tfserving.clients.commands.images import ImageFile, Images
from tfserving.clients.results import Signature, TensorInfo

# Nothing is there: a command that gets as far as asking ends with 3.
NOWHERE = ("m", "--server", "grpc://127.0.0.1:1")


def npy(array: Any, **options: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, array, **options)
    return made.getvalue()


def npz(**arrays: Any) -> bytes:
    made = io.BytesIO()
    np.savez_compressed(made, **arrays)
    return made.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode()


def zipped(**entries: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return made.getvalue()


WHOLE = npz(x=np.arange(300, dtype=np.float32))
OBJECTS = npy(np.array([{}], np.object_), allow_pickle=True)
EXABYTES = header("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,), }")
FILES: dict[str, tuple[bytes, str]] = {
    **{f"cut{size}.npz": (WHOLE[:size], "it is not a zip file, or it is truncated") for size in (0, 3, 10, 130)},
    "flipped.npz": (flipped(WHOLE, 100), "can't be read as .npz"),
    "text.npz": (b"no array", "it is not a zip file"),
    "array.npz": (npy(np.ones(3)), "it is not a zip file"),
    "objects.npz": (zipped(**{"x.npy": OBJECTS}), "it contains Python objects, which aren't loaded"),
    "notes.npz": (zipped(**{"x.txt": b"text"}), "'x.txt' in it is not an array"),
    "text.npy": (b"no array", "it is not a .npy file"),
    "empty.npy": (b"", "it is not a .npy file"),
    "cut.npy": (npy(np.ones(99))[:200], "can't be read as .npy"),
    "header.npy": (header("{'descr': ("), "can't be read as .npy"),
    "objects.npy": (OBJECTS, "it contains Python objects"),
    "exabytes.npy": (EXABYTES, "can't be read as .npy"),
    "empty.json": (b"", "is not JSON"),
    "binary.json": (b"\x80\x81\x82\x83", "is not UTF-8"),
    "latin.json": ('["café"]'.encode("latin-1"), "is not UTF-8"),
    "deep.json": (b"[" * 200_000, "is JSON that is nested too deeply"),
    "digits.json": (b"9" * 10_000, "exceeds the range of 64-bit floats"),
    "half.json": (b'{"x": [1, 2', "is not JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_input_that_can_not_be_read_is_wrong_usage(name: str, tmp_path: Path) -> None:
    data, said = FILES[name]
    (tmp_path / name).write_bytes(data)
    result = CliRunner().invoke(tfserving, ["predict", *NOWHERE, "--input", str(tmp_path / name)])
    assert result.exit_code == 2, result.output
    shown = " ".join(result.stderr.split())
    assert said in shown
    assert "allow_pickle" not in shown


def test_json_may_be_utf_16(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes("[1.5]".encode("utf-16"))
    result = CliRunner().invoke(tfserving, ["predict", *NOWHERE, "--input", str(tmp_path / "a.json")])
    assert result.exit_code == 3, "it is read, and then asked with"


def test_an_archive_that_inflates_to_more_than_a_request_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zeros.npz").write_bytes(npz(x=np.zeros(1 << 20)))
    monkeypatch.setattr(array_files, "LARGEST", 1 << 20)
    with pytest.raises(ValueError, match="its arrays have 8388736 bytes, the limit of a request is 1048576"):
        array_files.read_arrays(tmp_path / "zeros.npz")


def test_outputs_may_have_any_name(tmp_path: Path) -> None:
    names = ("file", "allow_pickle", "args", "a/b", "x.npy", "ä")
    with (tmp_path / "out.npz").open("wb") as file:
        array_files.write_arrays(file, {name: np.arange(3) for name in names})
    read = array_files.read_arrays(tmp_path / "out.npz")
    assert {name: it.tolist() for name, it in read.items()} == {name: [0, 1, 2] for name in names}


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_images_that_can_not_be_read_say_so(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    good = io.BytesIO()
    Image.new("RGB", (60, 40), (255, 0, 51)).save(good, "PNG")
    damaged = {
        "cut.png": good.getvalue()[:60],
        "flipped.png": flipped(good.getvalue(), 50),
        "bomb.png": png(60_000, 60_000),
        "warned.png": png(10_000, 10_000),
        "short.png": png(100, 100),
        "text.jpg": b"no image",
        "empty.webp": b"",
        "cut.gif": b"GIF89a\xff",
        "cut.bmp": b"BM" + bytes(20),
    }
    signature = Signature("", {"image": TensorInfo("uint8", (None, None, None, 3))}, {})
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} can't be read as an image"):
            Images().fitted({"image": ImageFile(tmp_path / name)}, signature)
    assert not recwarn.list


def test_a_server_can_not_have_an_image_made_larger_than_any(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    signature = Signature("", {"image": TensorInfo("uint8", (None, 1_000_000, 1_000_000, 3))}, {})
    with pytest.raises(ValueError, match=f"the limit is {images.MOST_PIXELS} pixels"):
        Images(resize=True).fitted({"image": ImageFile(tmp_path / "a.png")}, signature)


def test_text_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "utf16").write_bytes("{}".encode("utf-16"))
    (tmp_path / "binary").write_bytes(b"\0\x01\x02")
    (tmp_path / "deep").write_bytes(b"[" * 5000)
    (tmp_path / "digits").write_text("9" * 5000)
    (tmp_path / "empty").touch()
    (tmp_path / "u.json").write_bytes("[]".encode("utf-16"))
    commands = [
        (["regress", *NOWHERE, "--input"], ("u.json",)),
        (["bench", *NOWHERE, "--compare"], ("utf16", "binary", "deep", "digits", "empty")),
    ]
    for command, names in commands:
        for name in names:
            result = CliRunner().invoke(tfserving, [*command, str(tmp_path / name)])
            assert result.exit_code == 2, (command, name, result.output, result.exception)
            shown = " ".join(result.stderr.split())
            assert name in shown.replace(" ", ""), (command, shown)
            assert name not in ("utf16", "u.json") or "not UTF-8" in shown, (command, shown)


def test_a_run_that_is_compared_must_be_one(tmp_path: Path) -> None:
    window = Window(1.0)
    window.latencies.record_value(1000)
    step = step_json(step_of(Load(concurrency=1), [window], processes=1, steady=True, server_ms=None))
    assert step_json(read_step(json.loads(json.dumps(step)))) == step
    wrong: list[dict[str, Any]] = [{"latency_p50_ms": []}, {"requests_per_second": "1"}, {"curve": [[1]]}, {"load": []}]
    for changed in (*wrong, {"load": {"concurrency": []}}):
        (tmp_path / "before.json").write_text(json.dumps({"steps": [{**step, **changed}]}))
        command = ["bench", *NOWHERE, "--compare", str(tmp_path / "before.json")]
        result = CliRunner().invoke(tfserving, command)
        assert result.exit_code == 2, (changed, result.output, result.exception)
        assert "is not the output of `bench --json`" in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", ["predict", "regress"])
def test_a_standard_input_that_is_closed_is_wrong_usage(command: str) -> None:
    shell = f"{sys.executable} -m tfserving {command} {' '.join(NOWHERE)} --input - <&-"
    done = subprocess.run(shell, shell=True, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)  # noqa: S602 - a shell closes it
    assert done.returncode == 2
    assert "standard input: it is closed" in " ".join(done.stderr.split())

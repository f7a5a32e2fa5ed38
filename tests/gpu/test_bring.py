"""An environment is packed in parts and unpacked elsewhere, where its libraries load."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.gpu import bring

CODE = {arch: os.urandom(4096 + arch) for arch in (80, 89, 90)}
PTX = b"// PTX\n" * 600


def entry(kind: int, arch: int, code: bytes) -> bytes:
    code = code.ljust(-(-len(code) // 8) * 8, b"\0")
    return struct.pack("<HHIQIIHHIIIQ16x", kind, 0x101, 64, len(code), 0, 0, 0, 0, arch, 0, 0, 0)[:64].ljust(64) + code


def unit(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", bring.FATBIN, 1, 16, len(body)) + body


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A real library, to which GPU code was added as a compiler adds it: for three architectures, and as PTX."""
    (original,) = Path(orjson.__file__).parent.glob("*.so")
    section = tmp_path / "section"
    binaries = [entry(bring.BINARY, arch, code) for arch, code in CODE.items()]
    section.write_bytes(unit(*binaries, entry(bring.PTX, 90, PTX)) + bytes(8) + unit(entry(bring.PTX, 80, PTX)))
    copy = tmp_path / original.name
    flags = f"--add-section=.nv_fatbin={section}", "--set-section-flags=.nv_fatbin=noload,readonly"
    subprocess.run(["objcopy", *flags, str(original), str(copy)], check=True)
    return copy


@pytest.mark.parametrize(("architecture", "kept"), [(90, {90}), (89, {89}), (86, {80}), (120, set())])
def test_only_the_code_that_a_gpu_loads_is_kept(library: Path, architecture: int, kept: set[int]) -> None:
    zeroed = bring.zero_other_architectures(library, architecture)
    data = library.read_bytes()
    assert {arch for arch, code in CODE.items() if code in data} == kept
    # PTX is compiled where there is no binary: in the second unit always, in the first for a newer GPU.
    assert data.count(PTX) == (1 if kept else 2)
    assert zeroed > sum(len(code) for arch, code in CODE.items() if arch not in kept)


def test_a_library_without_gpu_code_stays_as_it_is(tmp_path: Path) -> None:
    for name, content in (("script.so", b"/* GNU ld script */"), ("empty.so", b"\x7fELF\x02" + bytes(100))):
        (tmp_path / name).write_bytes(content)
        assert bring.zero_other_architectures(tmp_path / name, 90) == 0
        assert (tmp_path / name).read_bytes() == content


def test_what_is_unpacked_works(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose library has GPU code comes through, and runs in a bare Python."""
    site, parts, target = tmp_path / "site", tmp_path / "parts", tmp_path / "there"
    shutil.copytree(Path(orjson.__file__).parent, site / "orjson")
    library.replace(site / "orjson" / library.name)
    monkeypatch.setattr(bring, "PART_BYTES", 100_000)
    sizes = bring.pack(site, parts, 90)
    assert sizes["written"] < sizes["read"] * 0.6
    assert len([*parts.glob("*.xz")]) > 1
    alone = ("-S", "-c", "import orjson; print(orjson.__file__, orjson.loads('[1]'))")
    subprocess.run([sys.executable, "-I", bring.__file__, "unpack", str(parts), str(target)], check=True)
    done = subprocess.run(
        [sys.executable, *alone], env={"PYTHONPATH": str(target)}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split(" ", 1) == [f"{target}/orjson/__init__.py", "[1]\n"], done.stderr
    assert not [*target.rglob("*.pyi")]
    assert not [*target.rglob("*.tar")]


def test_packages_that_only_the_development_needs_stay_here(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("uv/cli.py", "uv-0.9.dist-info/METADATA", "uvloop/loop.py", "uvloop/loop.pyi", "uvloop/tests/test.py"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("x = 1\n")
    bring.pack(site, tmp_path / "parts", 90)
    bring.unpack(tmp_path / "parts", tmp_path / "there")
    found = {str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert found == {"uvloop/loop.py"}


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: str) -> None:
    site, parts = tmp_path / "site", tmp_path / "parts"
    site.mkdir()
    (site / "module.py").write_text("x = 1\n")
    bring.pack(site, parts, 90)
    part = parts / "000.xz"
    part.unlink() if damage == "missing" else part.write_bytes(part.read_bytes()[:-4])
    what = "No such file or directory" if damage == "missing" else "has another SHA-256 than in index.json"
    with pytest.raises(SystemExit, match=what):
        bring.unpack(parts, tmp_path / "there")

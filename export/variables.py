"""The variables of a SavedModel on disk, read without TensorFlow and without loading them into memory.

    variables/variables.index                 by key: dtype, shape, and the place of the bytes
    variables/variables.data-00000-of-00001   the bytes

The index is an uncompressed table in LevelDB's format: blocks of sorted keys, a block that lists them, and a footer.
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/util/tensor_bundle/tensor_bundle.h
https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from __future__ import annotations

import mmap
import re
import struct
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfserving.export.errors import ExportError
from tfserving.foundation.crc32c import masked_crc32c
from tfserving.foundation.files import read_bounded
from tfserving.foundation.messages import BundleEntryProto, BundleHeaderProto, TrackableObjectGraph
from tfserving.foundation.tensors import BY_NUMBER
from tfserving.foundation.varint import read_varint

INDEX = "variables/variables.index"
# An entry has about a hundred bytes.
LARGEST_INDEX = 1 << 30
_FOOTER = struct.Struct("<40sQ")
_MAGIC = 0xDB4775248B80FB57
_CHECKSUM = struct.Struct("<BI")
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# In versions of this toolkit, `used` contains the objects that the signatures use, by path in the model.
_USED = "used"
# Attributes in which Keras stores objects a second time, and attributes that a model has for its training. A path
# through one of these is less useful, and counts only if there is no other.
_STORES = {"_layers", "_operations", "_functional", "_tracked", "_variables", "_trainable_variables"}
_STORES |= {"_non_trainable_variables", "_all_variables", "variables", "trainable_variables"}
_STORES |= {"non_trainable_variables", "weights", "keras_api"}
_TRAINING = {"optimizer", "_optimizer", "_loss_tracker", "_compile_loss", "_compile_metrics", "_metrics", "metrics"}
# TensorFlow's name of a variable without a name.
NO_NAME = re.compile(r"(Variable(_\d+)?)?")


@dataclass(frozen=True)
class Variable:
    """A variable on disk.

    `key` is its key in the file, `name` its path in the model, `own_name` its name in TensorFlow. `checksum` is that of
    its bytes: different checksums mean different bytes.
    """

    key: str
    name: str
    own_name: str
    dtype: str
    shape: tuple[int, ...]
    checksum: int
    place: tuple[int, int, int]

    @property
    def content(self) -> tuple[str, tuple[int, ...], int]:
        """The properties that equal variables share, independent of their names."""
        return self.dtype, self.shape, self.checksum

    @property
    def size(self) -> int:
        """The number of its elements."""
        return prod(self.shape)


class Variables(Mapping[str, Variable]):
    """The variables of the SavedModel in a folder, by key. Empty when it has no variables.

    Use it in a `with` statement: the files are mapped, not read. Raises ExportError when they are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, mmap.mmap] = {}
        self._shards = 0
        self._all: dict[str, Variable] = {}
        path = folder / INDEX
        if not path.exists():
            return
        try:
            entries = dict(_table(read_bounded(path, LARGEST_INDEX)))
            header = BundleHeaderProto.FromString(entries.pop(b""))
            self._shards = header.num_shards
            found = {key.decode(errors="backslashreplace"): _entry(data) for key, data in entries.items()}
            graph = found.pop(_GRAPH, None)
        except (KeyError, IndexError, ValueError, struct.error, DecodeError, OSError) as error:
            raise ExportError(f"{path} is damaged, or it is not a checkpoint of TensorFlow: {error}") from None
        if header.endianness:
            raise ExportError(f"{path} was written by a big-endian machine, which this toolkit doesn't support")
        try:
            own, paths = _named(self._string(graph)) if graph else ({}, {})
        except (IndexError, DecodeError, ExportError, OSError):
            # The keys serve as names then.
            own, paths = {}, {}
        names, places = _names(found, own, paths), {key: number for number, key in enumerate(paths)}
        for key in sorted(found, key=lambda key: (places.get(key, len(places)), key)):
            self._all[key] = Variable(key, names[key], own.get(key, ""), *found[key])

    def __getitem__(self, key: str) -> Variable:
        return self._all[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __enter__(self) -> Variables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def pieces(self, variable: Variable, size: int = 1 << 24) -> Iterator[bytes]:
        """Yield the bytes of a variable, `size` at a time. Strings are preceded by their lengths."""
        yield from self._pieces(variable.place, size)

    def _pieces(self, place: tuple[int, int, int], size: int) -> Iterator[bytes]:
        shard, offset, length = place
        data = self._data(shard)
        if offset + length > len(data):
            raise ExportError(f"{self._path(shard)} is truncated")
        for start in range(offset, offset + length, size):
            yield data[start : min(start + size, offset + length)]

    def _data(self, shard: int) -> mmap.mmap | bytes:
        if shard not in self._files:
            with self._path(shard).open("rb") as file:
                if not self._path(shard).stat().st_size:
                    return b""
                self._files[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._files[shard]

    def _path(self, shard: int) -> Path:
        return self._folder / f"variables/variables.data-{shard:05d}-of-{self._shards:05d}"

    def _string(self, entry: tuple[str, tuple[int, ...], int, tuple[int, int, int]]) -> bytes:
        """Return the only element of a string tensor: a varint with its length, a checksum of four bytes, the bytes."""
        data = b"".join(self._pieces(entry[3], 1 << 24))
        length, start = read_varint(data, 0)
        return data[start + 4 : start + 4 + length]


def _entry(data: bytes) -> tuple[str, tuple[int, ...], int, tuple[int, int, int]]:
    entry = BundleEntryProto.FromString(data)
    dtype = BY_NUMBER.get(entry.dtype)
    shape = tuple(dim.size for dim in entry.shape.dim)
    return (
        dtype.name if dtype else f"type {entry.dtype}",
        shape,
        entry.crc32c,
        (entry.shard_id, entry.offset, entry.size),
    )


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table."""
    handles, magic = _FOOTER.unpack(data[-_FOOTER.size :])
    if magic != _MAGIC:
        raise ValueError("it does not end with the footer of a table")
    # The first handle points to a block that is not used here.
    _, place = read_varint(handles, 0)
    _, place = read_varint(handles, place)
    for _, handle in _block(data, handles[place:]):
        yield from _block(data, handle)


def _block(data: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of the block that a handle points to. A key is stored without its common prefix."""
    offset, place = read_varint(handle, 0)
    size, _ = read_varint(handle, place)
    block = data[offset : offset + size]
    compression, checksum = _CHECKSUM.unpack_from(data, offset + size)
    if compression:
        raise ValueError("it is compressed")
    if masked_crc32c(data[offset : offset + size + 1]) != checksum:
        raise ValueError(f"the checksum of the block at byte {offset} does not match")
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 * (restarts + 1)
    key, place = b"", 0
    while place < end:
        shared, place = read_varint(block, place)
        more, place = read_varint(block, place)
        length, place = read_varint(block, place)
        key = key[:shared] + block[place : place + more]
        place += more
        yield key, block[place : place + length]
        place += length


def _named(graph: bytes) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return the names of variables in TensorFlow, and their most useful paths in the model, by key."""
    nodes = TrackableObjectGraph.FromString(graph).nodes
    own: dict[str, str] = {}
    paths: dict[str, tuple[str, ...]] = {}
    waiting: tuple[deque[tuple[int, tuple[str, ...]]], ...] = (deque([(0, ())]), deque(), deque())
    seen: set[int] = set()
    while queue := next(filter(None, waiting), None):
        number, path = queue.popleft()
        if number in seen:
            continue
        seen.add(number)
        for attribute in nodes[number].attributes:
            own[attribute.checkpoint_key] = attribute.full_name
            paths[attribute.checkpoint_key] = path
        for child in nodes[number].children:
            steps = tuple(child.local_name.split(".")) if path == (_USED,) else (child.local_name,)
            when = max(waiting.index(queue), *map(_when, steps))
            waiting[when].append((child.node_id, (*path, *steps)))
    return own, {key: path[1:] if path[:1] == (_USED,) else path for key, path in paths.items()}


def _when(step: str) -> int:
    return 2 if step in _TRAINING else 1 if step in _STORES else 0


def _names(found: Mapping[str, Any], own: Mapping[str, str], paths: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the name to show for each variable: its path in the model, or its own name if that is more useful."""
    often = Counter(own.values())
    names = {}
    for key in found:
        path, name = paths.get(key, ()), own.get(key, "").replace("/", ".")
        shown = ".".join([*path[:-1], path[-1].lstrip("_")]) if path else _unescaped(key)
        if not path or not any(map(_when, path[:-1])) or NO_NAME.fullmatch(name):
            names[key] = shown
        else:
            names[key] = name if often[own[key]] == 1 else f"{name} ({shown})"
    return names


def _unescaped(key: str) -> str:
    """Return a key without TensorFlow's additions. In a key, a slash and a dot of a name are `.S` and `..`."""
    key = key.removesuffix(_SUFFIX).removeprefix(f"{_USED}/")
    return re.sub(r"\.[.S]", lambda found: "/" if found[0] == ".S" else ".", key)
